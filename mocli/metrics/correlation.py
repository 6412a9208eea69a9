"""Correlations and differences of features, with their null distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mocli.types import CSR, BoolArray, DoubleArray, FloatArray, IntArray

_ROUNDING = 1e-6  # a spread below this share of the largest value is float32 noise
DECILES = 10
FEWEST_MATCHED = 10  # features that must be left for a feature's own mean and spread
_PER_BIN = 50  # features that earn another bin
_FEWEST_BIN = 20


class UnitRows(NamedTuple):
    """The columns of a sparse matrix, as rows.

    Attributes:
        rows: CSR `(m, n)` float64: a column divided by the norm of its centred form. Multiplied by a centred
            unit vector this gives Pearson's correlation: the mean, which was not subtracted, cancels because
            that vector sums to 0.
        constant: `(m,)`, columns without a correlation.
    """

    rows: CSR
    constant: BoolArray

    def times(self, block: DoubleArray) -> DoubleArray:
        """Correlate with the columns `(n, k)` that `unit_dense` gives: `(m, k)`, NaN where undefined."""
        product: DoubleArray = np.clip(self.rows @ block, -1.0, 1.0)
        product[self.constant] = np.nan
        return product

    def take(self, index: np.ndarray) -> UnitRows:
        """Return some of the columns."""
        return UnitRows(self.rows[index], self.constant[index])


def unit_sparse(columns: CSR) -> UnitRows:
    """Scale the columns of a CSC matrix `(n, m)` for `UnitRows.times`."""
    x = columns.astype(np.float64)  # a copy
    x.sum_duplicates()
    n, m = x.shape
    stored = np.diff(x.indptr)
    column = np.repeat(np.arange(m), stored)
    mean = np.bincount(column, x.data, m) / n
    squares = np.bincount(column, (x.data - mean[column]) ** 2, m) + (n - stored) * mean**2
    peak = np.zeros(m)
    np.maximum.at(peak, column, np.abs(x.data))
    norm = np.sqrt(squares)
    constant = ~(norm > _ROUNDING * peak * math.sqrt(n))
    x.data /= np.where(constant, 1.0, norm)[column]
    return UnitRows(x.T, constant)


def unit_dense(block: np.ndarray) -> DoubleArray:
    """Columns `(n, k)` of mean 0 and norm 1 in float64; NaN where constant up to float32 rounding."""
    v = block.astype(np.float64)
    peak = np.abs(v).max(axis=0, initial=0.0)
    v -= v.mean(axis=0)
    norm = np.sqrt(np.einsum("ij,ij->j", v, v))
    constant = ~(norm > _ROUNDING * peak * math.sqrt(len(v)))
    v /= np.where(constant, np.nan, norm)
    return v


def rank_sparse(columns: CSR) -> CSR:
    """Rank each column of a CSC matrix `(n, m)`, ties averaged, minus the rank of its zeros.

    Only stored values are sorted: a column's zeros share one rank, and subtracting it from every cell
    changes no correlation and keeps the zeros zero.
    """
    x = columns.astype(np.float64)
    x.sum_duplicates()
    x.eliminate_zeros()
    n = x.shape[0]
    for begin, end in zip(x.indptr[:-1], x.indptr[1:], strict=True):
        values = x.data[begin:end]
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        first = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, [end - begin]])
        rank = np.repeat((first[:-1] + 1 + first[1:]) / 2, np.diff(first))
        negative, zeros = np.searchsorted(ordered, 0.0), n - (end - begin)
        rank[negative:] += zeros
        values[order] = rank - (negative + (zeros + 1) / 2)
    return x


def rank_dense(block: np.ndarray) -> DoubleArray:
    """Rank each column `(n, k)`, ties averaged."""
    from scipy import stats  # late: listing the metrics loads nothing heavy

    return stats.rankdata(block, axis=0)


def empirical_p(null: FloatArray, observed: DoubleArray) -> DoubleArray:
    """Two-sided p of values against a pool of null draws.

    `(1 + #{|null| >= |observed|}) / (1 + #null)`: never 0, and valid for any
    shape of the null. NaN where the value is NaN or the pool is empty.

    Args:
        null: `(n_null,)` in any order, finite.
        observed: `(n,)`; compared in float32 as the pool is kept, so that a value that is also in the pool
            counts as equal to itself.
    """
    pool = np.sort(np.abs(null.astype(np.float32)))
    values = np.abs(observed.astype(np.float32))
    at_least = len(pool) - np.searchsorted(pool, values, side="left")
    p: DoubleArray = (1.0 + at_least.astype(np.float64)) / (1.0 + len(pool))
    p[~np.isfinite(values) | (len(pool) == 0)] = np.nan
    return p


def outlier_p(z: DoubleArray, count: IntArray) -> DoubleArray:
    """Return the two-sided p of a value, given mean and spread of `count` others of one normal distribution.

    `z / sqrt(1 + 1 / count)` then has Student's distribution with `count - 1`
    degrees of freedom (the studentised residual). NaN where z is.
    """
    from scipy import stats  # late: listing the metrics loads nothing heavy

    count = np.maximum(count, 2)
    return 2.0 * stats.t.sf(np.abs(z) / np.sqrt(1.0 + 1.0 / count), count - 1)


def false_discovery_rate(p: DoubleArray, n_compared: int | None = None) -> DoubleArray:
    """Benjamini and Hochberg's adjusted p; NaN stays NaN and is no test.

    `n_compared`: number of tests that the values were selected from. Those left out count as tests with p =
    1, which is conservative.
    """
    from scipy import stats  # late: listing the metrics loads nothing heavy

    adjusted = np.full(len(p), np.nan)
    finite = np.isfinite(p)
    tests = int(finite.sum())
    if tests:
        more = max(1.0, (n_compared or 0) / len(p))
        adjusted[finite] = np.minimum(stats.false_discovery_control(p[finite]) * more, 1.0)
    return adjusted


class Panel(NamedTuple):
    """Features drawn to represent all features that are detected equally often.

    Attributes:
        features: `(n_panel,)` positions, increasing.
        bins: `(n_features,)` bin of every feature's rate, drawn or not.
    """

    features: IntArray
    bins: IntArray

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return int(self.bins.max(initial=0)) + 1


def draw_panel(rate: DoubleArray, eligible: BoolArray, per_bin: int, rng: np.random.Generator) -> Panel:
    """Draw features from every decile of the rate.

    Bins are deciles of the rate over the eligible features that are detected at all; there are fewer bins
    where a bin would have fewer than 50 features, or where many features share one rate.

    Args:
        rate: `(n_features,)` fraction of cells with signal.
        per_bin: Features drawn from each bin; all of them where it has fewer.
    """
    population = np.flatnonzero(eligible & (rate > 0))
    n_bins = int(np.clip(len(population) // _PER_BIN, 1, DECILES))
    sorted_rate = np.sort(rate[population])
    edges: list[float] = []
    low = 0
    for share in np.arange(1, n_bins) / n_bins:
        edge = sorted_rate[int(share * len(population))]
        below = int(np.searchsorted(sorted_rate, edge, side="left"))
        if min(below - low, len(population) - below) >= _FEWEST_BIN:
            edges.append(float(edge))
            low = below
    bins = np.searchsorted(np.asarray(edges), rate, side="right").astype(np.int64)
    drawn = []
    for k in range(len(edges) + 1):
        members = population[bins[population] == k]
        drawn.append(rng.choice(members, min(per_bin, len(members)), replace=False))
    return Panel(np.sort(np.concatenate(drawn)).astype(np.int64), bins)


class OwnNull:
    """The panel's correlations with one feature of the other side, bin by bin.

    Args:
        correlation: `(n_panel,)`; NaN is left out.
        bins: `(n_panel,)`.
        usable: `(n_panel,)`, the members that are null for this feature.
    """

    def __init__(self, correlation: DoubleArray, bins: IntArray, usable: BoolArray, n_bins: int) -> None:
        self._bins, self._usable = bins, usable & np.isfinite(correlation)
        self._values = np.where(self._usable, correlation, 0.0)
        self._count = np.bincount(bins, self._usable, n_bins)
        self._sum = np.bincount(bins, self._values, n_bins)
        self._squares = np.bincount(bins, self._values**2, n_bins)

    def standardise(
        self, values: DoubleArray, bins: IntArray, member: IntArray
    ) -> tuple[DoubleArray, IntArray]:
        """Return how many standard deviations values lie from the mean of their bin.

        Args:
            values, bins: `(n,)`.
            member: `(n,)` position in the panel, -1 for none. A member of the null is left out of the mean
                and standard deviation that it is compared with.

        Returns:
            `(n,)`, NaN where fewer than 10 features are left or all have one value; and the number of
            features each was measured by.
        """
        within = (member >= 0) & self._usable[member] if len(self._usable) else np.zeros(len(member), bool)
        own_value = (
            np.where(within, self._values[member], 0.0) if len(self._usable) else np.zeros(len(member))
        )
        n_others: IntArray = (self._count[bins] - within).astype(np.int64)
        total = self._sum[bins] - own_value
        squares = self._squares[bins] - own_value**2
        enough = n_others >= FEWEST_MATCHED
        count = np.where(enough, n_others, 2.0)
        mean = total / count
        variance = (squares - total * mean) / (count - 1)
        z: DoubleArray = np.full(len(values), np.nan)
        defined = enough & (variance > 1e-14)
        z[defined] = (values[defined] - mean[defined]) / np.sqrt(variance[defined])
        return z, n_others

    def members(self) -> tuple[DoubleArray, IntArray]:
        """Return the null's own standardised values and their bins, `(n_null,)` each."""
        place = np.flatnonzero(self._usable)
        z, _ = self.standardise(self._values[place], self._bins[place], place)
        finite = np.isfinite(z)
        return z[finite], self._bins[place][finite]


FDR = 0.05


@dataclass(frozen=True, eq=False)
class Differential:
    """How features differ between a group and the other cells, `(p,)` each; NaN where unknown.

    Attributes:
        change: Mean of the group minus mean of the other cells.
        p, fdr: Of Wilcoxon's rank-sum test, two-sided, and adjusted over the features (Benjamini-Hochberg).
    """

    change: DoubleArray
    p: DoubleArray

    @property
    def fdr(self) -> DoubleArray:
        """Return the p values adjusted over the features."""
        return false_discovery_rate(self.p)

    @property
    def differs(self) -> BoolArray:
        """Features with an FDR below 5 %."""
        return np.nan_to_num(self.fdr, nan=1.0) < FDR


def differential(values: FloatArray, among: BoolArray) -> Differential:
    """Compare the cells of a group with all others, feature by feature.

    Args:
        values: `(n, p)`; features that are not finite throughout are not compared.
        among: Cells of the group, `(n,)`.
    """
    from scipy.stats import mannwhitneyu

    measured_throughout: BoolArray = np.asarray(np.isfinite(values).all(axis=0))
    change, p = np.full(len(measured_throughout), np.nan), np.full(len(measured_throughout), np.nan)
    x = values[:, measured_throughout].astype(np.float64)
    change[measured_throughout] = x[among].mean(0) - x[~among].mean(0)
    varies = x.max(0, initial=-np.inf) > x.min(0, initial=np.inf)
    p_measured = np.ones(x.shape[1])
    if varies.any():
        p_measured[varies] = mannwhitneyu(
            x[among][:, varies], x[~among][:, varies], method="asymptotic"
        ).pvalue
    p[measured_throughout] = p_measured
    return Differential(change, p)


@dataclass(frozen=True)
class ListsCompared:
    """How predicted changes agree with measured ones.

    Attributes:
        n: Features that have both.
        n_differ: Of these, features that are measured to differ: as many predicted features are taken, those
            with the largest changes.
        n_both, expected, p: Features in both lists with the same sign; the number expected by chance if signs
            are even; the probability of as many (hypergeometric: Fisher's exact test of the overlap, without
            signs).
        same_sign: Share of the features measured to differ whose predicted change has the sign of the
            measured one.
        pearson, spearman: Of the changes over all features.
    """

    n: int
    n_differ: int
    n_both: int
    expected: float
    p: float
    same_sign: float
    pearson: float
    spearman: float


def agreement(predicted: DoubleArray, measured: Differential) -> ListsCompared:
    """Compare predicted changes `(p,)` with measured ones.

    The list of predicted features is as long as the list of features measured to differ: expected values
    carry no noise, so a test of them would select nearly all features.
    """
    from scipy.stats import hypergeom, spearmanr

    finite = np.isfinite(predicted) & np.isfinite(measured.change)
    x, y, differs = predicted[finite], measured.change[finite], measured.differs[finite]
    n, k = len(x), int(differs.sum())
    top = np.zeros(n, dtype=bool)
    top[np.argsort(-np.abs(x), kind="stable")[:k]] = True
    alike = np.sign(x) == np.sign(y)
    both = differs & top
    varies = n > 2 and x.std() > 0 and y.std() > 0
    return ListsCompared(
        n=n,
        n_differ=k,
        n_both=int((both & alike).sum()),
        expected=k * k / n / 2 if n else float("nan"),
        p=float(hypergeom.sf(both.sum() - 1, n, k, k)) if n else float("nan"),
        same_sign=float(alike[differs].mean()) if k else float("nan"),
        pearson=float(np.corrcoef(x, y)[0, 1]) if varies else float("nan"),
        spearman=float(spearmanr(x, y).statistic) if varies else float("nan"),
    )
