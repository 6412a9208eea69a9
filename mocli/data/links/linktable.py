"""Reading link tables: bytes to rows, rows to one frame whatever the dialect."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mocli.data.files.text import text_lines
from mocli.data.links.dialect import (
    BEDPE,
    CANONICAL,
    COLUMNS,
    LONG,
    MAXFUSE,
    POSITIONS,
    Cells,
    TableLayout,
    bedpe_names,
    names_dialect,
    recognise,
    without_index,
)
from mocli.errors import InputError
from mocli.types import DoubleArray

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
