"""Which genes are silenced, and the null distribution with which their changes are compared.

Every gene is measured by its own matched peaks, so that a gene that moves half of all peaks has a
wide null of its own. The tails of that null come from genes that are expressed in as many cells:

    z = (change - mean over matched peaks) / their standard deviation,   change = delta / original
    p = rank of z among the z of matched genes at matched peaks, each measured without itself

Matched peaks lie on other chromosomes than the gene, in the same tenth of accessibility and at a like
distance from the nearest transcription start. With genes permuted p is uniform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.correlation import FEWEST_MATCHED, OwnNull
from mocli.tasks.gene2peak.changes import Change
from mocli.tasks.run.frame import progress
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray

if TYPE_CHECKING:
    pass


PER_BIN = 100
"""Peaks drawn from a bin."""
_FEWEST_BIN = 50
_TENTHS = 10
_NEAR = (2_000, 20_000)
"""Distances to the nearest transcription start at which one class of peaks ends and the next begins."""

PER_STRATUM = 25
"""Genes of a stratum at least, where there are as many."""
_STRATA = 8

ALTERNATIVES = ("two-sided", "positive", "negative")


@dataclass(frozen=True, eq=False)
class PeakPanel:
    """Peaks that represent all peaks of the same kind.

    Attributes:
        bins: `(n_peaks,)` bin of every peak.
        members: `(n_panel,)` peaks drawn, increasing.
        chrom: `(n_peaks,)` as a number, -1 for nowhere.
    """

    bins: IntArray
    members: IntArray
    chrom: IntArray

    @classmethod
    def draw(
        cls, accessibility: DoubleArray, nearest: IntArray | None, chrom: IntArray, rng: np.random.Generator
    ) -> PeakPanel:
        """Put peaks into bins and draw some from every bin.

        Args:
            accessibility: `(n_peaks,)`.
            nearest: `(n_peaks,)` distance to the nearest transcription start; None where positions are not
                known.
        """
        n = len(accessibility)
        zone = np.zeros(n, np.int64) if nearest is None else np.searchsorted(_NEAR, np.abs(nearest))
        bins = np.zeros(n, dtype=np.int64)
        used = 0
        kinds, counts = np.unique(zone, return_counts=True)
        # too small a class is not told apart
        for kind in kinds[counts < _FEWEST_BIN]:
            zone[zone == kind] = kinds[np.argmax(counts)]
        for kind in np.unique(zone):
            in_zone = np.flatnonzero(zone == kind)
            parts = int(np.clip(len(in_zone) // _FEWEST_BIN, 1, _TENTHS))
            rank = np.argsort(np.argsort(accessibility[in_zone], kind="stable"), kind="stable")
            bins[in_zone] = used + rank * parts // len(in_zone)
            used += parts
        members = [
            rng.choice(candidates, min(PER_BIN, len(candidates)), replace=False)
            for candidates in (np.flatnonzero(bins == k) for k in range(used))
        ]
        return cls(bins, np.sort(np.concatenate(members)).astype(np.int64), chrom)


def strata_of(n_cells: IntArray, mean: DoubleArray) -> IntArray:
    """Sort genes by the number of cells that express them and by their mean there, `(n_genes,)` each.

    At most eight strata, of 25 genes or more: halves of the mean within parts of the number of cells.
    """
    n = len(n_cells)
    parts = int(np.clip(n // (2 * PER_STRATUM), 1, _STRATA // 2))
    rank = np.argsort(np.argsort(n_cells, kind="stable"), kind="stable")
    part = rank * parts // max(1, n)
    strata = part.copy()
    if n >= 2 * PER_STRATUM:
        for k in range(parts):
            members = np.flatnonzero(part == k)
            above = mean[members] > np.median(mean[members])
            strata[members] = 2 * k + above
    return strata.astype(np.int64)


@dataclass(frozen=True, eq=False)
class MatchedNull:
    """The changes of all genes silenced, at the panel.

    Attributes:
        changes: `(n_units, n_panel)` relative changes, NaN where too few cells express the gene.
        strata: `(n_units,)`.
        homes: Chromosomes of each gene, or set of genes, as numbers.
    """

    panel: PeakPanel
    changes: FloatArray
    strata: IntArray
    homes: Sequence[IntArray]

    def score(
        self, unit: IntArray, peak: IntArray, change: DoubleArray, alternative: str
    ) -> tuple[DoubleArray, DoubleArray]:
        """Return z and p of pairs, `(n_pairs,)` each; NaN where there is no null distribution.

        `alternative`: `negative`: only a fall counts; `positive`: only a rise; `two-sided`: twice the smaller
        p.
        """
        z = np.full(len(unit), np.nan)
        pools: dict[tuple[int, int], list[DoubleArray]] = {}
        bins_of_panel = self.panel.bins[self.panel.members]
        n_bins = int(self.panel.bins.max(initial=0)) + 1
        order = np.argsort(unit, kind="stable")
        begin = np.searchsorted(unit[order], np.arange(len(self.changes) + 1))
        for k, changes in enumerate(self.changes):
            null = OwnNull(changes.astype(np.float64), bins_of_panel, self._usable(k), n_bins)
            of_unit = order[begin[k] : begin[k + 1]]
            if len(of_unit):
                member = np.full(len(of_unit), -1, dtype=np.int64)
                z[of_unit] = null.standardise(change[of_unit], self.panel.bins[peak[of_unit]], member)[0]
            values, bins = null.members()
            for b in np.unique(bins):
                pools.setdefault((int(self.strata[k]), int(b)), []).append(values[bins == b])
        p = np.full(len(unit), np.nan)
        stratum, bins = self.strata[unit], self.panel.bins[peak]
        for (s, b), parts in pools.items():
            tested = np.flatnonzero((stratum == s) & (bins == b) & np.isfinite(z))
            pool = np.concatenate(parts)
            if len(tested) and len(pool) >= FEWEST_MATCHED:
                p[tested] = tail_p(pool, z[tested], alternative)
        return z, p

    def _usable(self, unit: int) -> BoolArray:
        """Return which members of the panel are not on a gene's chromosome."""
        return ~np.isin(self.panel.chrom[self.panel.members], self.homes[unit])


def tail_p(pool: DoubleArray, values: DoubleArray, alternative: str) -> DoubleArray:
    """Return empirical p of values against a pool, which need not be symmetric; never 0."""
    pool, n = np.sort(pool), len(pool)
    low: DoubleArray = np.asarray(1.0 + np.searchsorted(pool, values, side="right"), dtype=np.float64) / (
        1.0 + n
    )
    high: DoubleArray = np.asarray(1.0 + n - np.searchsorted(pool, values, side="left"), dtype=np.float64) / (
        1.0 + n
    )
    if alternative == "negative":
        return low
    if alternative == "positive":
        return high
    return np.minimum(1.0, 2 * np.minimum(low, high))


MATCHED_GENES = 40
"""Least number of genes of a stratum that are silenced, others for comparison among them."""


@dataclass(frozen=True, eq=False)
class Units:
    """What is silenced: single genes, or sets of genes.

    Attributes:
        columns: Genes of each unit, by their columns in the model.
        n_asked: The first so many were asked for; others are there to compare with.
        strata: `(n_units,)`: alike in how many cells express them and how strongly.
        homes: Chromosomes of the genes of each unit, as numbers.
    """

    columns: Sequence[IntArray]
    n_asked: int
    strata: IntArray
    homes: Sequence[IntArray]


def choose_units(
    chosen: IntArray,
    n_cells: IntArray,
    mean: DoubleArray,
    home: IntArray,
    *,
    together: bool,
    min_cells: int,
    rng: np.random.Generator,
) -> Units:
    """Choose what is silenced: the genes asked for, and others that are expressed alike.

    Args:
        chosen: Columns of the genes, all expressed in `min_cells` or more.
        n_cells, mean: `(n_genes,)` cells that express each gene, and its mean count in them.
        home: `(n_genes,)` chromosome as a number, -1 where it is not known.
        together: Whether the genes are silenced at once; then sets of as many similar genes are drawn.
    """
    able = np.flatnonzero(n_cells >= min_cells)
    strata = np.zeros(len(n_cells), dtype=np.int64)
    strata[able] = strata_of(n_cells[able], mean[able])
    free = np.setdiff1d(able, chosen)
    if together:
        columns = [np.sort(chosen)]
        pools = [free[strata[free] == strata[gene]] for gene in chosen]
        pools = [pool if len(pool) else free for pool in pools]
        if len(free) >= len(chosen):
            drawn = [np.unique([rng.choice(pool) for pool in pools]) for _ in range(MATCHED_GENES)]
            columns += [one for one in drawn if len(one) == len(chosen)]
        of_unit = np.zeros(len(columns), dtype=np.int64)
        return Units(columns, 1, of_unit, [np.unique(home[one]) for one in columns])
    more = []
    for k in np.unique(strata[chosen]):
        lacking = MATCHED_GENES - int((strata[chosen] == k).sum())
        pool = free[strata[free] == k]
        if lacking > 0 and len(pool):
            more.append(rng.choice(pool, min(lacking, len(pool)), replace=False))
    genes = np.concatenate([chosen, *more]).astype(np.int64)
    return Units(
        [np.array([gene]) for gene in genes], len(chosen), strata[genes], [home[[gene]] for gene in genes]
    )


@dataclass(frozen=True, eq=False)
class Silenced:
    """What silencing changed.

    Attributes:
        n_cells: `(G + 1, n_units)` cells that express a unit: over all cells, then by group.
        delta, before: `(G + 1, n_pairs)` sums over them at the pairs asked about.
        panel: `(G + 1, n_units, n_panel)` relative changes.
    """

    n_cells: IntArray
    delta: DoubleArray
    before: DoubleArray
    panel: FloatArray

    def relative(self, group: int) -> DoubleArray:
        """Delta over the original, `(n_pairs,)`."""
        return _relative(self.delta[group], self.before[group])

    def null(self, group: int, panel: PeakPanel, units: Units) -> MatchedNull:
        """Return the null distribution in one group of cells."""
        return MatchedNull(panel, self.panel[group], units.strata, units.homes)


def _relative(delta: DoubleArray, before: DoubleArray) -> DoubleArray:
    relative: DoubleArray = np.full(delta.shape, np.nan)
    np.divide(delta, before, out=relative, where=before > 0)
    return relative


def collect(
    changes: Iterable[Change],
    n_units: int,
    panel: PeakPanel,
    pairs: tuple[IntArray, IntArray],
    *,
    n_groups: int,
    min_cells: int,
    say: Callable[[str], None],
) -> Silenced:
    """Keep the changes that units cause at some pairs and at the panel.

    Args:
        changes: Sums over `n_groups` groups of cells and, last, over cells of none.
        pairs: Unit and peak, `(n_pairs,)` each.
    """
    delta, before = np.full((2, n_groups + 1, len(pairs[0])), np.nan)
    at_panel = np.full((n_groups + 1, n_units, len(panel.members)), np.nan, dtype=np.float32)
    n_cells = np.zeros((n_groups + 1, n_units), dtype=np.int64)
    order = np.argsort(pairs[0], kind="stable")
    begin = np.searchsorted(pairs[0][order], np.arange(n_units + 1))
    tell = progress(say, "silencing", "genes")
    for change in changes:
        k = change.unit
        of_unit = order[begin[k] : begin[k + 1]]
        peaks = pairs[1][of_unit]
        for g in range(n_groups + 1):
            # the last group of the sums is of cells without one
            some = slice(None) if g == 0 else slice(g - 1, g)
            n_cells[g, k] = change.n_cells[some].sum()
            if n_cells[g, k] < min_cells:
                continue
            one, was = change.delta[some].sum(0), change.before[some].sum(0)
            delta[g, of_unit], before[g, of_unit] = one[peaks], was[peaks]
            at_panel[g, k] = _relative(one[panel.members], was[panel.members])
        tell(k + 1, n_units)
    return Silenced(n_cells, delta, before, at_panel)
