"""Leading principal components of a matrix with many columns, sparse to the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mocli.types import CSR, DoubleArray, FloatArray

EXTRA, POWERS = 10, 4


class Principal(NamedTuple):
    """Loadings `(p, k)`, column means `(p,)`, and the sum of squares of the centred matrix."""

    loadings: DoubleArray
    mean: DoubleArray
    total: float

    def scores(self, x: CSR | FloatArray) -> DoubleArray:
        """Project `(n, p)` to `(n, k)`."""
        return np.asarray(x @ self.loadings - self.mean @ self.loadings)


def principal_components(x: CSR | FloatArray, k: int, *, seed: int) -> Principal:
    """Fit on `(n, p)` by a randomised range finder (Halko et al. 2011); at most min(n, p) components.

    The matrix is centred in the products only, so that a sparse one stays sparse. The largest loading of a
    component is positive.
    """
    n, p = x.shape
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


def _times(x: CSR | FloatArray, mean: DoubleArray, v: DoubleArray) -> DoubleArray:
    return np.asarray(x @ v - mean @ v)


def _transposed(x: CSR | FloatArray, mean: DoubleArray, u: DoubleArray) -> DoubleArray:
    return np.asarray(x.T @ u - np.outer(mean, u.sum(axis=0)))
