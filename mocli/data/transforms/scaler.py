"""`Scaler`: standardise features without losing the zeros of a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mocli.data.bundle import FeatureMatrix
from mocli.data.packed import MappedRows, OnDisk, blocks_of, is_dense, on_disk
from mocli.types import CSR, BoolArray, DoubleArray, FloatArray, IntArray

_CHUNK = 1 << 20
# A spread below the resolution of float32 is rounding, not signal.
_RELATIVE_FLOOR = 1e-6
DENSE_ABOVE = 0.5


def density(x: CSR) -> float:
    """Return the stored share of a sparse matrix."""
    return float(x.nnz / max(x.shape[0] * x.shape[1], 1))


def layout(x: CSR, *, dense: bool) -> CSR | FloatArray:
    """Return `x` as it is, or as a dense float32 array."""
    if not dense:
        return x
    from mocli.data.batches import densify  # the one place that densifies; it imports torch

    return MappedRows(x, densify, x.shape[1], dense=True) if on_disk(x) else densify(x)


def moments(x: CSR | FloatArray) -> tuple[DoubleArray, DoubleArray]:
    """Return mean and variance (ddof = 0) of each column in double precision, zeros included.

    Two passes, so that a constant column has a variance of rounding size only.
    """
    n_obs, n_vars = x.shape
    if isinstance(x, np.ndarray):
        return x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    total, squares, stored = (np.zeros(n_vars) for _ in range(3))
    for columns, values in _spans(x):
        total += np.bincount(columns, weights=values, minlength=n_vars)
    mean = total / max(n_obs, 1)
    for columns, values in _spans(x):
        squares += np.bincount(columns, weights=(values - mean[columns]) ** 2, minlength=n_vars)
        stored += np.bincount(columns, minlength=n_vars)
    return mean, (squares + (n_obs - stored) * mean**2) / max(n_obs, 1)


def column_means(x: CSR | FloatArray) -> DoubleArray:
    """Return the mean of each column, `(n_vars,)`."""
    total = sum(np.asarray(block.sum(axis=0, dtype=np.float64)).ravel() for block in blocks_of(x))
    return np.asarray(total / max(x.shape[0], 1))


def packed(features: FeatureMatrix) -> FeatureMatrix:
    """Return features whose values, where they are made from others on disk, are written as they are."""
    values = features.values
    return replace(features, values=values.packed()) if isinstance(values, MappedRows) else features


def occurrences(x: CSR) -> IntArray:
    """Return in how many rows each column is not 0, `(n_vars,)`."""
    found = np.zeros(x.shape[1], np.int64)
    for block in blocks_of(x):
        found += np.bincount(block.indices[block.data != 0], minlength=x.shape[1])
    return found


def _spans(x: CSR) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield columns and values of what is stored, some at a time."""
    for block in blocks_of(x):
        for start in range(0, block.nnz, _CHUNK):
            span = slice(start, start + _CHUNK)
            yield block.indices[span], block.data[span]


@dataclass(frozen=True, eq=False)
class Scaler:
    """Mean and standard deviation (ddof = 0) of each feature over the training cells.

    Attributes:
        mean, std: `(n_vars,)`, double. `std` is 1 where the feature is constant.
        constant: `(n_vars,)`. A constant feature becomes a column of zeros, for new cells too.
        clip: Bound on the absolute standardised value, or None.
    """

    mean: DoubleArray
    std: DoubleArray
    constant: BoolArray
    clip: float | None = None

    @classmethod
    def fit(cls, x: CSR | FloatArray, *, clip: float | None = None) -> Scaler:
        """Measure the columns of `(n_obs, n_vars)`."""
        mean, variance = moments(x)
        std = np.sqrt(variance)
        constant = std <= np.maximum(_RELATIVE_FLOOR * np.abs(mean), np.finfo(np.float32).tiny)
        return cls(mean, np.where(constant, 1.0, std), constant, clip)

    def apply(self, x: CSR | FloatArray, names: tuple[str, ...]) -> FeatureMatrix:
        """Standardise; the value array of `x` is overwritten and becomes part of the result."""
        if isinstance(x, OnDisk):
            mapped = MappedRows(x, lambda rows: self.apply(rows, names).values, len(names), dense=is_dense(x))
            like = self.apply(x[:0], names)
            return replace(like, values=mapped)
        scale = np.where(self.constant, 0.0, 1 / self.std).astype(np.float32)
        offset = np.where(self.constant, 0.0, -self.mean / self.std).astype(np.float32)
        bound = np.float32(np.inf if self.clip is None else self.clip)
        deviation = self.std.astype(np.float32)
        if isinstance(x, np.ndarray):
            x *= scale
            x += offset
            if self.clip is not None:
                np.clip(x, -bound, bound, out=x)
            return FeatureMatrix(x, names, deviation=deviation)
        # Zeros must end at the clipped offset, so stored values are clipped against the sum.
        shift = np.clip(offset, -bound, bound)
        for start in range(0, x.nnz, _CHUNK):
            span = slice(start, start + _CHUNK)
            columns, data = x.indices[span], x.data[span]
            data *= scale[columns]
            if self.clip is not None:
                data += offset[columns]
                np.clip(data, -bound, bound, out=data)
                data -= shift[columns]
        return FeatureMatrix(x, names, shift, deviation=deviation)

    def unscale(self, values: FloatArray) -> FloatArray:
        """Return standardised values `(n, n_vars)` to the scale before standardisation, float32."""
        return (values * self.std + self.mean).astype(np.float32)

    def arrays(self) -> dict[str, Any]:
        """Return the fitted arrays by name."""
        return {"mean": self.mean, "std": self.std, "constant": self.constant}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], *, clip: float | None) -> Scaler:
        """Rebuild from `arrays`."""
        return cls(
            np.asarray(arrays["mean"], dtype=np.float64),
            np.asarray(arrays["std"], dtype=np.float64),
            np.asarray(arrays["constant"], dtype=np.bool_),
            clip,
        )
