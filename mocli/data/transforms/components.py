"""Principal components of one modality's own features; sparse data stay sparse.

Single features of a cell are mostly noise where cells are shallow; the leading components are sums over all
of them and keep what cells share.

`Lsi` is TF-IDF and truncated SVD of accessibility counts. TF-IDF is `log1p(tf * idf * 1e4)` with `tf = x /
total of the cell` and `idf = n / (1 + df)`, n being the training cells and df those in which the feature
occurs (Stuart et al. 2021, doi:10.1038/s41592-021-01282-5, method 1, with the document frequency of
Cusanovich et al. 2015, doi:10.1126/science.aab1601). The SVD is randomised (Halko, Martinsson, Tropp 2011,
doi:10.1137/090771806) and not centred, hence its first component follows sequencing depth and is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mocli.data.bundle import FeatureMatrix
from mocli.data.packed import blocks_of, some_rows
from mocli.data.transforms.transform import LOGNORM, moments, occurrences, own_columns, row_sums, scale_rows
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

FIT_CELLS = 200_000
_PREFIX = "pc_"


@dataclass(frozen=True, eq=False)
class Components:
    """A fitted projection, the same for all later cells.

    Attributes:
        loadings: Right singular vectors over their common scale, `(n_vars, k)`; the scores of the training
            cells have a mean variance of 1.
        mean: `(n_vars,)`, of the values without their offset.
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
        scale = float(np.sqrt(np.square(left * values).mean())) if left.size else 1.0
        loadings = right * signs_of(right) / (scale or 1.0)
        return cls(np.ascontiguousarray(loadings, dtype=np.float32), mean.astype(np.float32))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components, counted from 1."""
        return tuple(f"{_PREFIX}{j + 1}" for j in range(self.loadings.shape[1]))

    def apply(self, features: FeatureMatrix, absent: IntArray | None = None) -> FeatureMatrix:
        """Project `(n, n_vars)` to dense scores `(n, k)`.

        `absent`: columns that these cells lack; they count as the training cells' mean.
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


def signs_of(vectors: Any) -> Any:
    """Return 1 or -1 for each column, `(k,)`: an eigenvector times it has its largest entry above 0."""
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    return np.where(largest < 0, -1, 1).astype(vectors.dtype)


def principal_scores(features: FeatureMatrix, *, n_components: int, seed: int) -> FloatArray:
    """Scores `(n, k)` of the cells themselves, centred, on the scale of the features."""
    _, left, values, _ = _decompose(features.values, n_components, seed=seed)
    return (left * values).astype(np.float32)


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
        x.shape, matvec=times, rmatvec=transposed_times, matmat=times, rmatmat=transposed_times, dtype=x.dtype
    )
    start = np.random.default_rng(seed).uniform(-1, 1, min(x.shape)).astype(x.dtype)
    variance = moments(x)[1]
    if np.sqrt(variance.max()) <= np.finfo(np.float32).eps * np.abs(mean).max():
        # constant columns: ARPACK refuses a matrix of zeros, and rounding is no component
        left, right = (np.zeros((size, k), x.dtype) for size in x.shape)
        return mean, left, np.zeros(k, x.dtype), right
    u, s, vt = svds(operator, k=k, v0=start)
    return mean, u[:, ::-1], s[::-1], vt[::-1].T


LSI_CELLS = 200_000
DEPTH_LIMIT = 0.75
SCALE = 1e4
_ROWS = 20_000


def tfidf(x: CSR, idf: FloatArray) -> CSR:
    """Return `log1p(x / total * idf * 1e4)`, `(n_obs, n_vars)`; an empty cell stays empty."""
    values = own_columns(x)
    scale_rows(values, LOGNORM.factor(x, SCALE))
    values.data *= idf[values.indices]
    np.log1p(values.data, out=values.data)
    return values


def correlation(scores: FloatArray, depth: DoubleArray) -> DoubleArray:
    """Pearson r of each column of `(n, k)` with `(n,)`; 0 where either is constant."""
    if not len(depth):
        return np.zeros(scores.shape[1])
    a = scores - scores.mean(axis=0, dtype=np.float64)
    b = depth - depth.mean()
    norm = np.sqrt((a * a).sum(axis=0) * (b @ b))
    return np.divide(a.T @ b, norm, out=np.zeros(len(norm)), where=norm > 0)


@dataclass(frozen=True, eq=False)
class Lsi:
    """A fitted TF-IDF + SVD.

    Attributes:
        idf: `(n_vars,)`.
        components: Right singular vectors that were kept, `(k, n_vars)`.
        kept: Their numbers, from 0, among those computed.
        depth_correlation: Pearson r with the log of the cell's total, for every computed component.
    """

    idf: FloatArray
    components: FloatArray
    kept: IntArray
    depth_correlation: DoubleArray

    @classmethod
    def fit(cls, x: CSR, *, n_components: int, seed: int) -> Lsi:
        """Fit on `(n_obs, n_vars)` counts, on 200,000 sampled cells at most, fewer of a matrix on disk.

        Components whose |r| with log depth exceeds 0.75 are dropped; the least
        correlated one stays if all do.
        """
        from sklearn.utils.extmath import randomized_svd

        documents = occurrences(x)
        idf = (x.shape[0] / (1.0 + documents)).astype(np.float32)
        x = some_rows(x, LSI_CELLS, seed=seed)
        values = tfidf(x, idf)
        k = max(1, min(n_components, min(values.shape) - 1))
        components = randomized_svd(
            values, k, n_iter=4, power_iteration_normalizer="QR", random_state=seed, flip_sign=True
        )[2].astype(np.float32)
        totals = row_sums(x.data, x.indptr)
        filled = np.flatnonzero(totals > 0)
        r = correlation((values @ components.T)[filled], np.log(totals[filled]))
        components_kept = np.flatnonzero(np.abs(r) <= DEPTH_LIMIT)
        if not len(components_kept):
            components_kept = np.array([np.abs(r).argmin()])
        return cls(
            idf, np.ascontiguousarray(components[components_kept]), components_kept.astype(np.int64), r
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the kept components, counted from 1 as is usual."""
        return tuple(f"lsi_{number + 1}" for number in self.kept)

    def apply(self, x: CSR) -> FloatArray:
        """Project counts `(n_obs, n_vars)` to `(n_obs, k)`, block by block."""
        scores = np.empty((x.shape[0], len(self.kept)), dtype=np.float32)
        loadings = np.ascontiguousarray(self.components.T)
        for start in range(0, x.shape[0], _ROWS):
            scores[start : start + _ROWS] = tfidf(x[start : start + _ROWS], self.idf) @ loadings
        return scores

    def arrays(self) -> dict[str, Any]:
        """Return the fitted arrays by name."""
        return {
            "lsi.idf": self.idf,
            "lsi.components": self.components,
            "lsi.kept": self.kept,
            "lsi.depth_correlation": self.depth_correlation,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Lsi:
        """Rebuild from `arrays`."""
        return cls(*(np.asarray(arrays[f"lsi.{name}"]) for name in cls.__dataclass_fields__))
