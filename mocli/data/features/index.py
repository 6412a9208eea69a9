"""Finding features by the names people give them, and the links that are proposed so."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from mocli.data.features.intervals import parse_interval, parse_intervals
from mocli.data.files.kinds import without_species
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError, did_you_mean, nearest
from mocli.types import DoubleArray, IntArray, ModalityKind

# Fallbacks in the order they are tried, and how the log calls them.
FALLBACKS = {
    "alias": "by another column of var",
    "interval": "by coordinates",
    "case": "without regard to case",
    "version": "without the Ensembl version",
    "separators": "without regard to separators",
    "decoration": "without prefixes and suffixes such as 'prot_' or '_TotalSeqB'",
    "completed": "by completing a short form ('HLA-A/B' as HLA-A and HLA-B)",
    "antigen": "by their antigen",  # of proteins, by `same_antigens`
}

_AMBIGUOUS = -1
NO_INTERVALS = frozenset({ModalityKind.RNA, ModalityKind.PROT, ModalityKind.CYTO})
_SEVERAL = re.compile(r"\s*[/;,|]\s*")
_VERSION = re.compile(r"(ENS[A-Z]*\d{6,})\.\d+", re.IGNORECASE)
_DECORATION = re.compile(
    r"^(?:(?:prot|protein|adt)[_-]|ab_)|[_-](?:total-?seq[_-]?[abcd]?|prot|protein|adt)$", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class Features:
    """The features of one modality, as links see them.

    Attributes:
        names: `(n_vars,)`; may repeat, the first occurrence is linked.
        aliases: Other columns of `var` whose values may be used as names (`gene_ids`), each `(n_vars,)`.
        renumbered: Whether positions are others than in the files, of which each has features of its own.
    """

    modality: str
    kind: ModalityKind
    names: tuple[str, ...]
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    renumbered: bool = False


@dataclass(frozen=True, eq=False)
class ColumnMatch:
    """What the names of one column of a table are in one modality.

    Attributes:
        positions: For each name the features it means: none, one, or several for a cell with several names.
        missing: Names found nowhere; of a cell with several, those not found.
        fallbacks: By fallback, pairs of name and feature.
        ambiguous: Names that several features could answer to, hence none does.
    """

    positions: list[tuple[int, ...]]
    missing: tuple[str, ...]
    fallbacks: Mapping[str, list[tuple[str, str]]]
    ambiguous: tuple[str, ...]

    @property
    def n_found(self) -> int:
        """Number of names that mean at least one feature."""
        return sum(bool(p) for p in self.positions)


def features_of(files: Sequence[ModalityFile], *, var_key: str | None = None) -> list[Features]:
    """Return the features of opened modalities.

    `var_key`: column of `var` with the names to use, in the modalities that have it. Raises `InputError` if
    no modality has that column.
    """
    if var_key is not None and not any(var_key in file.var for file in files):
        columns = list(dict.fromkeys(str(c) for file in files for c in file.var.columns))
        raise InputError(
            f"no modality has the column '{var_key}' of --var-key",
            file=", ".join(dict.fromkeys(str(path) for file in files for path in file.paths)),
            field=f"var['{var_key}']",
            found=", ".join(columns[:12]) or "no columns",
            hint=did_you_mean(var_key, columns, "columns"),
        )
    features = []
    for file in files:
        names = file.var[var_key] if var_key is not None and var_key in file.var else file.var.index
        text = file.var.select_dtypes(include=["object", "string", "category"])
        aliases = {str(c): tuple(map(str, text[c])) for c in text.columns if text[c].nunique() > 1}
        features.append(Features(file.name, file.kind, tuple(map(str, names)), aliases, file.renumbered))
    return features


class FeatureIndex:
    """Looks names up among the features of one modality; tables are built when first needed."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self._exact: dict[str, int] = {}
        for position, name in enumerate(features.names):
            self._exact.setdefault(name, position)

    @cached_property
    def repeated(self) -> frozenset[int]:
        """First positions of the names that occur more than once."""
        if len(self._exact) == len(self.features.names):
            return frozenset()
        seen = np.array([self._exact[name] for name in self.features.names])
        return frozenset(np.flatnonzero(np.bincount(seen) > 1).tolist())

    def match(self, names: Sequence[str]) -> ColumnMatch:
        """Look up the distinct names of a column.

        A cell that is no name as it stands is cut at `/`, `;`, `,` and `|`, and
        each piece looked up; a piece that is found only when put in place of the
        end of the first one (`CD66a/c`) counts as such.
        """
        positions: list[tuple[int, ...]] = []
        missing: list[str] = []
        ambiguous: list[str] = []
        fallbacks: dict[str, list[tuple[str, str]]] = {how: [] for how in FALLBACKS}
        for name in names:
            hits = [(name, *self.find(name))]
            if hits[0][1] < 0 and _SEVERAL.search(name):
                hits = self._find_pieces(name)
            for piece, position, how in hits:
                if position < 0:
                    (ambiguous if how else missing).append(piece)
                elif how != "exact":
                    fallbacks[how].append((piece, self.features.names[position]))
            positions.append(tuple(dict.fromkeys(p for _, p, _ in hits if p >= 0)))
        return ColumnMatch(
            positions,
            tuple(dict.fromkeys(missing)),
            {how: pairs for how, pairs in fallbacks.items() if pairs},
            tuple(dict.fromkeys(ambiguous)),
        )

    def find(self, name: str) -> tuple[int, str]:
        """Position of a name and how it was found; -1 with "" if nowhere, with a fallback if ambiguous."""
        position = self._exact.get(name)
        if position is not None:
            return position, "exact"
        for how, table, key_of in self._tables:
            key = key_of(name)
            position = None if key is None else table.get(key)
            if position is not None:
                return position, how
        return _AMBIGUOUS, ""

    def find_each(self, names: Sequence[str]) -> tuple[IntArray, dict[str, list[tuple[str, str]]]]:
        """Return the position of each name, -1 for none, and by fallback pairs of name and feature.

        A feature answers to one name only: to the exact one, else to none that several would claim. Case
        counts, as it tells the genes of mouse from those of man.
        """
        hits = [self.find(name) for name in names]
        positions = np.array([position for position, _ in hits], dtype=np.int64)
        exact = np.array([how == "exact" for _, how in hits], dtype=bool)
        exact_positions = set(positions[exact].tolist())
        rest = np.flatnonzero(~exact & (positions >= 0))
        claims = np.bincount(positions[rest], minlength=len(self.features.names))
        fallbacks: dict[str, list[tuple[str, str]]] = {}
        for k in rest.tolist():
            position = int(positions[k])
            by_case = names[k].casefold() == self.features.names[position].casefold()
            if position in exact_positions or claims[position] > 1 or by_case:
                positions[k] = -1
            else:
                fallbacks.setdefault(hits[k][1], []).append((names[k], self.features.names[position]))
        return positions, fallbacks

    def _find_pieces(self, text: str) -> list[tuple[str, int, str]]:
        """Look up each name of a cell with several; the whole cell is missing if none is found."""
        pieces = [piece for piece in _SEVERAL.split(text) if piece]
        hits = []
        for piece in pieces:
            position, how = self.find(piece)
            if position < 0 and len(piece) < len(pieces[0]):
                completed = self._exact.get(pieces[0][: -len(piece)] + piece, -1)
                position, how = (completed, "completed") if completed >= 0 else (position, how)
            hits.append((piece, position, how))
        return hits if any(position >= 0 for _, position, _ in hits) else [(text, _AMBIGUOUS, "")]

    @cached_property
    def _tables(self) -> list[tuple[str, Mapping[object, int], Callable[[str], object]]]:
        names = list(self._exact.items())
        aliases = [
            [(text, row) for row, text in enumerate(map(str, column)) if text not in ("", "nan", "NA")]
            for column in self.features.aliases.values()
        ]
        tables: list[tuple[str, Mapping[object, int], Callable[[str], object]]] = [
            ("alias", _unique(pairs), str) for pairs in aliases
        ]
        if self.features.kind not in NO_INTERVALS:
            tables.append(("interval", _unique(self._interval_keys()), parse_interval))
        tables.append(("case", _unique((n.casefold(), p) for n, p in names), str.casefold))
        versioned = _unique((without_version(n), p) for pairs in (names, *aliases) for n, p in pairs)
        tables.append(("version", versioned, without_version))
        by_separator = _unique((with_one_separator(n), p) for n, p in names)
        tables.append(("separators", by_separator, with_one_separator))
        bare = _unique((without_decoration(n), p) for n, p in names)
        tables.append(("decoration", bare, without_decoration))
        return tables

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """The names read as intervals; see `parse_intervals`."""
        return parse_intervals(self.features.names)

    def _interval_keys(self) -> Iterable[tuple[object, int]]:
        first = set(self._exact.values())
        rows = self.intervals.itertuples(index=False, name=None)
        return [(row, p) for p, row in enumerate(rows) if row[0] is not None and p in first]


def _unique(pairs: Iterable[tuple[object, int]]) -> dict[object, int]:
    """Map keys to positions, -1 where a key stands for several."""
    table: dict[object, int] = {}
    for key, position in pairs:
        if key is not None and table.setdefault(key, position) != position:
            table[key] = _AMBIGUOUS
    return table


def without_version(name: str) -> str | None:
    """Return an Ensembl id without its version, or None for any other name."""
    match = _VERSION.fullmatch(name)
    if match is not None:
        return match[1].upper()
    return name.upper() if name[:3].upper() == "ENS" and name[-6:].isdecimal() else None


def with_one_separator(name: str) -> str:
    """Return a name with all separators alike, and without the X that R puts before a digit."""
    return re.sub(r"[^0-9A-Za-z]+", "-", name).removeprefix("X" if name[1:2].isdigit() else "")


def without_decoration(name: str) -> str:
    """Return a protein's name, case-folded, without the marks that tools and kits add."""
    return (_DECORATION.sub("", without_species(name)) or name).casefold()


def nearest_name(name: str, names: Sequence[str]) -> str | None:
    """Return the name of a feature most like one, in spelling, or for an interval in place; None if none is.

    Long lists are first cut to those sharing most letter pairs with the name, so
    that the quadratic comparison sees a few hundred only.
    """
    interval = parse_interval(name)
    if interval is not None:
        places = parse_intervals(names)
        same = np.flatnonzero((places["chrom"] == interval.chrom).to_numpy())
        distance = np.abs(places["start"].to_numpy()[same] - interval.start)
        return names[same[distance.argmin()]] if len(same) else None
    if len(names) > 500:
        folded = name.casefold()
        grams = {folded[k : k + 2] for k in range(max(1, len(folded) - 1))}
        limit = 2 * len(name) + 2
        names = heapq.nlargest(
            300,
            (c for c in names if len(c) <= limit),
            key=lambda c: sum(gram in c.casefold() for gram in grams) - abs(len(c) - len(name)) / 100,
        )
    return next(iter(nearest(name, names, 1)), None)


SUGGESTED = 20  # misses that are given a nearest name, which takes its time


@dataclass(frozen=True)
class Miss:
    """A feature without a link.

    Attributes:
        why: The same words for all features that share the reason.
        detail: What is particular to this one: the nearest name, or its genes.
    """

    modality: str
    name: str
    why: str
    detail: str = ""

    def __str__(self) -> str:
        return f"'{self.name}' ({self.detail})" if self.detail else f"'{self.name}'"


@dataclass(frozen=True, eq=False)
class Proposal:
    """Links between two modalities by positions of features.

    Attributes:
        source, target: `(n_links,)` positions; a pair occurs once.
        weight: `(n_links,)`, above zero.
        misses: Features that should have a link and have none.
        notes: What was assumed, and what was left out on purpose, for the log.
    """

    source: IntArray
    target: IntArray
    weight: DoubleArray
    misses: tuple[Miss, ...] = ()
    notes: tuple[str, ...] = ()

    def swapped(self) -> Proposal:
        """Return the same links seen from the other side."""
        return Proposal(self.target, self.source, self.weight, self.misses, self.notes)


def misses(modality: str, names: Iterable[str], *, why: str, among: Sequence[str]) -> tuple[Miss, ...]:
    """Return misses; the first ones with the nearest of the names that would have been found."""
    missed = []
    for k, name in enumerate(names):
        near = nearest_name(name, among) if k < SUGGESTED else None
        missed.append(Miss(modality, name, why, "" if near is None else f"nearest: '{near}'"))
    return tuple(missed)
