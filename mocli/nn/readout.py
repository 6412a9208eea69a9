"""Prediction of features from a latent: a closed-form map that is robust to a shift between modalities.

A latent is expressed by its nearness to a few prototypes (normalised Gaussian
weights, as in radial basis functions: Moody and Darken 1989,
doi:10.1162/neco.1989.1.2.281), and features are a ridge regression on it. Cells
of another modality never lie exactly where the cells of the target lie; strong
shrinkage over few prototypes gave better values for them than networks, nearest
neighbours or a finer basis did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls

from mocli.nn.neighbors import drawn_rows
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

N_PROTOTYPES = 64
RIDGE = 1.0
"""Penalty in units of the mean variance of the basis over the cells."""

NEAR = 3
"""The width of a prototype is the cells' median distance to their third nearest one."""

FIT_CELLS = 20_000
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Basis:
    """Nearness to prototypes.

    Attributes:
        centers: `(m, n_latent)`.
        width: Standard deviation of the Gaussian weights.
        center: Mean of the weights over the cells it was fitted on, `(m,)`.
    """

    centers: FloatArray
    width: float
    center: FloatArray

    @classmethod
    def fit(cls, z: FloatArray, *, seed: int) -> Basis:
        """Choose at most 64 prototypes by k-means on `(n, n_latent)`, on 20,000 sampled cells at most."""
        from sklearn.cluster import KMeans

        n = len(z)
        if n > FIT_CELLS:
            z = z[drawn_rows(n, FIT_CELLS, seed=seed)]
        # coordinates that differ by rounding alone are one
        spread = float(z.std(0).max()) or 1.0
        m = max(1, min(N_PROTOTYPES, len(np.unique(np.round((z - z.mean(0)) / spread, 3), axis=0)) // 2))
        centers = KMeans(m, n_init=1, max_iter=50, random_state=seed).fit(z).cluster_centers_
        distances = np.sort(_squared_distances(z, centers), axis=1)
        width = float(np.sqrt(np.median(distances[:, min(NEAR, m) - 1]))) or 1.0
        fitted = cls(centers.astype(np.float32), width, np.zeros(m, np.float32))
        return cls(fitted.centers, width, fitted.weights(z).mean(0))

    def weights(self, z: FloatArray) -> FloatArray:
        """Weights `(n, m)` minus their mean; before the mean is subtracted, those of a cell sum to 1."""
        distances = _squared_distances(z, self.centers)
        distances -= distances.min(1, keepdims=True)
        closeness = np.exp(distances * (-0.5 / self.width**2))
        return (closeness / closeness.sum(1, keepdims=True) - self.center).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Readout:
    """A fitted map to the features of one modality.

    Attributes:
        coefficients: `(m, n_vars)` on one scale of the values.
        intercept: `(n_vars,)`.
        mean, deviation: Mean and standard deviation of the values it was fitted on, `(n_vars,)` each.
    """

    basis: Basis
    coefficients: FloatArray
    intercept: FloatArray
    mean: FloatArray
    deviation: FloatArray

    @classmethod
    def fit(cls, basis: Basis, z: FloatArray, blocks: Iterable[tuple[slice, CSR | FloatArray]]) -> Self:
        """Fit on cells `(n, n_latent)` whose measured values come in blocks of rows.

        `blocks`: rows and their values `(b, n_vars)`, sparse or dense; all rows once.
        """
        m, n = len(basis.centers), len(z)
        gram = np.zeros((m, m))
        weight = np.zeros(m)
        products: Any = 0.0
        total: Any = 0.0
        squares: Any = 0.0
        for rows, values in blocks:
            weights = basis.weights(z[rows])
            gram += weights.T @ weights
            weight += weights.sum(0, dtype=np.float64)
            products = products + np.asarray((values.T @ weights).T, dtype=np.float64)
            total = total + np.asarray(values.sum(axis=0, dtype=np.float64)).ravel()
            squared = values.multiply(values) if hasattr(values, "multiply") else np.square(values)
            squares = squares + np.asarray(squared.sum(axis=0, dtype=np.float64)).ravel()
        mean, offset = total / n, weight / n
        gram -= n * np.outer(offset, offset)
        gram += (RIDGE * np.trace(gram) / m + np.finfo(np.float32).tiny) * np.eye(m)
        coefficients = np.linalg.solve(gram, products - n * np.outer(offset, mean))
        variance = squares / n - np.square(mean)
        # what float32 leaves of a constant feature is rounding
        deviation = np.sqrt(np.where(variance > _ROUNDING * np.square(mean), variance, 0))
        parts = (coefficients, mean - offset @ coefficients, mean, deviation)
        return cls(basis, *(np.asarray(part, dtype=np.float32) for part in parts))

    @property
    def n_vars(self) -> int:
        """Number of features."""
        return int(self.coefficients.shape[1])

    def predict(self, z: FloatArray, columns: IntArray | slice = slice(None)) -> FloatArray:
        """Return the expected values of cells `(n, n_latent)`, `(n, n_columns)`."""
        return self.basis.weights(z) @ self.coefficients[:, columns] + self.intercept[columns]


def _squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)
    return np.maximum(squares - 2 * a @ b.T, 0)


def non_negative(gram: DoubleArray, cross: DoubleArray) -> DoubleArray:
    """Return the weights of several predictions that together fit the truth best, none negative.

    Stacked generalization (Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1; weights that are not negative:
    Breiman 1996, doi:10.1007/BF00117832), with a ridge of a thousandth of the mean square of a prediction.

    `gram`, `cross`: products of the predictions with each other, `(n, n)`, and with the truth, `(n,)`.
    """
    ridge = 1e-3 * np.trace(gram) / len(gram) + 1e-9
    lower = np.linalg.cholesky(gram + ridge * np.eye(len(gram)))
    return nnls(lower.T, np.linalg.solve(lower, cross))[0]
