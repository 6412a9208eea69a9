"""Leading principal components of a matrix with many columns, which stays sparse throughout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from mocli.nn.neighbors import drawn_rows
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

EXTRA, POWERS = 10, 4
FIT_CELLS, ROWS = 20_000, 8_192
"""Cells that joint components are fitted on, and rows that are placed at a time."""

LEAST_SCALE = 0.05
"""Added to the scale of a column, so that what is hardly ever measured does not lead."""


class Principal(NamedTuple):
    """Loadings `(p, k)`, column means `(p,)`, and the sum of squares of the centred matrix."""

    loadings: DoubleArray
    mean: DoubleArray
    total: float

    def scores(self, x: CSR | FloatArray) -> DoubleArray:
        """Project `(n, p)` to `(n, k)`."""
        return np.asarray(x @ self.loadings - self.mean @ self.loadings)


def principal_components(x: CSR | FloatArray, k: int, *, seed: int, scaled: bool = False) -> Principal:
    """Fit on `(n, p)` by a randomised range finder (Halko et al. 2011); at most min(n, p) components.

    The matrix is centred in the products only, so that a sparse one stays sparse. The largest loading of a
    component is positive. `scaled` divides columns by their root mean square and `LEAST_SCALE`, which the
    loadings then contain: otherwise the most frequent of many sparse columns would dominate.
    """
    n, p = x.shape
    if scaled:
        scale = 1 / (_root_mean_square(x) + LEAST_SCALE)
        even = x * scale if isinstance(x, np.ndarray) else (x @ sparse.diags(scale)).tocsr()
        fitted = principal_components(even, k, seed=seed)
        return Principal(fitted.loadings * scale[:, None], fitted.mean / scale, fitted.total)
    k = min(k, n, p)
    mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()
    squares = float(x.multiply(x).sum()) if not isinstance(x, np.ndarray) else float(np.square(x).sum())
    draws = np.random.default_rng(seed).normal(size=(p, min(k + EXTRA, n, p)))
    basis = np.linalg.qr(_times(x, mean, draws))[0]
    for _ in range(POWERS):
        basis = np.linalg.qr(_times(x, mean, np.linalg.qr(_transposed(x, mean, basis))[0]))[0]
    right = np.linalg.svd(_transposed(x, mean, basis), full_matrices=False)[0][:, :k]
    sign = np.sign(right[np.abs(right).argmax(0), np.arange(right.shape[1])])
    return Principal(right * np.where(sign == 0, 1, sign), mean, max(squares - n * float(mean @ mean), 0.0))


def log_at_depth(x: CSR | FloatArray, depth: float) -> CSR | FloatArray:
    """Return log1p of counts `(n, p)` scaled to one total per row; empty rows stay empty."""
    factor = (depth / np.maximum(row_totals(x), 1)).astype(np.float32)
    if isinstance(x, np.ndarray):
        return np.log1p(x * factor[:, None])
    even = np.log1p(x.data * np.repeat(factor, np.diff(x.indptr)))
    return sparse.csr_matrix((even, x.indices, x.indptr), shape=x.shape)


def row_totals(x: CSR | FloatArray) -> DoubleArray:
    """Sum of each row, `(n,)`."""
    return np.asarray(x.sum(axis=1), dtype=np.float64).ravel()


def _root_mean_square(x: CSR | FloatArray) -> DoubleArray:
    squares = np.square(x) if isinstance(x, np.ndarray) else x.multiply(x)
    return np.sqrt(np.asarray(squares.mean(axis=0), dtype=np.float64).ravel())


def _times(x: CSR | FloatArray, mean: DoubleArray, v: DoubleArray) -> DoubleArray:
    return np.asarray(x @ v - mean @ v)


def _transposed(x: CSR | FloatArray, mean: DoubleArray, u: DoubleArray) -> DoubleArray:
    return np.asarray(x.T @ u - np.outer(mean, u.sum(axis=0)))


class Measured(NamedTuple):
    """Rows `(n,)` of the values of a modality, the cell of each, and the total that counts are scaled to."""

    values: CSR | FloatArray
    rows: IntArray
    cells: IntArray
    depth: float | None

    def even(self, some: IntArray | slice) -> CSR | FloatArray:
        """Return some of the rows, counts logged at one depth."""
        x = self.values[self.rows[some]]
        return x if self.depth is None else log_at_depth(x, self.depth)


def joint_components(
    modalities: Sequence[Measured], n_cells: int, k: int, *, batch: IntArray | None, seed: int
) -> DoubleArray:
    """Principal components of all modalities side by side, `(n_cells, k)`; missing components are zero.

    Each modality weighs by the share of its variance that its own components explain, and a modality that a
    cell lacks counts as the mean. Levels of the batch, codes `(n_cells,)`, are centred. Components are
    fitted on 20,000 cells at most.
    """
    fits = [_fitted(m, k, seed) for m in modalities]
    ends = np.cumsum([0, *(fitted.loadings.shape[1] for fitted, _ in fits)])
    blocks = np.zeros((n_cells, ends[-1]), np.float32)
    for m, (fitted, scale), a, b in zip(modalities, fits, ends[:-1], ends[1:], strict=True):
        for start in range(0, len(m.cells) if scale > 0 else 0, ROWS):
            some = slice(start, start + ROWS)
            blocks[m.cells[some], a:b] = fitted.scores(m.even(some)) / scale
    present = np.zeros((n_cells, 1))
    for m in modalities:
        present[m.cells] += 1 / len(modalities)
    blocks /= np.maximum(present, 1 / len(modalities))
    if batch is not None:
        levels = np.unique(batch, return_inverse=True)[1]
        sums = np.zeros((levels.max() + 1, blocks.shape[1]))
        np.add.at(sums, levels, blocks)
        blocks -= (sums / np.bincount(levels)[:, None])[levels]
    z = np.zeros((n_cells, k))
    some_cells = drawn_rows(n_cells, FIT_CELLS, seed=seed)
    fitted = principal_components(blocks[some_cells].astype(np.float64), k, seed=seed)
    for start in range(0, n_cells, ROWS):
        z[start : start + ROWS, : fitted.loadings.shape[1]] = fitted.scores(blocks[start : start + ROWS])
    return z


def _fitted(m: Measured, k: int, seed: int) -> tuple[Principal, float]:
    """Components of one modality, and the root of its variance, by which its scores are divided."""
    chosen = drawn_rows(len(m.cells), FIT_CELLS, seed=seed)
    fitted = principal_components(m.even(chosen), k, seed=seed)
    # per cell, so that modalities with more cells weigh no more
    return fitted, math.sqrt(fitted.total / max(len(chosen), 1))
