"""`Lsi`: TF-IDF and truncated SVD of accessibility counts.

TF-IDF is `log1p(tf * idf * 1e4)` with `tf = x / total of the cell` and
`idf = n / (1 + df)`, n being the training cells and df those in which the feature
occurs (Stuart et al. 2021, doi:10.1038/s41592-021-01282-5, method 1, with the
document frequency of Cusanovich et al. 2015, doi:10.1126/science.aab1601). The SVD
is randomised (Halko, Martinsson, Tropp 2011, doi:10.1137/090771806) and not
centred, hence its first component follows sequencing depth and is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mocli.data.packed import some_rows
from mocli.data.transforms.scaler import occurrences
from mocli.data.transforms.transform import LOGNORM, own_columns, row_sums, scale_rows
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

FIT_CELLS = 200_000
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
    r: DoubleArray = np.divide(a.T @ b, norm, out=np.zeros(len(norm)), where=norm > 0)
    return r


@dataclass(frozen=True, eq=False)
class Lsi:
    """A fitted TF-IDF + SVD.

    Attributes
    ----------
    idf
        `(n_vars,)`.
    components
        Right singular vectors that were kept, `(k, n_vars)`.
    kept
        Their numbers, from 0, among those computed.
    depth_correlation
        Pearson r with the log of the cell's total, for every computed component.
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
        x = some_rows(x, FIT_CELLS, seed=seed)
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
