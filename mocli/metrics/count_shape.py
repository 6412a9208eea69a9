"""Whether simulated values of single features are like real ones: means, variances, zeros, depth."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.generated import Generated, generation_metric, moments, project

if TYPE_CHECKING:
    from mocli.metrics.generated import Of
    from mocli.types import DoubleArray, IntArray

SEEN_IN = 0.05
"""Share of the real cells that a feature must be seen in for its variance to be compared."""

FEWEST = 3
"""Cells below which nothing is compared."""


@generation_metric(
    name="mean_correlation",
    title="Correlation of feature means",
    best=1.0,
    bounds=(-1.0, 1.0),
    sentence="Whether features are as high on average as in real cells; 1 is perfect.",
    definition="Pearson correlation over features of the mean of logged values of simulated and real cells "
    "of "
    "a label.",
    section="mocli",
)
def mean_correlation(cells: Generated, of: Of, code: int) -> float:
    """Compare means."""
    real, simulated = (moments(x)[0] for x in cells.logged_of(of[0], code))
    if min(np.ptp(real), np.ptp(simulated)) == 0:
        return math.nan
    return float(np.corrcoef(real, simulated)[0, 1])


@generation_metric(
    name="mean_variance",
    title="Error of the mean-variance relation",
    best=0.0,
    bounds=(0.0, math.inf),
    needs={"counts"},
    sentence="By how many doublings the variance for the mean differs from that of real cells; 0 is perfect.",
    definition="Median over features seen in at least 5 % of the label's real cells of |log2 (variance / "
    "mean "
    "of simulated counts) - log2 (variance / mean of real counts)|.",
    section="mocli",
)
def mean_variance(cells: Generated, of: Of, code: int) -> float:
    """Compare variance over mean."""
    x, y = cells.raw(of[0], code)
    if min(x.shape[0], y.shape[0]) < FEWEST:
        return math.nan
    (mean_x, var_x), (mean_y, var_y) = moments(x), moments(y)
    seen = np.diff(x.tocsc().indptr) >= SEEN_IN * x.shape[0]
    seen &= (mean_x > 0) & (mean_y > 0) & (var_x > 0) & (var_y > 0)
    if not seen.any():
        return math.nan
    ratio = np.log2(var_y[seen] / mean_y[seen]) - np.log2(var_x[seen] / mean_x[seen])
    return float(np.median(np.abs(ratio)))


@generation_metric(
    name="zero_fraction",
    title="Error of the share of zeros",
    best=0.0,
    bounds=(0.0, 1.0),
    needs={"counts"},
    sentence="How far a feature's share of zeros is from that in real cells; 0 is perfect.",
    definition="Mean over features of |share of zeros in simulated cells - share in real cells| of a label.",
    section="mocli",
)
def zero_fraction(cells: Generated, of: Of, code: int) -> float:
    """Compare shares of zeros."""
    x, y = cells.raw(of[0], code)
    if min(x.shape[0], y.shape[0]) < FEWEST:
        return math.nan
    above = [np.diff(m.tocsc().indptr) / m.shape[0] for m in (x, y)]
    return float(np.abs(above[0] - above[1]).mean())


@generation_metric(
    name="library_ks",
    title="Difference of depths",
    best=0.0,
    bounds=(0.0, 1.0),
    needs={"counts"},
    sentence="Whether cells are as deep, and as different in depth, as real ones; 0 is perfect.",
    definition="Kolmogorov-Smirnov statistic of the total counts of simulated and real cells of a label.",
    section="mocli",
)
def library_ks(cells: Generated, of: Of, code: int) -> float:
    """Compare totals."""
    from scipy.stats import ks_2samp

    totals = [np.asarray(x.sum(1)).ravel() for x in cells.raw(of[0], code)]
    return float(ks_2samp(*totals, method="asymp").statistic) if min(map(len, totals)) >= FEWEST else math.nan


@generation_metric(
    name="variance_ratio",
    title="Variance ratio",
    best=1.0,
    bounds=(0.0, math.inf),
    sentence="Should be about 1: below it simulated cells of a label are more alike than real ones.",
    definition="Variance of logged values within a label, summed over features: simulated over real cells.",
    section="mocli",
)
def variance_ratio(cells: Generated, of: Of, code: int) -> float:
    """Compare variances within the label."""
    x, y = cells.logged_of(of[0], code)
    if min(x.shape[0], y.shape[0]) < FEWEST:
        return math.nan
    total = float(moments(x)[1].sum())
    return float(moments(y)[1].sum()) / total if total > 0 else math.nan


@generation_metric(
    name="component_variance_ratio",
    title="Variance ratio of principal components",
    best=1.0,
    bounds=(0.0, math.inf),
    sentence="Should be about 1: the diversity that cells of a label share over features, not the noise of "
    "each.",
    definition="As the variance ratio, over the first 20 principal components of one half of all real "
    "cells; the variance of real cells is that of the other half.",
    section="mocli",
)
def component_variance_ratio(cells: Generated, of: Of, code: int) -> float:
    """Compare variances of components within the label."""
    if min(map(len, cells.rows(of[0], code))) < FEWEST:
        return math.nan
    apart, real, simulated = cells.share(("apart", of[0]), partial(_components, cells, of[0]))
    mine = np.isin(apart, cells.rows(of[0], code)[0])
    own = cells.rows(of[0], code)[1]
    if min(int(mine.sum()), len(own)) < FEWEST:
        return math.nan
    total = float(real[mine].var(0).sum())
    return float(simulated[own].var(0).sum()) / total if total > 0 else math.nan


def _components(cells: Generated, name: str) -> tuple[IntArray, DoubleArray, DoubleArray]:
    """Half of the real cells, and simulated ones, on the components of the other half: nobody is favoured."""
    x, y = cells.logged(name)
    order = np.random.default_rng(cells.seed).permutation(x.shape[0])
    apart = np.sort(order[::2])
    real, simulated = project(x[np.sort(order[1::2])], x[apart], y, seed=cells.seed)
    return apart, real, simulated
