"""One set of cells over which pairs are correlated, block by block, and the null draws collected from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mocli.metrics.correlation import (
    OwnNull,
    Panel,
    UnitRows,
    draw_panel,
    rank_dense,
    rank_sparse,
    unit_dense,
    unit_sparse,
)
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

ALL = "all"
MOST_PERMUTED = 2_000_000  # values of the pool
MOST_MATCHED = 4_000_000
_POOL_MEANT = 100_000  # values of a bin; of few features of A more of B are drawn, so that p can be small
_MOST_PER_BIN = 2_000
_DENSE = 0.25  # share of a block's products that are wanted, above which all are made


@dataclass(frozen=True, eq=False)
class FeaturePairs:
    """Candidates.

    Attributes:
        first, second: `(n_pairs,)` columns of A (imputed) and of B (measured).
        n_compared: How many pairs these were selected from by their correlation; None where they were not.
        home: `(p_B,)` chromosome of every feature of B, -1 if unknown; None where B has no genomic positions.
            It decides what the matched null is.
    """

    first: IntArray
    second: IntArray
    n_compared: int | None = None
    home: IntArray | None = None


class Scope:
    """Correlations over some cells; see `relate` for what the nulls are.

    Args:
        rows: The cells, None for all.
        features: First features, and the begin and length of each one's run of pairs.

    Attributes:
        outlier: Whether the candidates are most of all pairs, or were selected from them by their
            correlation, so that no feature remains that is surely null.
    """

    def __init__(
        self,
        measured: CSR,
        rows: IntArray | None,
        pairs: FeaturePairs,
        *,
        name: str,
        features: tuple[IntArray, IntArray, IntArray],
        n_permutations: int,
        n_matched: int,
        rng: np.random.Generator,
    ) -> None:
        self.name, self.rows = name, rows
        of_cells = measured if rows is None else measured[rows]
        self.n_cells = of_cells.shape[0]
        self.correlation, self.spearman, self.z = (np.full(len(pairs.first), np.nan) for _ in range(3))
        self._pairs, (_, self._start, self._length) = pairs, features
        cells = np.tile(np.arange(self.n_cells)[:, None], n_permutations)
        self.n_matched = np.zeros(len(pairs.first), dtype=np.int64)
        self.outlier = pairs.home is None and (
            pairs.n_compared is not None or 2 * len(pairs.first) > len(self._length) * of_cells.shape[1]
        )
        self._order = rng.permuted(cells, axis=0)  # (n, n_permutations)
        shuffled = rng.permutation(len(self._length))
        in_turn = np.cumsum(self._length[shuffled]) * n_permutations
        self._to_permute = _leading(shuffled, in_turn <= MOST_PERMUTED, wanted=n_permutations > 0)
        self._permuted: list[FloatArray] = []
        self._panel: Panel | None = None
        self._matched: list[tuple[FloatArray, IntArray]] = []
        if n_matched and of_cells.shape[1]:
            few = _POOL_MEANT // max(1, len(self._length))
            self._draw(of_cells, max(n_matched, min(_MOST_PER_BIN, few)), rng)
            in_turn = np.arange(1, len(shuffled) + 1) * len(self._member_bins)
            self._to_match = _leading(shuffled, in_turn <= MOST_MATCHED, wanted=not self.outlier)
        self._union: IntArray | None = None
        self._unit: UnitRows
        self._ranks: UnitRows

    def add(
        self,
        chosen: IntArray,
        values: FloatArray,
        union: IntArray,
        columns: CSR,
        local: IntArray,
        entries: IntArray,
    ) -> None:
        """Correlate a block.

        Args:
            chosen: `(k,)` positions among the first features.
            values: `(n, k)` imputed, of all cells.
            union, columns: Measured features of the block's pairs, increasing, and their values of all cells,
                CSC.
            local, entries: `(m,)` row of `union` and position among all pairs, of the block's pairs in the
                order of `chosen`.
        """
        self._prepare(union, columns)
        of_cells = values if self.rows is None else values[self.rows]
        block = unit_dense(of_cells)
        bounds = np.concatenate([[0], np.cumsum(self._length[chosen])])
        self.correlation[entries] = _products(self._unit, block, local, bounds)
        ranked = _products(self._ranks, unit_dense(rank_dense(of_cells)), local, bounds)
        self.spearman[entries] = np.where(np.isnan(self.correlation[entries]), np.nan, ranked)
        if self._panel is not None:
            self._standardise(chosen, self._members.times(block))
        for j, k in enumerate(chosen):
            if self._to_permute[k] and np.isfinite(block[0, j]):
                rows = _taken(self._unit, local[bounds[j] : bounds[j + 1]])
                null = rows.times(block[:, j][self._order]).ravel()
                null = null[np.isfinite(null)] * np.sqrt(self.n_cells - 1)
                self._permuted.append(null.astype(np.float32))

    def permuted(self) -> FloatArray:
        """Correlations under permutation times sqrt(n - 1), of all pairs together."""
        return np.concatenate([np.zeros(0, np.float32), *self._permuted])

    def matched(self, k: int) -> FloatArray:
        """Standardised correlations with matched features of one bin, of all first features together."""
        return np.concatenate([np.zeros(0, np.float32), *(z[bins == k] for z, bins in self._matched)])

    def bins_of(self, second: IntArray) -> IntArray:
        """Bin of each measured feature's rate."""
        return np.zeros(len(second), np.int64) if self._panel is None else self._panel.bins[second]

    def _draw(self, of_cells: CSR, n_matched: int, rng: np.random.Generator) -> None:
        home = self._pairs.home
        seen = np.bincount(of_cells.indices[of_cells.data != 0], minlength=of_cells.shape[1]) / max(
            1, self.n_cells
        )
        eligible = np.ones(of_cells.shape[1], bool) if home is None else home >= 0
        panel = draw_panel(seen, eligible, n_matched, rng)
        self._panel, self._member_bins = panel, panel.bins[panel.features]
        self._members = unit_sparse(of_cells[:, panel.features].tocsc())
        self._member_of = np.full(of_cells.shape[1], -1, dtype=np.int64)
        self._member_of[panel.features] = np.arange(len(panel.features))
        self._member_home = None if home is None else home[panel.features]

    def _prepare(self, union: IntArray, columns: CSR) -> None:
        if self._union is not None and np.array_equal(union, self._union):
            return
        of_cells = columns if self.rows is None else columns[self.rows]
        self._union, self._unit, self._ranks = (
            union,
            unit_sparse(of_cells),
            unit_sparse(rank_sparse(of_cells)),
        )

    def _standardise(self, chosen: IntArray, against: DoubleArray) -> None:
        assert self._panel is not None
        bins = self._panel.bins
        for j, k in enumerate(chosen):
            run = slice(self._start[k], self._start[k] + self._length[k])
            second = self._pairs.second[run]
            usable = np.ones(len(self._member_bins), bool)
            if self._member_home is not None and self._pairs.home is not None:
                usable = ~np.isin(self._member_home, self._pairs.home[second])
            elif not self.outlier:
                member = self._member_of[second]
                usable[member[member >= 0]] = False
            null = OwnNull(against[:, j], self._member_bins, usable, self._panel.n_bins)
            self.z[run], self.n_matched[run] = null.standardise(
                self.correlation[run], bins[second], self._member_of[second]
            )
            if self._to_match[k]:
                z, of_bin = null.members()
                self._matched.append((z.astype(np.float32), of_bin.astype(np.int8)))


def _leading(shuffled: IntArray, fits: np.ndarray, *, wanted: bool) -> np.ndarray:
    """Features drawn for a pool: those that fit in turn, one at least."""
    chosen = np.zeros(len(shuffled), bool)
    if wanted and len(shuffled):
        chosen[shuffled[: max(1, int(fits.sum()))]] = True
    return chosen


def _taken(rows: UnitRows, local: IntArray) -> UnitRows:
    """Return rows by number, increasing; not a copy if all are wanted."""
    return rows if len(local) == len(rows.constant) else rows.take(local)


def _products(rows: UnitRows, block: DoubleArray, local: IntArray, bounds: IntArray) -> DoubleArray:
    """Correlations of pairs: each column `j` with `local[bounds[j] : bounds[j + 1]]`."""
    column = np.repeat(np.arange(block.shape[1]), np.diff(bounds))
    if len(local) > _DENSE * len(rows.constant) * block.shape[1]:
        return rows.times(block)[local, column]
    parts = [
        _taken(rows, local[bounds[j] : bounds[j + 1]]).times(block[:, j : j + 1])[:, 0]
        for j in range(block.shape[1])
    ]
    return np.concatenate([np.zeros(0), *parts])
