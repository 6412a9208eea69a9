"""Whether imputed cells look like as many cells of each label as there are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.imputed import imputation_metric

if TYPE_CHECKING:
    from mocli.metrics.imputed import LabelledCells

FEWEST = 3
"""Labels below which shares, which sum to 1, always correlate fully."""


@imputation_metric(
    name="imputation_label_shares",
    title="Correlation of label shares",
    better="higher",
    bounds=(-1.0, 1.0),
    sentence="Whether imputed cells look like as many cells of each label as there are: 1 is in proportion; "
    "it does not ask whether each cell has its own label.",
    definition="Pearson correlation, over the labels that cells have or are given (at least 3), of the share "
    "of cells that have a label with the share given it by imputed values: that of most of the 15 nearest "
    "real cells (Euclidean, first 50 principal components of the real cells' logged values, at most 3,000 "
    "features of the greatest variance; at most 5,000 cells: those trained on, or all of the file where a "
    "model is given).",
    section="scCross, Genome Biol 2024, cell type proportions of generated cells (0.89 on mouse cortex)",
)
def label_shares(cells: LabelledCells) -> float:
    """Correlate shares."""
    n = len(cells.levels)
    true, given = (np.bincount(codes, minlength=n) for codes in (cells.label, cells.given))
    seen = (true + given) > 0
    true, given = true[seen], given[seen]
    if len(true) < FEWEST or not true.std() or not given.std():
        return math.nan
    return float(np.corrcoef(true, given)[0, 1])
