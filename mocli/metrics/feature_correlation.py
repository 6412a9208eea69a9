"""Whether features of simulated cells go together as those of real cells do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.generated import Generated, generation_metric, moments

if TYPE_CHECKING:
    from mocli.metrics.generated import Of
    from mocli.types import CSR, DoubleArray, IntArray

MOST_COMPARED = 100
FEWEST_CELLS, FEWEST_FEATURES = 20, 3


@generation_metric(
    name="feature_correlation",
    title="Agreement of feature-feature correlations",
    best=1.0,
    bounds=(-1.0, 1.0),
    sentence="Whether the same features rise and fall together within a label; compare with other real "
    "cells, as "
    "correlations of few counts are noisy.",
    definition="Pearson correlation, over all pairs of the 100 features of greatest variance among the "
    "label's real "
    "cells, of their correlations in simulated and in real cells (logged values).",
    section="mocli",
)
def feature_correlation(cells: Generated, of: Of, code: int) -> float:
    """Compare correlations within a modality."""
    x, y = cells.logged_of(of[0], code)
    chosen = _most_variable(x, y)
    if min(x.shape[0], y.shape[0]) < FEWEST_CELLS or len(chosen) < FEWEST_FEATURES:
        return math.nan
    pairs = np.triu_indices(len(chosen), 1)
    return _agreement(*(_correlations(m[:, chosen], m[:, chosen])[pairs] for m in (x, y)))


@generation_metric(
    name="cross_correlation",
    title="Agreement of correlations across modalities",
    best=1.0,
    bounds=(-1.0, 1.0),
    needs={"paired"},
    of_two=True,
    sentence="Whether features of two modalities go together as in real cells; needs cells measured in both.",
    definition="As the agreement of feature-feature correlations, over pairs of one of the 100 most variable "
    "features of each of two modalities.",
    section="mocli",
)
def cross_correlation(cells: Generated, of: Of, code: int) -> float:
    """Compare correlations between two modalities."""
    (x, y), (v, w) = (cells.logged_of(m, code) for m in of)
    first, second = _most_variable(x, y), _most_variable(v, w)
    if min(x.shape[0], y.shape[0]) < FEWEST_CELLS or min(len(first), len(second)) < FEWEST_FEATURES:
        return math.nan
    real = _correlations(x[:, first], v[:, second])
    return _agreement(real.ravel(), _correlations(y[:, first], w[:, second]).ravel())


def _most_variable(x: CSR, y: CSR) -> IntArray:
    """Features that vary most among real cells, and vary among simulated ones."""
    variance = moments(x)[1] * (moments(y)[1] > 0)
    order = np.argsort(-variance, kind="stable")[:MOST_COMPARED]
    return np.sort(order[variance[order] > 0])


def _correlations(a: CSR, b: CSR) -> DoubleArray:
    """Pearson correlations of the columns of two matrices with the same rows."""
    product = (a.T @ b).astype(np.float64) @ np.eye(b.shape[1]) / a.shape[0]
    (mean_a, var_a), (mean_b, var_b) = moments(a), moments(b)
    found: DoubleArray = (product - np.outer(mean_a, mean_b)) / np.sqrt(np.outer(var_a, var_b))
    return found


def _agreement(real: DoubleArray, simulated: DoubleArray) -> float:
    if min(np.ptp(real), np.ptp(simulated)) == 0:
        return math.nan
    return float(np.corrcoef(real, simulated)[0, 1])
