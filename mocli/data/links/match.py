"""Which two loaded modalities each row of a link table links, by names or by positions in `var`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.features.index import ColumnMatch, FeatureIndex, Features
from mocli.data.files.kinds import kind_of
from mocli.data.links.linktable import COLUMNS, DIALECT_KINDS, POSITIONS, LinkTable
from mocli.data.links.route import FirstRoute, chained
from mocli.errors import InputError, did_you_mean
from mocli.types import BoolArray, IntArray, ModalityKind

_ALIKE = {ModalityKind.PROT: ModalityKind.CYTO, ModalityKind.CYTO: ModalityKind.PROT}


@dataclass(frozen=True, eq=False)
class NamedColumn:
    """One column of names: a code per row and the distinct names they stand for."""

    codes: IntArray
    names: tuple[str, ...]

    @classmethod
    def of(cls, column: pd.Series) -> NamedColumn:
        """Factorise a column in order of first appearance."""
        codes, names = pd.factorize(column)
        return cls(codes, tuple(names))


@dataclass(frozen=True, eq=False)
class PairRows:
    """Rows that link two loaded modalities, by their positions in the list of features."""

    table: LinkTable
    source: int
    target: int
    frame: pd.DataFrame


def find_modality(name: str, features: Sequence[Features], *, file: str) -> int | None:
    """Return the position of the modality that a table's name stands for, None if it is not loaded.

    The user's own name wins; then its spelling without regard to case; then the
    only modality of the kind the word stands for. Mass cytometry answers to
    protein words and the reverse when there is no other.

    Raises `InputError` if the word fits several modalities.
    """
    positions = [k for k, f in enumerate(features) if f.modality == name]
    positions = positions or [k for k, f in enumerate(features) if f.modality.casefold() == name.casefold()]
    kind = kind_of(name)
    if not positions and kind is not ModalityKind.OTHER:
        positions = [k for k, f in enumerate(features) if f.kind is kind]
        positions = positions or [k for k, f in enumerate(features) if f.kind is _ALIKE.get(kind)]
    if len(positions) > 1:
        raise InputError(
            f"the link table's '{name}' may be any of several modalities",
            file=file,
            found=", ".join(features[k].modality for k in positions),
            hint="write the modality's own name in the table",
        )
    return positions[0] if positions else None


def pair_rows(
    table: LinkTable, indexes: Sequence[FeatureIndex], *, log: Callable[[str], None]
) -> list[PairRows]:
    """Assign each row of a table to two modalities; rows of absent modalities are logged and left out.

    Raises `InputError` if a word for a modality fits several, or no pair of modalities has any name of a
    table that names none.
    """
    features = [index.features for index in indexes]
    if table.frame["source_modality"].isna().any():
        return [_best_pair(table, indexes, log=log)]
    rows = []
    groups = table.frame.groupby(["source_modality", "target_modality"], sort=False)
    for names, frame in groups:
        places = [find_modality(name, features, file=table.path) for name in names]
        a, b = places
        if a is not None and b is not None and a != b:
            rows.append(PairRows(table, a, b, frame))
        elif table.dialect == COLUMNS and a is None and b is None:
            return [_best_pair(table, indexes, log=log)]
        else:
            what = f"{len(frame):,} links {names[0]} <-> {names[1]} ignored"
            log(f"{table.path}: {what}: {_why(names, places, features)}")
    return rows


def _why(names: Sequence[str], places: Sequence[int | None], features: Sequence[Features]) -> str:
    absent = [name for name, place in zip(names, places, strict=True) if place is None]
    if not absent:
        return "they stay within one modality"
    loaded = did_you_mean(absent[0], [f.modality for f in features], "loaded modalities")
    return f"no modality '{absent[0]}' is loaded ({loaded})"


def _best_pair(table: LinkTable, indexes: Sequence[FeatureIndex], *, log: Callable[[str], None]) -> PairRows:
    """Find the two modalities in which most rows have both names."""
    source, target = (NamedColumn.of(table.frame[f"{side}_feature"]) for side in ("source", "target"))
    in_source = [_found(source, index.match(source.names)) for index in indexes]
    in_target = [_found(target, index.match(target.names)) for index in indexes]
    expected = DIALECT_KINDS.get(table.dialect)
    scores = {
        (a, b): (
            int((in_source[a] & in_target[b]).sum()),
            (indexes[a].features.kind, indexes[b].features.kind) == expected,
            int(in_source[a].sum() + in_target[b].sum()),
        )
        for a in range(len(indexes))
        for b in range(len(indexes))
        if a != b
    }
    a, b = max(scores, key=scores.__getitem__)
    names = indexes[a].features.modality, indexes[b].features.modality
    log(f"{table.path}: the columns are taken for {names[0]} and {names[1]}, where most of their names are")
    frame = table.frame
    if table.first_row is not None:
        row = table.first_row.iloc[0]
        if (
            indexes[a].match([row["source_feature"]]).n_found
            and indexes[b].match([row["target_feature"]]).n_found
        ):
            log(f"{table.path}: the table has no header; its first line is read as a link")
            frame = pd.concat([table.first_row, frame], ignore_index=True)
    return PairRows(table, a, b, frame)


def _found(column: NamedColumn, match: ColumnMatch) -> BoolArray:
    """Say for each row whether its name was found."""
    return np.array([bool(p) for p in match.positions])[column.codes]


FIRST = "first features"


def first_table(route: FirstRoute, features: Sequence[Features]) -> LinkTable:
    """Return the table that links the first features of modalities, each with the one at its position.

    Raises:
        UsageError: A modality is named that is not loaded.
        InputError: One has fewer features.
    """
    pairs = chained(route, [f.modality for f in features])
    linked = {name for pair in pairs for name in pair}
    for one in features:
        if one.modality in linked and len(one.names) < route.n:
            raise InputError(
                f"'{one.modality}' has fewer features than --links asks for",
                field=f"--links {route.text}",
                found=f"{len(one.names):,} features",
                expected=f"at least {route.n:,}",
                hint="name a smaller number, or link some features by a table",
            )
    position = pd.Series(np.arange(route.n).astype(str), dtype=object)
    frames = [
        pd.DataFrame(
            {
                "source_modality": pd.Series([a] * route.n, dtype=object),
                "source_feature": position,
                "target_modality": pd.Series([b] * route.n, dtype=object),
                "target_feature": position,
                "weight": 1.0,
                "sign": 1.0,
            }
        )
        for a, b in pairs
    ]
    columns = ["source_modality", "source_feature", "target_modality", "target_feature", "weight", "sign"]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return LinkTable(route.text, FIRST, frame, by_index=True)


def match_positions(
    table: LinkTable, side: str, column: NamedColumn, rows: pd.Index, features: Features
) -> ColumnMatch:
    """Read one column of a table as positions of features.

    Args:
        side: `source` or `target`.
        rows: Which rows of the table's frame the column's codes are of.

    Raises:
        InputError: A position is beyond the last feature, or the modality's files have different features.
    """
    n = len(features.names)
    if features.renumbered:
        raise InputError(
            f"the files of '{features.modality}' have different features, so positions are ambiguous",
            file=table.path,
            found="links by position",
            hint="link by names, or give files with the same features in the same order",
        )
    positions = np.array([int(text) for text in column.names], dtype=object)
    beyond = [k for k, position in enumerate(positions) if position >= n]
    if beyond:
        row = int(rows[int(np.flatnonzero(column.codes == beyond[0])[0])])
        header = f"{side}_index" if table.dialect != POSITIONS else f"{features.modality}_index"
        raise InputError(
            f"a position of the link table is beyond the last feature of '{features.modality}'",
            file=table.path,
            field=f"line {table.lines[row]}, column {header}" if table.lines else header,
            found=f"position {positions[beyond[0]]}" + (f" and {len(beyond) - 1:,} more" * (len(beyond) > 1)),
            expected=f"0 to {n - 1:,}, as it has {n:,} features",
            hint="positions count from 0" if max(positions) == n else None,
        )
    return ColumnMatch([(int(position),) for position in positions], (), {}, ())
