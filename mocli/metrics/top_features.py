"""Whether the features that mark a label have the imputed values that they should have in it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.imputed import imputation_metric

if TYPE_CHECKING:
    from mocli.metrics.imputed import LabelledCells
    from mocli.types import DoubleArray, IntArray

TOP = 5
FEWEST = 3


@imputation_metric(
    name="imputation_top_features",
    title="Correlation of top features' means",
    better="higher",
    bounds=(-1.0, 1.0),
    sentence="Whether the strongest features of each label have the imputed level that they have when "
    "measured; as their levels differ, even the mean of all cells can come near 1.",
    definition="Of every label the 5 features whose mean measured logged value exceeds most the mean of the "
    "cells of other labels; Pearson correlation, over labels and their features, of the means over the "
    "label's cells of measured and of imputed values (at least 3; features without imputed values are left "
    "out).",
    section="scCross, Genome Biol 2024, top 5 genes of each cell type (0.93 on mouse cortex)",
)
def top_features(cells: LabelledCells) -> float:
    """Correlate means."""
    has = np.flatnonzero(cells.sizes)
    if len(has) < 2:
        return math.nan
    top = top_of(cells.measured, cells.sizes)[has]
    x, y = (np.take_along_axis(means[has], top, axis=1).ravel() for means in (cells.measured, cells.imputed))
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < FEWEST or not x.std() or not y.std():
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def top_of(means: DoubleArray, sizes: IntArray) -> IntArray:
    """Return the 5 features of each label that exceed most the mean of the cells of other labels.

    Parameters
    ----------
    means, sizes
        Mean values by label `(n_levels, p)`, two or more of which have cells, and how many `(n_levels,)`.
    """
    size = sizes[:, None].astype(np.float64)
    known = np.where(size > 0, means, 0)
    others = (size * known).sum(0) - size * known
    excess = known - others / (size.sum() - size)
    excess[:, ~np.isfinite(known).all(0)] = -np.inf
    top: IntArray = np.argsort(-excess, axis=1, kind="stable")[:, :TOP]
    return top
