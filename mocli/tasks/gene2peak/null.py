"""The null distribution of a silenced gene: its changes at peaks elsewhere, as open and as near to a gene.

Every gene is measured by its own matched peaks, so that a gene that moves half of all peaks has a
wide null of its own. The tails of that null come from genes that are expressed in as many cells:

    z = (change - mean over matched peaks) / their standard deviation,   change = delta / original
    p = rank of z among the z of matched genes at matched peaks, each measured without itself

Matched peaks lie on other chromosomes than the gene, in the same tenth of accessibility and at a like
distance from the nearest transcription start. With genes permuted p is uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mocli.metrics.correlation import FEWEST_MATCHED, OwnNull
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray

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
