"""Proteins by name: how people write antigens, and links to the genes of those antigens."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import takewhile

import numpy as np

from mocli.data.features.index import FeatureIndex, Features, Miss, Proposal
from mocli.errors import nearest, some
from mocli.types import IntArray

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


TABLE = "antigens.tsv"

Gene = tuple[str, ...]  # the symbol, then former ones


@dataclass(frozen=True)
class Antigen:
    """One row of the packaged table.

    Attributes:
        genes: The genes of the chains, each its symbol and former symbols; none where no single gene makes
            the antigen.
        mouse: The mouse genes, empty where they are the human symbols written as in mouse.
    """

    name: str
    genes: tuple[Gene, ...]
    mouse: tuple[Gene, ...] = ()

    def genes_of(self, *, mouse: bool) -> tuple[Gene, ...]:
        """Return the genes of human or mouse."""
        return self.mouse or self.genes if mouse else self.genes


@dataclass(frozen=True)
class Meaning:
    """What the name of a protein stands for.

    Attributes:
        antigens: Empty for controls, for names found nowhere, and where `symbol` is set; several for a
            complex written as `A/B`.
        symbol: The name is a gene's symbol in the data and stands for itself.
        how: How the name was read, in words of `antigenname`; "" if it was not found.
        is_control: An isotype control or a hashtag.
    """

    antigens: tuple[Antigen, ...] = ()
    symbol: str | None = None
    how: str = ""
    is_control: bool = False

    @property
    def identity(self) -> str | None:
        """The same for two names of one antigen, None where nothing is known."""
        names = [antigen.name for antigen in self.antigens] or ([self.symbol] if self.symbol else [])
        return "/".join(names) or None

    def genes(self, *, mouse: bool = False) -> tuple[Gene, ...]:
        """Return the genes, each once; a symbol is its own gene."""
        if self.symbol is not None:
            return ((self.symbol,),)
        return tuple(dict.fromkeys(g for a in self.antigens for g in a.genes_of(mouse=mouse)))


class AntigenTable:
    """Looks up what the names of proteins stand for.

    `antigens`: rows with their aliases. Where two rows claim one name, `ValueError`; a gene's symbol is a
    name of the first row that has it as its only gene.
    """

    def __init__(self, antigens: Iterable[tuple[Antigen, Iterable[str]]]) -> None:
        rows = [(antigen, tuple(aliases)) for antigen, aliases in antigens]
        self._by_key: dict[str, Antigen] = {}
        self._spelling: dict[str, str] = {}
        for antigen, aliases in rows:
            for name in (antigen.name, *aliases):
                if self._by_key.setdefault(key(name), antigen) is not antigen:
                    raise ValueError(f"{name} is both {antigen.name} and {self._by_key[key(name)].name}")
                self._spelling.setdefault(key(name), name)
        for antigen, _ in rows:
            for symbol in antigen.genes[0] if len(antigen.genes) == 1 else ():
                self._by_key.setdefault(key(symbol), antigen)

    def __len__(self) -> int:
        return len(set(self._by_key.values()))

    def find(self, name: str, *, is_gene: Callable[[str], bool] = lambda _: False) -> Meaning:
        """Say what a protein's name stands for.

        A name that is a gene's symbol in the data, as it stands, is that gene.
        Else the table is asked, for each way to read the name.

        `is_gene`: whether a text is a gene's symbol in the data.
        """
        if is_control(name):
            return Meaning(is_control=True)
        ways = list(readings(name))
        sure = list(takewhile(lambda way: way[1] != WITHOUT_CLONE, ways))
        for names, how in sure:
            if (meaning := self._one(names, how, is_gene)) is not None:
                return meaning
        if (meaning := self._several(name, is_gene)) is not None:
            return meaning
        for names, how in ways[len(sure) :]:
            if (meaning := self._one(names, how, is_gene)) is not None:
                return meaning
        return Meaning()

    def nearest(self, name: str) -> str | None:
        """Return the known name most like one."""
        close = nearest(key(name), self._spelling, 1)
        return self._spelling[close[0]] if close else None

    def _one(self, names: Iterable[str], how: str, is_gene: Callable[[str], bool]) -> Meaning | None:
        """Return what the most specific of equally good names stands for."""
        antigens = []
        for name in names:
            if is_gene(name):
                return Meaning(symbol=name, how=how)
            antigen = self._by_key.get(key(name))
            if antigen is not None:
                antigens.append(antigen)
        if not antigens:
            return None
        # 'MHCII (HLA-DR)': HLA-DR says more
        narrower = [a for a in antigens[1:] if a.genes and set(a.genes) < set(antigens[0].genes)]
        return Meaning((narrower[0] if narrower else antigens[0],), how=how)

    def _several(self, name: str, is_gene: Callable[[str], bool]) -> Meaning | None:
        """Return what the pieces of `A/B` stand for together."""
        parts = pieces(name)
        antigens = [a for part in parts if (a := self._by_key.get(key(part))) is not None]
        if antigens:
            return Meaning(tuple(dict.fromkeys(antigens)), how=ONE_OF_SEVERAL)
        return next((Meaning(symbol=part, how=ONE_OF_SEVERAL) for part in parts if is_gene(part)), None)


@cache
def antigen_table() -> AntigenTable:
    """Read the packaged table, once."""
    text = files("mocli.data").joinpath(TABLE).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    header, *rows = (line.split("\t") for line in lines)
    return AntigenTable(_antigen(dict(zip(header, row, strict=True))) for row in rows)


def _antigen(row: Mapping[str, str]) -> tuple[Antigen, tuple[str, ...]]:
    antigen = Antigen(row["antigen"], _genes(row["genes"]), _genes(row["mouse"]))
    return antigen, tuple(alias for alias in row["aliases"].split(";") if alias)


def _genes(text: str) -> tuple[Gene, ...]:
    return tuple(tuple(gene.split("|")) for gene in text.split(";") if gene)


_MOUSE = re.compile(r"[A-Z][a-z]+[a-z0-9-]*|ENSMUSG\d+(\.\d+)?", re.ASCII)
_TRUSTED = frozenset({"exact", "alias", "case", "version"})


def is_mouse(names: Sequence[str]) -> bool:
    """Whether genes are named as in mouse: `Cd4`, not `CD4`."""
    sample = [names[k] for k in np.linspace(0, len(names) - 1, min(2000, len(names))).astype(int)]
    return 3 * sum(_MOUSE.fullmatch(name) is not None for name in sample) > len(sample)


def link_genes(proteins: Features, genes: FeatureIndex) -> Proposal:
    """Link proteins to the genes of their antigens.

    A protein named as a gene of the data is that gene; else the packaged table
    is asked. The n genes of an antigen that are in the data have weight 1/n.
    Isotype controls and hashtags are left out.

    Returns:
        Proteins as source, genes as target.
    """
    table = antigen_table()
    gene_names = frozenset(genes.features.names)
    # columns of var that hold names, not classes
    columns = [c for c in genes.features.aliases.values() if 2 * len(set(c)) > len(c)]
    mouse = any(is_mouse(column) for column in (genes.features.names, *columns))
    rows: list[tuple[int, int, float]] = []
    failed: list[Miss] = []
    meanings = [table.find(name, is_gene=gene_names.__contains__) for name in proteins.names]
    for k, (name, meaning) in enumerate(zip(proteins.names, meanings, strict=True)):
        wanted = meaning.genes(mouse=mouse) or _as_symbol(name, meaning, genes)
        linked = dict.fromkeys(p for gene in wanted if (p := _position(gene, genes)) is not None)
        rows += [(k, position, 1 / len(linked)) for position in linked]
        if not linked and not meaning.is_control:
            failed.append(_miss(proteins, name, meaning, wanted, genes.features.modality))
    source, target, weight = zip(*rows, strict=True) if rows else ((), (), ())
    return Proposal(
        np.array(source, dtype=np.int64),
        np.array(target, dtype=np.int64),
        np.array(weight, dtype=np.float64),
        tuple(failed),
        _notes(proteins, meanings),
    )


def link_panels(a: Features, b: Features) -> Proposal:
    """Link the proteins of two panels that are the same antigen, however each is called."""
    table = antigen_table()
    meanings = [[table.find(name) for name in features.names] for features in (a, b)]
    of_b: dict[str, list[int]] = defaultdict(list)
    for k, (name, meaning) in enumerate(zip(b.names, meanings[1], strict=True)):
        if not meaning.is_control:
            of_b[_identity(name, meaning)].append(k)
    pairs = [
        (k, other)
        for k, (name, meaning) in enumerate(zip(a.names, meanings[0], strict=True))
        if not meaning.is_control
        for other in of_b.get(_identity(name, meaning), ())
    ]
    source = np.array([k for k, _ in pairs], dtype=np.int64)
    target = np.array([k for _, k in pairs], dtype=np.int64)
    failed = [
        Miss(one.modality, name, f"not in {other.modality}")
        for one, other, linked, known_meanings in (
            (a, b, set(source.tolist()), meanings[0]),
            (b, a, set(target.tolist()), meanings[1]),
        )
        for k, (name, meaning) in enumerate(zip(one.names, known_meanings, strict=True))
        if k not in linked and not meaning.is_control
    ]
    notes = (*_notes(a, meanings[0]), *_notes(b, meanings[1]))
    return Proposal(source, target, np.ones(len(source)), tuple(failed), notes)


def same_antigens(
    positions: IntArray, wanted: Features, own: Features
) -> tuple[IntArray, list[tuple[str, str]]]:
    """Find proteins that were not found by name by the antigen, however it is called.

    An antigen counts that one protein of either panel has.

    Args:
        positions: Among `own` of each protein that is wanted, -1 for none, `(n_wanted,)`.

    Returns:
        The positions, and pairs of the name wanted and the name of the protein found by its antigen.
    """
    same = link_panels(wanted, own)
    once = [np.bincount(side, minlength=1)[side] == 1 for side in (same.source, same.target)]
    is_new = once[0] & once[1] & (positions[same.source] < 0) & ~np.isin(same.target, positions)
    positions = positions.copy()
    positions[same.source[is_new]] = same.target[is_new]
    pairs = zip(same.source[is_new].tolist(), same.target[is_new].tolist(), strict=True)
    return positions, [(wanted.names[k], own.names[other]) for k, other in pairs]


def _identity(name: str, meaning: Meaning) -> str:
    return meaning.identity or name.casefold()


def _as_symbol(name: str, meaning: Meaning, genes: FeatureIndex) -> tuple[Gene, ...]:
    """Take a name that the table does not know for a gene's, if the data have it in another spelling."""
    if meaning.identity is None and not meaning.is_control and genes.find(name)[0] >= 0:
        return ((name,),)
    return ()


def _position(gene: Gene, genes: FeatureIndex) -> int | None:
    """Position of a gene by its symbol or, where that is absent, a former one."""
    for symbol in gene:
        position, how = genes.find(symbol)
        if position >= 0 and how in _TRUSTED:
            return position
    return None


def _miss(proteins: Features, name: str, meaning: Meaning, wanted: Sequence[Gene], modality: str) -> Miss:
    if wanted:
        symbols = some((gene[0] for gene in wanted), 4)
        return Miss(proteins.modality, name, f"no gene of theirs is in {modality}", symbols)
    if meaning.identity is not None:
        return Miss(proteins.modality, name, "no single gene makes the antigen", meaning.identity)
    nearest = antigen_table().nearest(name)
    return Miss(
        proteins.modality, name, "the antigen is not known", f"nearest: '{nearest}'" if nearest else ""
    )


def _notes(proteins: Features, meanings: Iterable[Meaning]) -> tuple[str, ...]:
    read: dict[str, list[tuple[str, str]]] = defaultdict(list)
    controls = []
    for name, meaning in zip(proteins.names, meanings, strict=True):
        if meaning.is_control:
            controls.append(name)
        elif meaning.identity is not None and meaning.how != AS_WRITTEN:
            read[meaning.how].append((name, meaning.identity))
    notes = []
    for how, pairs in read.items():
        examples = some((f"'{name}' is {identity}" for name, identity in pairs), 3)
        notes.append(f"{proteins.modality}: {len(pairs):,} names read {how}: {examples}")
    if controls:
        shown = some(controls, 5)
        notes.append(f"{proteins.modality}: {len(controls):,} isotype controls or hashtags left out: {shown}")
    return tuple(notes)
