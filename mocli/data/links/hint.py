"""The error for a link table that matches nothing: which names, which are near, what to try."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mocli.data.features.index import ColumnMatch, FeatureIndex, nearest_names
from mocli.data.features.intervals import parse_interval
from mocli.errors import InputError

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
    nearest = [(name, nearest_names(name, worse.index.features.names)) for name in unmatched]
    if not any(close for _, close in nearest):
        nearest = [
            (name, [other]) for name, other in zip(unmatched, worse.index.features.names[:3], strict=False)
        ]
        pairs = "; the data have " + ", ".join(repr(n) for _, close in nearest for n in close)
        shown = ", ".join(repr(n) for n in unmatched) + pairs
    else:
        shown = ", ".join(f"{n!r} (nearest: {close[0]!r})" if close else repr(n) for n, close in nearest)
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
