"""How people write the names of antigens: marks of kits and tools, clones, phosphorylation, isotypes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# How a name was read, in the order of trust.
AS_WRITTEN = "as written"
UNDECORATED = "without the marks of kits and tools"
ONE_OF_SEVERAL = "by one of the names it holds"
PHOSPHO = "as the phosphorylated form"
WITHOUT_CLONE = "without its last part, taken for a clone or a number"

_GREEK = {
    "alpha": "a",
    "beta": "b",
    "gamma": "g",
    "delta": "d",
    "epsilon": "e",
    "zeta": "z",
    "theta": "q",
    "kappa": "k",
    "lambda": "l",
}
_LETTERS = str.maketrans("αβγδεζθκλ", "abgdezqkl")
_GREEK_WORD = re.compile("|".join(_GREEK))

# the metals of mass cytometry
_METAL = r"(?:Y|Rh|Pd|Ag|Cd|In|La|Ce|Pr|Nd|Sm|Eu|Gd|Tb|Dy|Ho|Er|Tm|Yb|Lu|Ir|Pt|Bi)"
_PREFIX = re.compile(
    r"(?:(?:prot|protein|adt|cite|cell[._ ]surface)[-_:]|ab_|[a-z]0\d{3}[-_. ]"  # modality, catalogue number
    r"|anti[-_. ]*(?=human|mouse|rat[^a-z])|anti[-_. ]+|(?:human|mouse|rat|hu|ms|rt)+[/_.& -]+"  # target
    rf"|\d{{2,3}}{_METAL}(?:di)?[-_. ]+)",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"(?:[-_. ](?:total-?seq(?:[-_ ]?[abcd])?|prot|protein|adt|antibody)"
    r"|[-_.][ACGT]{9,}|[-_. ][A-Z]0\d{3}"  # barcode, catalogue number
    rf"|[-_. ]*\({_METAL}\d{{2,3}}\)di|[-_. ]+\d{{2,3}}{_METAL}(?:di)?)$",
    re.IGNORECASE,
)
_HOST = re.compile(r"mouse|rat|ms|rt", re.IGNORECASE)
_RECOMBINANT = re.compile(r"[-_. ]*recombinant$", re.IGNORECASE)
_SITE = r"(?:p?(?:[STY]|Ser|Thr|Tyr))-?\d{2,4}"
_SITES = re.compile(
    rf"[-_. ]*[\[(]?\s*{_SITE}(?:\s*[-/_,+]\s*(?:{_SITE}|\d{{2,4}}))*\s*[\])]?$", re.IGNORECASE
)
_PHOSPHO = re.compile(r"(?i:phospho)[-_. ]*(?=\w)|p(?:[-_. ]+|(?=[A-Z0-9]|p\d))", re.ASCII)
_BRACKETS = re.compile(r"\s*[(\[]([^()\[\]]*)[)\]]\s*")
_SEVERAL = re.compile(r"\s*[/;,|]\s*")
_LAST_PART = re.compile(r"[-_. ]+[^-_. ]*$")
# a ligand or a receptor is not the antigen whose name it extends
_OTHER_PROTEIN = re.compile(r"(?:[a-z]?l|lg|[a-z]?r\d?[abg]?|ligand|receptor|like|[vj][abgd]?\d.*)$")

_IG = r"ig[-_. ]?(?:g[-_. ]?\d?[-_. ]?[abc]?|m|a|d|e)"
_CONTROL = re.compile(
    rf"""isotype | \biso[-_. ]?(?:ctrl|control)
    | ^(?:(?:armenian|syrian|golden)[-_. ]*)?(?:mouse|rat|hamster|rabbit|goat|sheep|ms|rt)[-_. ]*{_IG}
    # without a host: the classes that the antibodies of panels have
    | ^ig[-_. ]?g[-_. ]?(?:1|2[-_. ]?[abc])
      (?:$|[-_., ]*(?:k|kappa|κ|l|lambda|λ|ctrl|control|fc)?(?:$|[-_., (]))
    | \b(?:mopc[-_. ]?\d+|mpc[-_. ]?11|rtk[-_. ]?\d{{4}}|htk[-_. ]?888)\b
    | ^(?:anti[-_. ]*)?(?:(?:human|mouse|hu|ms)[-_. ]+)?(?:hash[-_ ]?tag|hto|cell[-_ ]?hashing)""",
    re.IGNORECASE | re.VERBOSE,
)


def key(text: str) -> str:
    """Return what stays the same however an antigen is written.

    Case, separators and the way Greek letters are spelled do not count, but two
    numbers stay apart: `CD3-1` is not `CD31`.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_LETTERS)
    folded = _GREEK_WORD.sub(lambda match: _GREEK[match[0]], folded)
    separated = re.sub(r"(?<=\d)[^0-9a-z]+(?=\d)", "\0", folded)
    return re.sub(r"[^0-9a-z\0]", "", separated).replace("\0", ".")


def is_control(name: str) -> bool:
    """Whether a feature is an isotype control or a hashtag, which no gene answers to."""
    return _CONTROL.search(_strip(name, species=False)) is not None


def readings(name: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the ways to read a name, best first.

    Yields:
        Names that the feature may have, and how they were got. Those of one reading stand beside each other
        (`B7-H1 (PD-L1)` has two) and are equally good.
    """
    yield (name,), AS_WRITTEN
    bare = _strip(name)
    yield (bare,), UNDECORATED
    several = _in_brackets(bare)
    yield several, ONE_OF_SEVERAL
    plain = [stripped for text in (bare, *several) if (stripped := _unphosphorylated(text)) is not None]
    yield tuple(plain), PHOSPHO
    for text in (bare, *several):
        shorter = text
        while (cut := _LAST_PART.search(shorter)) is not None and cut.start() > 1:
            if _OTHER_PROTEIN.match(key(cut[0])):
                break
            shorter = shorter[: cut.start()]
            yield (shorter,), WITHOUT_CLONE


def pieces(name: str) -> tuple[str, ...]:
    """Cut a name at slashes and the like; a short piece is also tried as the end of the first one.

    `CD66a/c` gives `CD66a` and `CD66c`. A name that cannot be cut gives nothing.
    """
    parts = [part for part in _SEVERAL.split(_strip(name)) if part]
    if len(parts) < 2:
        return ()
    first = parts[0]
    whole = [first[: -len(p)] + p if len(p) <= 2 and len(p) < len(first) else p for p in parts[1:]]
    return (first, *whole)


def _strip(name: str, *, species: bool = True) -> str:
    """Remove marks before and after a name, as often as there are some."""
    text = name.strip()
    while True:
        shorter = _RECOMBINANT.sub("", _SUFFIX.sub("", text))
        match = _PREFIX.match(shorter)
        if match is not None and (species or _HOST.match(match[0]) is None):
            shorter = shorter[match.end() :]
            species = species or match[0][:4].casefold() == "anti"
        if shorter == text or len(shorter) < 2:
            return text
        text = shorter


def _in_brackets(text: str) -> tuple[str, ...]:
    inside = [part.strip() for part in _BRACKETS.findall(text)]
    if not inside:
        return ()
    outside = _strip(_BRACKETS.sub(" ", text).strip())
    return tuple(part for part in (outside, *inside) if len(part) > 1)


def _unphosphorylated(text: str) -> str | None:
    without_site = _SITES.sub("", text)
    match = _PHOSPHO.match(without_site)
    if match is not None:
        return without_site[match.end() :]
    return without_site if without_site != text and len(without_site) > 1 else None
