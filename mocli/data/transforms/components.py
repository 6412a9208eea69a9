"""Principal components of one modality's own features; sparse data stay sparse.

Single features of a cell are mostly noise where cells are shallow; the leading
components are sums over all of them and keep what cells share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mocli.data.bundle import FeatureMatrix
from mocli.data.packed import blocks_of, some_rows
from mocli.data.transforms.scaler import moments
from mocli.types import CSR, FloatArray, IntArray

FIT_CELLS = 200_000
_PREFIX = "pc_"


@dataclass(frozen=True, eq=False)
class Components:
    """A fitted projection, the same for all later cells.

    Attributes
    ----------
    loadings
        Right singular vectors over their common scale, `(n_vars, k)`; the scores
        of the training cells have a mean variance of 1.
    mean
        `(n_vars,)`, of the values without their offset.
    """

    loadings: FloatArray
    mean: FloatArray

    @classmethod
    def fit(cls, features: FeatureMatrix, *, n_components: int, seed: int) -> Components:
        """Fit on the features of the training cells, on 200,000 sampled ones at most, see `some_rows`.

        There are `min(n_components, n_obs - 1, n_vars - 1)` components.
        """
        x = some_rows(features.values, FIT_CELLS, seed=seed)
        mean, left, values, right = _decompose(x, n_components, seed=seed)
        # the sign of a singular vector is arbitrary: the largest loading is positive
        sign = np.sign(right[np.abs(right).argmax(0), np.arange(right.shape[1])])
        scale = float(np.sqrt(np.square(left * values).mean())) if left.size else 1.0
        loadings = right * np.where(sign == 0, 1, sign) / (scale or 1.0)
        return cls(np.ascontiguousarray(loadings, dtype=np.float32), mean.astype(np.float32))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components, counted from 1."""
        return tuple(f"{_PREFIX}{j + 1}" for j in range(self.loadings.shape[1]))

    def apply(self, features: FeatureMatrix, absent: IntArray | None = None) -> FeatureMatrix:
        """Project `(n, n_vars)` to dense scores `(n, k)`.

        Parameters
        ----------
        absent
            Columns that these cells lack; they count as the training cells' mean.
        """
        loadings, mean = self.loadings, self.mean
        if absent is not None and len(absent):
            loadings = loadings.copy()
            loadings[absent] = 0
        parts = [block @ loadings - mean @ loadings for block in blocks_of(features.values)]
        scores = np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=np.float32)
        return FeatureMatrix(scores, self.names)

    def arrays(self) -> dict[str, Any]:
        """Return the fitted arrays by name."""
        return {"pca.loadings": self.loadings, "pca.mean": self.mean}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Components:
        """Rebuild from `arrays`."""
        return cls(np.asarray(arrays["pca.loadings"]), np.asarray(arrays["pca.mean"]))


def principal_scores(features: FeatureMatrix, *, n_components: int, seed: int) -> FloatArray:
    """Scores `(n, k)` of the cells themselves, centred, on the scale of the features."""
    _, left, values, _ = _decompose(features.values, n_components, seed=seed)
    scores: FloatArray = (left * values).astype(np.float32)
    return scores


def are_components(names: tuple[str, ...]) -> bool:
    """Whether columns are principal components, the largest first."""
    return names[:1] == (f"{_PREFIX}1",)


def without_averaging(features: FeatureMatrix) -> FeatureMatrix:
    """Return the features as measured, not averaged over neighbours."""
    return replace(features, neighbors=None, smoothing=0.0)


def _decompose(
    x: CSR | FloatArray, n_components: int, *, seed: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Column means, left vectors, singular values and right vectors, largest first."""
    from scipy.sparse.linalg import LinearOperator, svds

    mean = np.asarray(x.mean(axis=0), dtype=x.dtype).ravel()
    k = min(n_components, min(x.shape) - 1)
    if k < 1:
        empty = np.zeros((0,), x.dtype)
        return mean, np.zeros((x.shape[0], 0), x.dtype), empty, np.zeros((x.shape[1], 0), x.dtype)

    def times(v: FloatArray) -> Any:
        return x @ v - mean @ v

    def transposed_times(u: FloatArray) -> Any:
        return x.T @ u - np.multiply.outer(mean, u.sum(axis=0))

    operator = LinearOperator(
        x.shape,
        matvec=times,
        rmatvec=transposed_times,
        matmat=times,
        rmatmat=transposed_times,
        dtype=x.dtype,
    )
    start = np.random.default_rng(seed).uniform(-1, 1, min(x.shape)).astype(x.dtype)
    variance = moments(x)[1]
    if np.sqrt(variance.max()) <= np.finfo(np.float32).eps * np.abs(mean).max():
        # constant columns: ARPACK refuses a matrix of zeros, and rounding is no component
        left, right = (np.zeros((size, k), x.dtype) for size in x.shape)
        return mean, left, np.zeros(k, x.dtype), right
    u, s, vt = svds(operator, k=k, v0=start)
    return mean, u[:, ::-1], s[::-1], vt[::-1].T
