"""Features that new cells were not measured for: what stands in their place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from mocli.data.bundle import FeatureMatrix
    from mocli.types import CSR, FloatArray, IntArray

LEAST_FILLED = 0.05
"""Counts of features with a smaller part of the average feature's mean are left at 0."""


def at_mean(features: FeatureMatrix, columns: IntArray, means: FloatArray | None) -> FeatureMatrix:
    """Set columns to the training cells' mean for every cell; of standardised features it is 0."""
    fill = np.zeros(len(columns), np.float32) if means is None else means[columns]
    values, offset = features.values.copy(), features.offset
    if isinstance(values, np.ndarray):
        values[:, columns] = fill
    else:
        values.data[np.isin(values.indices, columns)] = 0
    if offset is not None or (fill.any() and not isinstance(values, np.ndarray)):
        offset = np.zeros(features.n_vars, np.float32) if offset is None else offset.copy()
        offset[columns] = 0 if isinstance(values, np.ndarray) else fill
    return replace(features, values=values, offset=offset)


def at_shares(values: CSR | FloatArray, columns: IntArray, means: FloatArray) -> CSR | FloatArray:
    """Set columns of counts to what a cell of its depth would have: its other counts tell the depth."""
    measured = np.ones(len(means), bool)
    measured[columns] = False
    known: float = float(means[measured].sum(dtype=np.float64)) or 1.0
    if isinstance(values, np.ndarray):
        depth = values[:, measured].sum(axis=1, dtype=np.float64) / known
        filled = values.copy()
        filled[:, columns] = np.outer(depth, means[columns])
        return filled
    x = sparse.csr_matrix(values)
    depth = np.asarray(x[:, np.flatnonzero(measured)].sum(axis=1), np.float64).ravel() / known
    # features hardly ever seen are left at 0: thousands of tiny values would make the matrix dense
    worth = columns[means[columns] > LEAST_FILLED * means.mean()]
    place = sparse.csr_matrix(
        (means[worth], (np.zeros(len(worth), np.int64), worth)), shape=(1, len(means)), dtype=np.float32
    )
    keep = sparse.diags(measured.astype(np.float32))
    found = sparse.csr_matrix(x @ keep + sparse.csr_matrix(depth[:, None].astype(np.float32)) @ place)
    found.sort_indices()
    return found
