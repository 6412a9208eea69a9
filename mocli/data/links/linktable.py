"""Link tables: their dialects, and reading them from bytes to rows to one frame."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mocli.data.features.intervals import parse_interval
from mocli.data.files.text import text_lines
from mocli.errors import InputError
from mocli.types import DoubleArray, ModalityKind

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


_EXPECTED = "a header naming two modalities, e.g. 'rna<TAB>prot', then one link a line"
_BLANK = frozenset({"", ".", "na", "n/a", "nan", "none"})
_SIGNS = {"": 1.0, "1": 1.0, "+1": 1.0, "+": 1.0, "1.0": 1.0, "-1": -1.0, "-": -1.0, "-1.0": -1.0, "−1": -1.0}


@dataclass(frozen=True, eq=False)
class LinkTable:
    """One link table as written, before it meets any data.

    Attributes:
        dialect: In words.
        frame: TableLayout `source_modality`, `source_feature`, `target_modality`, `target_feature`, `weight`
            (>= 0) and `sign` (+1 or -1). Modalities are None where the dialect does not say; cells with
            several names are kept whole, since a name with a `/` may exist in the data.
        notes: What was left out or assumed on reading, for the log.
        first_row: A table without header: its first row as a link, to be used if both names are found; else
            None.
        n_repeated: Rows left out since the same row stands before them.
        by_index: Whether the features are positions, counted from 0, and no names.
        lines: Numbers of the rows' lines in the file, where they are positions.
    """

    path: str
    dialect: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    first_row: pd.DataFrame | None = None
    n_repeated: int = 0
    by_index: bool = False
    lines: tuple[int, ...] = ()


@dataclass
class _Rows:
    """The table's cells, with their line numbers in the file."""

    cells: list[Cells]
    lines: list[int]


def read_links(path: str | Path) -> LinkTable:
    """Read a link table in any of the accepted dialects.

    `path`: TSV or CSV, plain or gzipped; `-` is standard input. Raises `InputError` if the file is missing,
    not text, empty or only a header, or if a row is too short or has an invalid weight or sign; the error
    names the line.
    """
    file = "standard input" if str(path) == "-" else str(path)
    rows = _split(path, file=file)
    layout = recognise(rows.cells[0])
    first = rows.cells[0]
    if layout.has_header:
        rows = _Rows(rows.cells[1:], rows.lines[1:])
    if not rows.cells:
        raise InputError(
            "the link table has a header but no links", file=file, found="\t".join(first), expected=_EXPECTED
        )
    frame, notes = _frame(layout, rows, header=first, file=file)
    repeated = frame.duplicated()
    if repeated.any():
        notes = (*notes, f"{repeated.sum():,} repeated rows are counted once")
        frame = frame[~repeated]
    lines = tuple(rows.lines[k] for k in frame.index) if layout.by_index else ()
    frame = frame.reset_index(drop=True)
    n_repeated = int(repeated.sum())
    first_row = _first_row(layout, first)
    return LinkTable(file, layout.dialect, frame, notes, first_row, n_repeated, layout.by_index, lines)


def _split(path: str | Path, *, file: str) -> _Rows:
    """Cut a text into cells; comments and blank lines go, a header behind `#` stays."""
    numbered = [(k, line) for k, line in text_lines(path, "the link table") if line.strip(" \t,;")]
    content = [(k, line) for k, line in numbered if not line.startswith("#")]
    if not content:
        raise InputError("the link table is empty", file=file, expected=_EXPECTED)
    before = [(k, line) for k, line in numbered if k < content[0][0]]
    delimiter = next((d for d in "\t,;" if d in content[0][1]), "\t")
    if before and not names_dialect(content[0][1].split(delimiter)):
        header = before[-1][1].lstrip("# ")
        content = [(before[-1][0], header), *content] if names_dialect(header.split(delimiter)) else content
    reader = csv.reader((line for _, line in content), delimiter=delimiter, skipinitialspace=True)
    cells, lines = [], []
    try:
        for row in reader:
            cells.append([cell.strip() for cell in row])
            lines.append(content[reader.line_num - 1][0])
    except csv.Error as error:
        raise InputError("the link table cannot be split into columns", file=file, found=error) from error
    if len(cells[0]) < 2:
        spaced = len(cells[0][0].split()) > 1
        raise InputError(
            "a link table needs at least two columns",
            file=file,
            field=f"line {lines[0]}",
            found=repr(cells[0][0]),
            expected=_EXPECTED,
            hint="separate the columns by tabs, not by spaces" if spaced else None,
        )
    return _without_row_names(_Rows(cells, lines))


def _without_row_names(rows: _Rows) -> _Rows:
    """Drop the column of row names that R and pandas write before the first."""
    width = len(rows.cells[0])
    if rows.cells[0][0] == "" and width > 2:
        rows.cells = [cells[1:] for cells in rows.cells]
    elif len(rows.cells) > 1 and all(len(cells) == width + 1 for cells in rows.cells[1:]):
        rows.cells = [rows.cells[0], *(cells[1:] for cells in rows.cells[1:])]
    return rows


def _frame(
    layout: TableLayout, rows: _Rows, *, header: Cells, file: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the frame of `LinkTable` and the notes."""
    notes: list[str] = []
    _check_width(layout, rows, file=file)
    if layout.dialect == BEDPE:
        source, target = bedpe_names(rows.cells, rows.lines, file=file)
    else:
        source = [cells[layout.source] for cells in rows.cells]
        target = [cells[layout.target] for cells in rows.cells]
    weight, note = _weights(layout, rows, file=file)
    notes += [note] if note else []
    frame = pd.DataFrame(
        {
            "source_modality": _modalities(layout, rows, header=header, file=file, first=True),
            "source_feature": pd.Series(source, dtype=object),
            "target_modality": _modalities(layout, rows, header=header, file=file, first=False),
            "target_feature": pd.Series(target, dtype=object),
            "weight": weight,
            "sign": _signs(layout, rows, file=file),
        }
    )
    named = np.array(
        [
            s.casefold() not in _BLANK and t.casefold() not in _BLANK
            for s, t in zip(source, target, strict=True)
        ]
    )
    if layout.dialect == MAXFUSE:
        ignored = named & frame["target_feature"].str.contains("ignore", case=False, regex=False).to_numpy()
        if ignored.any():
            notes.append(f"{ignored.sum():,} rows are marked 'Ignore' and left out")
        notes += [f"{(~named).sum():,} rows without a name are left out"] if not named.all() else []
        named &= ~ignored
    elif not named.all():
        notes.append(f"{(~named).sum():,} rows do not name two features and are left out")
    frame = frame[named]
    if frame.empty:
        raise InputError("no row of the link table names two features", file=file, expected=_EXPECTED)
    if layout.by_index:
        _check_positions(layout, rows, frame, header=header, file=file)
    return frame, tuple(notes)


def _check_positions(
    layout: TableLayout, rows: _Rows, frame: pd.DataFrame, *, header: Cells, file: str
) -> None:
    """Make sure that every feature is a whole number from 0; the data show later whether it exists."""
    for side, number in (("source", layout.source), ("target", layout.target)):
        for row, text in frame[f"{side}_feature"].items():
            if not (text.isascii() and text.isdecimal()):
                raise InputError(
                    "a position of the link table is not a whole number",
                    file=file,
                    field=f"line {rows.lines[int(str(row))]}, column {header[number]}",
                    found=repr(text),
                    expected="a whole number from 0, since the header says positions",
                    hint=f"for names, call the column '{without_index(header[number])}'"
                    if layout.dialect == POSITIONS
                    else "for names, call the columns source_feature and target_feature",
                )


def _check_width(layout: TableLayout, rows: _Rows, *, file: str) -> None:
    needed = 1 + max(layout.source, layout.target, layout.source_modality, layout.target_modality)
    for cells, line in zip(rows.cells, rows.lines, strict=True):
        if len(cells) < needed and layout.dialect != BEDPE:
            raise InputError(
                "a row of the link table is too short",
                file=file,
                field=f"line {line}",
                found=f"{len(cells)} column{'s' * (len(cells) != 1)}",
                expected=f"at least {needed}",
            )


def _modalities(layout: TableLayout, rows: _Rows, *, header: Cells, file: str, first: bool) -> pd.Series:
    column = layout.source_modality if first else layout.target_modality
    values: list[str | None] = [None] * len(rows.cells)
    if layout.dialect == LONG:
        values = [cells[column] for cells in rows.cells]
        if "" in values:
            line = rows.lines[values.index("")]
            raise InputError("a row of the link table names no modality", file=file, field=f"line {line}")
    elif layout.dialect in (CANONICAL, COLUMNS):
        values = [header[0 if first else 1]] * len(rows.cells)
    elif layout.dialect == POSITIONS:
        values = [without_index(header[0 if first else 1])] * len(rows.cells)
    return pd.Series(values, dtype=object)


def _column(rows: _Rows, number: int) -> Cells:
    return [cells[number] if len(cells) > number else "" for cells in rows.cells]


def _weights(layout: TableLayout, rows: _Rows, *, file: str) -> tuple[DoubleArray, str | None]:
    """Return the weights and, for a score that cannot be a weight, a note."""
    if layout.weight < 0:
        return np.ones(len(rows.cells)), None
    text = pd.Series(_column(rows, layout.weight), dtype=object)
    blank = (text == "").to_numpy()
    number = pd.to_numeric(text.where(~blank, "1"), errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(number) & (number >= 0))
    if layout.is_score:
        if bad.any() or blank.any() or not number.any():
            return np.ones(len(number)), "the scores are not all numbers >= 0: every link has weight 1"
        return number, "the scores are used as weights"
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        raise InputError(
            "a weight of the link table is not a number, zero or more",
            file=file,
            field=f"line {rows.lines[k]}, column {layout.weight + 1}",
            found=repr(text[k]),
            expected="a number >= 0",
            hint="an inverse relation is written with sign -1" if number[k] < 0 else None,
        )
    return number, None


def _signs(layout: TableLayout, rows: _Rows, *, file: str) -> DoubleArray:
    if layout.sign < 0:
        return np.ones(len(rows.cells))
    signs = np.array([_SIGNS.get(text, np.nan) for text in _column(rows, layout.sign)])
    if np.isnan(signs).any():
        k = int(np.flatnonzero(np.isnan(signs))[0])
        raise InputError(
            "a sign of the link table is neither plus nor minus",
            file=file,
            field=f"line {rows.lines[k]}, column {layout.sign + 1}",
            found=repr(rows.cells[k][layout.sign]),
            expected="+1 or -1",
        )
    return signs


def _first_row(layout: TableLayout, cells: Cells) -> pd.DataFrame | None:
    """Return the header as a link, if it may be one."""
    if layout.dialect != COLUMNS:
        return None
    try:
        weight = float(cells[layout.weight]) if layout.weight >= 0 else 1.0
    except ValueError:
        return None
    sign = _SIGNS.get(cells[layout.sign], 0.0) if layout.sign >= 0 else 1.0
    if not sign or not np.isfinite(weight) or weight < 0:
        return None
    row = {"source_feature": cells[0], "target_feature": cells[1], "weight": weight, "sign": sign}
    return pd.DataFrame([{"source_modality": None, "target_modality": None} | row])
