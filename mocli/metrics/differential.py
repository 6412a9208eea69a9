"""Features that differ between two groups of cells: measured differences against predicted ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mocli.metrics.correlation import false_discovery_rate
from mocli.types import BoolArray, DoubleArray, FloatArray

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
