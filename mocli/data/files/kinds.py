"""What a modality measures: from its name, its feature types, its feature names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mocli.types import ModalityKind

_ALIASES: dict[ModalityKind, str] = {
    ModalityKind.RNA: (
        "rna gex gene genes expression gene_expression geneexpression mrna scrna snrna rnaseq scrnaseq "
        "snrnaseq transcriptome transcriptomics"
    ),
    ModalityKind.PROT: (
        "prot protein proteins adt adts antibody antibodies antibody_capture antibodycapture cite abc "
        "surface_protein proteomics"
    ),
    ModalityKind.ATAC: (
        "atac peak peaks accessibility chromatin chromatin_accessibility scatac snatac atacseq scatacseq "
        "snatacseq gene_activity geneactivity"
    ),
    ModalityKind.CYTO: "cyto cytof codex imc cytometry mass_cytometry flow_cytometry",
    ModalityKind.METHYL: "methyl meth methylation methylome 5mc mc dna_methylation",
}
_KIND = {alias: kind for kind, aliases in _ALIASES.items() for alias in aliases.split()}
ASIDE = frozenset(
    {"crispr_guide_capture", "crispr", "guide", "guides", "grna", "sgrna", "gdo", "multiplexing_capture"}
    | {"multiplexing", "hto", "htos", "hashtag", "hashtags", "hashing", "cell_hashing", "cmo", "cmos"}
)
"""Modalities that mark the sample or guide of a cell and do not measure the cell itself."""

_HASHTAG = re.compile(
    r"(?:^|[-_. ])(?:hash[-_ ]?tag|hto(?=[-_ ]|\d|$)|cmo(?=\d)|cell[-_ ]?hashing)", re.IGNORECASE
)
# words that also name a data set or a method, so a clearer word in the same file name outvotes them
_WEAK = frozenset({"gene", "genes", "expression", "cite", "abc", "meth", "mc", "cyto", "chromatin"})

_REGION = re.compile(r"^(chr)?[A-Za-z0-9.]+[:_-]\d+[-_]\d+$")
_GENE_ID = re.compile(r"^(ENS[A-Z]*G\d{6,}(\.\d+)?|FBgn\d+|WBGene\d+)$")
# Transcripts found in nearly every RNA table and in no antibody panel
_TRANSCRIPT = re.compile(
    r"^(RP[LS]\d+[A-Z0-9]*|RPLP[012]|MT-[A-Z0-9]+|MALAT1|NEAT1|XIST|LINC\d+|GAPDH|ACTB|EEF1[AB]\d|TMSB\d+X?|FTL|FTH1|"
    r"IFITM?\d+|IFIT\d|ISG15|HSPA\d\w*|HSP90\w+|FOS|JUNB?|STMN1|TUBA1B|HIST\w+|TYROBP|S100A\d+|SNAP25|MEG3|"
    r"\d{7}[A-Z]\d{2}RIK|[A-Z]{2}\d{6}\.\d+)$",
    re.IGNORECASE,
)


_SPECIES = re.compile(r"^(?:GRCh3[78]|hg19|hg38|GRCm3[89]|mm9|mm10|mm39|dm6|danRer11)_+")
"""The prefix that Cell Ranger gives the genes of each species where there are several."""


def without_species(name: str) -> str:
    """Return a gene's name without the genome that Cell Ranger puts before it where there are several."""
    return _SPECIES.sub("", name)


def kind_of(name: str) -> ModalityKind:
    """Kind that a modality's name or alias stands for; `OTHER` when it stands for none."""
    return _KIND.get(_slug(name), ModalityKind.OTHER)


def is_aside(name: str) -> bool:
    """Say whether a modality holds hashtags or guides, which label cells and do not measure them."""
    return _slug(name) in ASIDE


def is_hashtag(feature: str) -> bool:
    """Whether the name of an antibody says that it is a hashtag."""
    return _HASHTAG.search(feature) is not None


def feature_type_name(feature_type: str) -> str:
    """Modality name for a value of `var['feature_types']`: `Gene Expression` gives `rna`."""
    kind = kind_of(feature_type)
    return _slug(feature_type) or "other" if kind is ModalityKind.OTHER else kind.value


def name_in_stem(stem: str) -> str | None:
    """Modality named by a file's stem, None when no word or several of them name one.

    A stem that is an alias as a whole is the user's own name and kept
    (`adt.h5ad` gives `adt`); else the words are looked at (`pbmc_adt87` gives `prot`).
    """
    if kind_of(stem) is not ModalityKind.OTHER:
        return stem
    hits = _words(stem) & _KIND.keys()
    for among in (hits - _WEAK, hits):
        kinds = {_KIND[w] for w in among}
        if len(kinds) == 1:
            return kinds.pop().value
        if kinds:
            return None
    return None


def may_hold_genes(stem: str) -> bool:
    """Whether a file may hold genes for all that its stem tells of modalities.

    So it is of words that also name a method (`cite`), and of proteins among other words, which may be what
    the genes were measured with (`rna5k_29adt`). A stem that is an alias as a whole is the user's own word.
    """
    told = _words(stem) & _KIND.keys()
    panels = {ModalityKind.PROT, ModalityKind.CYTO}
    return told <= _WEAK or (kind_of(stem) not in panels and {_KIND[w] for w in told} <= panels)


def _words(stem: str) -> set[str]:
    return {w.strip("0123456789") or w for w in re.split(r"[^a-z0-9]+", stem.casefold())}


def kind_of_features(names: Sequence[str]) -> ModalityKind:
    """Kind suggested by feature names: genome regions are ATAC, transcripts RNA, the rest `OTHER`."""
    if len(names) == 0:
        return ModalityKind.OTHER
    names = [_SPECIES.sub("", str(name)) for name in names]
    spread = [str(names[i]) for i in np.linspace(0, len(names) - 1, min(200, len(names))).astype(int)]
    if _share(_REGION, spread) > 0.8:
        return ModalityKind.ATAC
    if _share(_GENE_ID, spread) > 0.5:
        return ModalityKind.RNA
    transcripts = sum(_TRANSCRIPT.match(str(n)) is not None for n in names[:60000])
    return ModalityKind.RNA if transcripts >= 3 else ModalityKind.OTHER


def naming_hint(features: Iterable[str], wanted: Iterable[str], whose: str) -> str | None:
    """Say why two sets of features share so few names, where a change of spelling explains it.

    Args:
        features, wanted: Names that are, and names as they should be.
        whose: What has the latter, for the message.
    """
    feature_names, wanted_names = list(map(str, features)), list(map(str, wanted))
    plain = len(set(feature_names) & set(wanted_names))

    def shared(change: Callable[[str], str]) -> bool:
        changed = len(set(map(change, feature_names)) & set(map(change, wanted_names)))
        return changed > max(min(len(feature_names), len(wanted_names)) / 2, 2 * plain)

    if shared(str.upper):
        return f"the names differ in upper and lower case: write them as in {whose}"
    if shared(lambda n: n.split(".")[0]):
        return "the names differ in the version suffix (.1): cut it off"
    ensembl = [
        sum(n.startswith("ENS") for n in names[:200]) > min(100, len(names) / 2)
        for names in (feature_names, wanted_names)
    ]
    if ensembl[0] != ensembl[1]:
        return f"one side has Ensembl ids, the other symbols: rename var_names to those of {whose}"
    return None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_")


def _share(pattern: re.Pattern[str], names: Iterable[str]) -> float:
    return float(np.mean([pattern.match(n) is not None for n in names]))
