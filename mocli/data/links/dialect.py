"""The dialect of a link table, and what its columns mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mocli.data.features.intervals import parse_interval
from mocli.errors import InputError
from mocli.types import ModalityKind

CANONICAL = "one column a modality"
LONG = "long form"
EDGES = "edge list"
MAXFUSE = "MaxFuse protein-gene table"
SIGNAC = "Signac gene-peak table"
BEDPE = "BEDPE"
COLUMNS = "two columns"
POSITIONS = "positions"

# What the two columns are where the dialect itself says so.
DIALECT_KINDS = {
    MAXFUSE: (ModalityKind.PROT, ModalityKind.RNA),
    SIGNAC: (ModalityKind.RNA, ModalityKind.ATAC),
    BEDPE: (ModalityKind.RNA, ModalityKind.ATAC),
}

_PROTEIN_WORDS = ("protein name", "protein", "antigen")
_GENE_WORDS = ("rna name", "gene name", "gene symbol", "hgnc symbol", "gene")
_ENDS = (("source", "target"), ("from", "to"), ("a", "b"), ("1", "2"))
_NAMED_PAIR = re.compile(r"<(.+?)><(.+)>")
_INDEX = re.compile(r"[\s_.-]+index$", re.IGNORECASE)

Cells = list[str]


@dataclass(frozen=True)
class TableLayout:
    """Column numbers of one table; -1 where it has no such column.

    Attributes:
        has_header: Whether the first row is a header and nothing else.
        is_score: Whether `weight` is a score whose meaning is the other tool's.
        by_index: Whether features are given by their positions, which only the header can say.
    """

    dialect: str
    source: int = 0
    target: int = 1
    source_modality: int = -1
    target_modality: int = -1
    weight: int = -1
    sign: int = -1
    has_header: bool = True
    is_score: bool = False
    by_index: bool = False


def _words(cells: Cells) -> Cells:
    return [re.sub(r"[\s_.-]+", " ", cell).strip().casefold() for cell in cells]


def _find(words: Cells, *among: str) -> int:
    return next((words.index(word) for word in among if word in words), -1)


def _find_ends(words: Cells, what: str) -> tuple[int, int]:
    """Return the columns of both ends' `feature`, `modality` or `index`: `source_feature`, `feature_b`."""
    for ends in _ENDS:
        first, second = (_find(words, f"{end} {what}", f"{what} {end}", f"{what}{end}") for end in ends)
        if min(first, second) >= 0:
            return first, second
    return -1, -1


def _is_bedpe(cells: Cells) -> bool:
    return len(cells) >= 6 and all(cells[k].isdecimal() for k in (1, 2, 4, 5)) and cells[0] != ""


def without_index(cell: str) -> str:
    """Return the modality that the header of a column of positions names: `rna` of `rna_index`."""
    return _INDEX.sub("", cell.strip())


def _position_layout(words: Cells, weight: int, sign: int) -> TableLayout | None:
    """Return the layout of a header that announces positions, or None."""
    source, target = _find_ends(words, "index")
    modalities = _find_ends(words, "modality")
    if min(source, target, *modalities) >= 0:
        return TableLayout(LONG, source, target, *modalities, weight, sign, by_index=True)
    if len(words) > 1 and all(word.endswith(" index") for word in words[:2]):
        return TableLayout(POSITIONS, weight=weight, sign=sign, by_index=True)
    return None


def _named_layout(words: Cells) -> TableLayout | None:
    """Return the layout of a header that names its dialect, or None."""
    weight, sign = _find(words, "weight"), _find(words, "sign")
    by_position = _position_layout(words, weight, sign)
    if by_position is not None:
        return by_position
    source, target = _find_ends(words, "feature")
    if min(source, target) >= 0:
        modalities = _find_ends(words, "modality")
        dialect = LONG if min(modalities) >= 0 else EDGES
        return TableLayout(
            dialect, source, target, *(modalities if dialect == LONG else (-1, -1)), weight, sign
        )
    source, target = _find(words, "source"), _find(words, "target")
    if min(source, target) >= 0:
        return TableLayout(EDGES, source, target, weight=weight, sign=sign)
    if words and words[0] in {"chrom1", "chr1"} and len(words) >= 6 and words[3] in {"chrom2", "chr2"}:
        return _bedpe_layout(len(words), has_header=True)
    gene, peak = _find(words, *_GENE_WORDS), _find(words, "peak")
    if min(gene, peak) >= 0:
        score = _find(words, "score") if weight < 0 else -1
        return TableLayout(SIGNAC, gene, peak, weight=max(weight, score), sign=sign, is_score=score >= 0)
    protein = _find(words, *_PROTEIN_WORDS)
    if min(gene, protein) >= 0:
        return TableLayout(MAXFUSE, protein, gene, weight=weight, sign=sign)
    return None


def _bedpe_layout(n_columns: int, *, has_header: bool) -> TableLayout:
    score = 7 if n_columns > 7 else -1
    return TableLayout(BEDPE, 6, 0, weight=score, has_header=has_header, is_score=True)


def recognise(header: Cells) -> TableLayout:
    """Recognise a table's layout from its first row.

    A header whose first two cells are words for modalities is canonical; words
    with `_index` behind them announce positions of features, which are never
    guessed from numbers, as numbers may be names. Any
    other pair of words is left open (`two columns`): they may be the user's own
    names of modalities, labels that mean nothing here, or the first link of a
    table without header; only the loaded data can tell.
    """
    from mocli.data.files.kinds import kind_of

    words = _words(header)
    named = _named_layout(words)
    if named is not None:
        return named
    if _is_bedpe(header):
        return _bedpe_layout(len(header), has_header=False)
    names_kinds = all(kind_of(cell) is not ModalityKind.OTHER for cell in header[:2])
    weight, sign = _find(words, "weight"), _find(words, "sign")
    if not names_kinds and weight < 0 and sign < 0 and len(header) > 2 and _is_number(header[2]):
        weight, sign = 2, 3 if len(header) > 3 and _is_number(header[3]) else -1
    return TableLayout(CANONICAL if names_kinds else COLUMNS, weight=weight, sign=sign)


def names_dialect(header: Cells) -> bool:
    """Say whether a row is certainly a header; this tells a header behind `#` from a comment."""
    layout = recognise(header) if len(header) > 1 else TableLayout(COLUMNS)
    return layout.has_header and layout.dialect != COLUMNS


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def bedpe_names(rows: list[Cells], lines: list[int], *, file: str) -> tuple[Cells, Cells]:
    """Gene and peak of each BEDPE row; both empty where a row links no gene to a peak.

    The name column holds the gene and the first interval is the peak. Names of the form `<one><other>`, as
    10x writes them, say which is which.

    Raises `InputError` if a row has no name column.
    """
    genes, peaks = [], []
    for row, line in zip(rows, lines, strict=True):
        if len(row) < 7:
            raise InputError(
                "a BEDPE row does not name a gene",
                file=file,
                field=f"line {line}",
                found=f"{len(row)} columns",
                expected="chrom1 start1 end1 chrom2 start2 end2 name, the name being the gene's",
            )
        gene, peak = row[6], f"{row[0]}:{row[1]}-{row[2]}"
        both = _NAMED_PAIR.fullmatch(gene)
        if both is not None:
            one, other = both.groups()
            is_peak = parse_interval(one) is not None, parse_interval(other) is not None
            gene, peak = (other, one) if is_peak[0] else (one, other)
            if is_peak[0] == is_peak[1]:
                gene = peak = ""
        genes.append(gene)
        peaks.append(peak)
    return genes, peaks
