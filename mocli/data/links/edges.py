"""Links between the features of two modalities: from tables to integer positions to products.

`read_links` reads a table, `match_links` finds its names among the features, and
`X_source @ edge.aggregation().source` is the block of linked features of a modality.

A table that matches nothing is an error: which names, which are near, what to try.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from mocli.data.features.index import FALLBACKS, ColumnMatch, FeatureIndex, Features, nearest_name
from mocli.data.features.intervals import parse_interval
from mocli.data.links.linktable import LinkTable, read_links
from mocli.data.links.match import NamedColumn, PairRows, first_table, match_positions, pair_rows
from mocli.data.links.route import FirstRoute, LinkRoute, TableRoute
from mocli.errors import InputError
from mocli.types import CSR, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Aggregation:
    """Two matrices that turn the features of two modalities into shared columns.

    Column j of `X_source @ source` belongs to column j of `X_target @ target`.
    The modality with fewer linked features (the first of two equals) gives one
    column a feature, taken as it is; the other gives the sum of its linked
    features, each times weight and sign. A protein with its coding genes and a
    gene with its peaks (gene activity) are thus one product. Signs stand on the
    summed side alone, so a column whose links are all negative is negated there.

    Attributes:
        names: `(n_columns,)`, the features of the selected side in order of first appearance in the table.
        source, target: CSR float32 `(n_vars, n_columns)`.
    """

    names: tuple[str, ...]
    source: CSR
    target: CSR


class Half(NamedTuple):
    """One side of the links between two modalities: the fields of `EdgeLinks` that speak of it.

    `linked`: `(n_links,)` positions of the features.
    """

    modality: str
    names: tuple[str, ...]
    linked: IntArray
    unmatched: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class EdgeLinks:
    """The links between two modalities, by positions of features.

    Attributes:
        source_names, target_names: All features of the two modalities, `(n_vars,)`.
        source_index, target_index: `(n_links,)` positions; a pair occurs once.
        weight, sign: `(n_links,)`: > 0, and +1 or -1.
        n_read: Rows of the tables that speak of these modalities.
        unmatched_source, unmatched_target: Names of the tables found nowhere in the modality.
        n_repeated: Links that other rows give as well, under the same or other names.
    """

    source: str
    target: str
    source_names: tuple[str, ...]
    target_names: tuple[str, ...]
    source_index: IntArray
    target_index: IntArray
    weight: FloatArray
    sign: FloatArray
    n_read: int
    unmatched_source: tuple[str, ...] = ()
    unmatched_target: tuple[str, ...] = ()
    n_repeated: int = 0

    @property
    def edge(self) -> tuple[str, str]:
        """The two modalities."""
        return self.source, self.target

    @property
    def halves(self) -> tuple[Half, Half]:
        """The source and the target."""
        return (
            Half(self.source, self.source_names, self.source_index, self.unmatched_source),
            Half(self.target, self.target_names, self.target_index, self.unmatched_target),
        )

    @property
    def chosen(self) -> Half:
        """The side with fewer linked features, the first of two equals."""
        return min(self.halves, key=lambda half: len(np.unique(half.linked)))

    @property
    def n_links(self) -> int:
        """Number of links that matched."""
        return len(self.weight)

    def summary(self) -> str:
        """Say what matched, and list up to three names of each side that did not, with the nearest names."""
        counts = [f"{len(np.unique(i)):,} of {len(n):,} {m} features" for m, n, i, _ in self.halves]
        lines = [f"{self.n_links:,} links: {counts[0]} <-> {counts[1]}"]
        for modality, names, _, unmatched in self.halves:
            if unmatched:
                shown = ", ".join(_with_nearest(name, names) for name in unmatched[:3])
                more = ", ..." if len(unmatched) > 3 else ""
                lines.append(f"not in {modality}: {len(unmatched):,} names of the table: {shown}{more}")
        return "\n".join(lines)

    def aggregation(self) -> Aggregation:
        """Return the two matrices that aggregate linked features into shared columns."""
        chosen = self.chosen
        by_target = chosen.modality == self.target
        summed = self.halves[0 if by_target else 1]
        column, features = pd.factorize(chosen.linked)
        n = len(features)
        ones = np.ones(n, dtype=np.float32)
        selection = sparse.csr_matrix((ones, (features, np.arange(n))), (len(chosen.names), n))
        signed = (self.weight * self.sign).astype(np.float32)
        weighted = sparse.csr_matrix((signed, (summed.linked, column)), (len(summed.names), n))
        source, target = (weighted, selection) if by_target else (selection, weighted)
        return Aggregation(tuple(chosen.names[k] for k in features), source, target)


@dataclass(frozen=True, eq=False)
class _Matched:
    """The links of one table between two modalities, in the order of the features."""

    links: pd.DataFrame  # source, target: positions; weight, sign
    n_read: int
    missing: tuple[tuple[str, ...], tuple[str, ...]]


def tables_of(routes: Iterable[LinkRoute], features: Sequence[Features]) -> list[LinkTable]:
    """Read the tables among the routes, and make tables for the routes that link first features."""
    tables: list[LinkTable] = []
    for route in routes:
        if isinstance(route, TableRoute):
            tables.append(read_links(route.path))
        elif isinstance(route, FirstRoute):
            tables.append(first_table(route, features))
    return tables


def match_links(
    tables: Sequence[LinkTable], features: Sequence[Features], *, log: Callable[[str], None]
) -> list[EdgeLinks]:
    """Find the features that tables link.

    Names are looked up exactly, then in the other columns of `var`, as
    intervals, without regard to case, without Ensembl versions and without
    decorations; a fallback never overrides an exact name and never guesses
    between two features. Positions are taken as they are. Whatever is assumed,
    left out or merged is logged.

    Args:
        tables: As read; several are put together.
        features: The loaded modalities, at least two.
        log: Called with one message at a time.

    Returns:
        One `EdgeLinks` for each unordered pair of modalities that is linked, its source being the one that
        comes first in `features`.

    Raises:
        InputError: If no row links two loaded modalities, if the rows of a table match nothing between two of
            them, if a position is beyond the last feature, or if a pair has both signs.
    """
    indexes = [FeatureIndex(f) for f in features]
    parts: dict[tuple[int, int], list[_Matched]] = defaultdict(list)
    for table in tables:
        log(f"{table.path}: {len(table.frame):,} links in the table (columns: {table.dialect})")
        for note in table.notes:
            log(f"{table.path}: {note}")
        for rows in pair_rows(table, indexes, log=log) if len(features) > 1 else ():
            edge = (min(rows.source, rows.target), max(rows.source, rows.target))
            parts[edge].append(_match_rows(rows, indexes, log=log))
    if not parts:
        loaded = ", ".join(f.modality for f in features)
        named = sorted(
            {m for t in tables for c in ("source", "target") for m in t.frame[f"{c}_modality"].dropna()}
        )
        raise InputError(
            "no link joins two of the loaded modalities",
            file=", ".join(table.path for table in tables),
            found=f"links of {', '.join(named)}" if named else None,
            expected=f"two of: {loaded}",
        )
    return [_edge(indexes[a], indexes[b], parts[a, b], log=log) for a, b in sorted(parts)]


def _match_rows(rows: PairRows, indexes: Sequence[FeatureIndex], *, log: Callable[[str], None]) -> _Matched:
    sides, columns = [], []
    for name, place in (("source", rows.source), ("target", rows.target)):
        column, index = NamedColumn.of(rows.frame[f"{name}_feature"]), indexes[place]
        columns.append(column)
        if rows.table.by_index:
            match = match_positions(rows.table, name, column, rows.frame.index, index.features)
        else:
            match = index.match(column.names)
        sides.append(MatchedColumn(index, column.names, match))
    row, source = _expand(columns[0].codes, sides[0].match)
    further, target = _expand(columns[1].codes[row], sides[1].match)
    if not len(target):
        raise nothing_matched(*sides, file=rows.table.path)
    if rows.table.by_index:
        _log_positions(rows.table, sides, int(source[further[0]]), int(target[0]), log=log)
    else:
        for side in sides:
            _log_fallbacks(side, log=log)
    row, source = row[further], source[further]
    missing = (sides[0].match.missing, sides[1].match.missing)
    if rows.source > rows.target:
        source, target, missing = target, source, missing[::-1]
    links = rows.frame[["weight", "sign"]].iloc[row].assign(source=source, target=target)
    return _Matched(links, len(rows.frame), missing)


def _expand(codes: IntArray, match: ColumnMatch) -> tuple[IntArray, IntArray]:
    """Repeat each row for every feature its name means: row numbers and positions."""
    count = np.array([len(p) for p in match.positions], dtype=np.int64)
    flat = np.array([k for p in match.positions for k in p], dtype=np.int64)
    first = np.cumsum(count) - count
    row = np.repeat(np.arange(len(codes)), count[codes])
    within = np.arange(len(row)) - np.repeat(np.cumsum(count[codes]) - count[codes], count[codes])
    return row, flat[first[codes[row]] + within]


def _log_positions(
    table: LinkTable, sides: Sequence[MatchedColumn], source: int, target: int, *, log: Callable[[str], None]
) -> None:
    names = [
        f"{k} of {side.modality} is '{side.index.features.names[k]}'"
        for side, k in zip(sides, (source, target), strict=True)
    ]
    log(f"{table.path}: features are given by position, from 0; in its first link {' and '.join(names)}")


def _log_fallbacks(side: MatchedColumn, *, log: Callable[[str], None]) -> None:
    for how, pairs in side.match.fallbacks.items():
        name, feature = pairs[0]
        log(f"{side.modality}: {len(pairs):,} names found {FALLBACKS[how]}, e.g. '{name}' is '{feature}'")
    if side.match.ambiguous:
        n, name = len(side.match.ambiguous), side.match.ambiguous[0]
        log(f"{side.modality}: {n:,} names are left out because each fits several features, e.g. '{name}'")
    repeated = side.index.repeated & {k for p in side.match.positions for k in p}
    if repeated:
        name = side.index.features.names[min(repeated)]
        log(
            f"warning: {side.modality}: {len(repeated):,} linked names occur more than once in var_names, "
            f"e.g. '{name}': the first is linked; choose another column with --var-key"
        )


def _edge(
    source: FeatureIndex, target: FeatureIndex, parts: Sequence[_Matched], *, log: Callable[[str], None]
) -> EdgeLinks:
    """Put the links of several tables together, each pair of features once."""
    a, b = source.features, target.features
    where = f"{a.modality} <-> {b.modality}"
    links = pd.concat([part.links for part in parts], ignore_index=True)
    positive = links[links["weight"] > 0]
    if positive.empty:
        raise InputError("all links have weight 0", field=where, expected="some weight > 0")
    if len(positive) < len(links):
        log(f"{where}: {len(links) - len(positive):,} links of weight 0 are left out")
    pairs = positive.groupby(["source", "target"], sort=False).agg(
        weight=("weight", "max"), least=("weight", "min"), sign=("sign", "first"), total=("sign", "mean")
    )
    torn = pairs.index[pairs["total"].abs() < 1]
    if len(torn):
        i, j = torn[0]
        raise InputError(
            "a link has both signs",
            field=where,
            found=f"{a.names[i]} <-> {b.names[j]}",
            expected="one sign a link",
        )
    if len(pairs) < len(positive):
        differ = int((pairs["least"] < pairs["weight"]).sum())
        larger = f"; where weights differ ({differ:,}), the larger is used" if differ else ""
        log(f"{where}: {len(positive) - len(pairs):,} repeated links are counted once{larger}")
    return EdgeLinks(
        a.modality,
        b.modality,
        a.names,
        b.names,
        pairs.index.get_level_values("source").to_numpy(dtype=np.int64),
        pairs.index.get_level_values("target").to_numpy(dtype=np.int64),
        pairs["weight"].to_numpy(dtype=np.float32),
        pairs["sign"].to_numpy(dtype=np.float32),
        sum(part.n_read for part in parts),
        _distinct(part.missing[0] for part in parts),
        _distinct(part.missing[1] for part in parts),
        len(positive) - len(pairs),
    )


def _distinct(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))


def _with_nearest(name: str, names: Sequence[str]) -> str:
    near = nearest_name(name, names)
    return f"'{name}'" if near is None else f"'{name}' (nearest: '{near}')"


_ENSEMBL = re.compile(r"ENS[A-Z]*\d{6,}(\.\d+)?", re.IGNORECASE)
_SAMPLE = 200


@dataclass(frozen=True, eq=False)
class MatchedColumn:
    """One column of a table and the modality it was looked up in."""

    index: FeatureIndex
    names: tuple[str, ...]
    match: ColumnMatch

    @property
    def modality(self) -> str:
        """The user's name."""
        return self.index.features.modality

    def count(self) -> str:
        """Return `3 of 49 prot names`."""
        return f"{self.match.n_found:,} of {len(self.names):,} {self.modality} names"


def nothing_matched(source: MatchedColumn, target: MatchedColumn, *, file: str) -> InputError:
    """Return the error for a table in which no row has both its names in the data."""
    worse = min((source, target), key=lambda side: side.match.n_found / len(side.names))
    unmatched = [
        name for name, positions in zip(worse.names, worse.match.positions, strict=True) if not positions
    ]
    unmatched = (unmatched or list(worse.names))[:3]
    names = worse.index.features.names
    nearest = {name: nearest_name(name, names) for name in unmatched}
    shown = ", ".join(f"{n!r} (nearest: {near!r})" if near else repr(n) for n, near in nearest.items())
    if not any(nearest.values()):
        shown += "; the data have " + ", ".join(repr(n) for n in names[: len(unmatched)])
    return InputError(
        f"no link matches the data: {source.count()} and {target.count()} were found, but never both in one "
        "row",
        file=file,
        field=f"{source.modality} <-> {target.modality}",
        found=f"{worse.modality}: {shown}",
        expected="names in var_names or in another column of var",
        hint=_hint(source, target, worse),
    )


def _hint(source: MatchedColumn, target: MatchedColumn, worse: MatchedColumn) -> str:
    swapped = [
        other.index.match(side.names[:_SAMPLE]).n_found
        for side, other in ((source, target), (target, source))
    ]
    if min(swapped) > 0:
        return (
            f"the columns look swapped: {source.modality} names stand under {target.modality}; "
            "exchange the modalities in the header"
        )
    if worse.match.n_found:
        return "both columns hold known names, but in different rows: is one of them sorted by itself?"
    features = worse.index.features
    for column, values in features.aliases.items():
        n = len(set(worse.names) & set(map(str, values)))
        if n:
            return f"var['{column}'] matches {n:,}, each for several features: use --var-key {column}"
    if worse.match.ambiguous:
        return (
            f"{worse.match.ambiguous[0]!r} fits several features that differ in case: write it as in the data"
        )
    of_table, of_data = _share_of_ids(worse.names), _share_of_ids(features.names)
    if of_table != of_data:
        ids, symbols = ("table", "data") if of_table else ("data", "table")
        return (
            f"Ensembl ids stand in the {ids}, gene symbols in the {symbols}: "
            "choose the column of var that holds the table's names with --var-key, or rewrite the table"
        )
    return _interval_hint(worse) or "are the table and the data of the same organism and panel?"


def _share_of_ids(names: tuple[str, ...]) -> bool:
    """Return the share of names that are Ensembl ids."""
    sample = names[:_SAMPLE]
    return 2 * sum(_ENSEMBL.fullmatch(name) is not None for name in sample) > len(sample)


def _interval_hint(side: MatchedColumn) -> str | None:
    """Say what is wrong with peaks: the build, an offset of one, or the data's names."""
    intervals = [place for name in side.names[:_SAMPLE] if (place := parse_interval(name)) is not None]
    if not intervals:
        return None
    places = side.index.intervals
    peaks = set(zip(places["chrom"], places["start"], places["end"], strict=True))
    if None in set(places["chrom"]) and len(set(places["chrom"])) == 1:
        return f"the table has intervals, the features of {side.modality} are named otherwise: see --var-key"
    for shift in (-1, 1):
        if any((place.chrom, place.start + shift, place.end) in peaks for place in intervals):
            return f"the starts differ by one (0-based and 1-based): add {shift:+d} to those of the table"
    if not {place.chrom for place in intervals} & set(places["chrom"]):
        return "no chromosome of the table is in the data"
    return "no peak has these coordinates: was the table made from other peaks or another genome build?"
