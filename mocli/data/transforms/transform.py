"""The transforms, one class each, from raw values of a cell to those that a model sees; and standardising.

A transform is one factor a row and one function of the stored values, which keeps zeros at zero, so
that sparse data stay sparse. Adding one is adding a class here and its name to `TRANSFORMS`.

References:
    Stoeckius et al. 2017, doi:10.1038/nmeth.4380 (CLR for antibody counts; the form with log1p is Seurat's).
    Cusanovich et al. 2015, doi:10.1126/science.aab1601, and Stuart et al. 2021,
    doi:10.1038/s41592-021-01282-5 (TF-IDF of accessibility). Bendall et al. 2011, doi:10.1126/science.1198704
    (arcsinh with cofactor 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from mocli.data.bundle import FeatureMatrix
from mocli.data.packed import MappedRows, OnDisk, blocks_of, is_dense, on_disk
from mocli.errors import InputError, UsageError, did_you_mean
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
    counts = np.zeros(x.shape[1], np.int64)
    for block in blocks_of(x):
        counts += np.bincount(block.indices[block.data != 0], minlength=x.shape[1])
    return counts


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


_ROWS = 16_384


class Transform:
    """One way from raw values to those that a model sees; this one leaves them unchanged.

    Attributes:
        words: What its values are, in words.
        taken: How a model takes raw values by it, in words.
        is_counted: Whether raw values are amounts that cannot be negative, as counts are.
        is_logged: Whether its values are logarithms, so that their differences are log fold changes.
        keeps_values: Whether values stay as they are.
        is_for_counts: Whether it passes counts to a likelihood of counts.
        scales_to_total: Whether it brings cells to one total, `target_sum`.
        keeps_depth: Whether undoing it gives counts at the depth to which it scaled.
        sums_counts: Whether features are summed as counts before they are logged, so that a gene with its
            peaks is its gene activity.
        reduces: Whether components of all features take the place of the features.
    """

    name: ClassVar[str] = "identity"
    words: ClassVar[str] = "on the scale of the values given"
    taken: ClassVar[str] = "as they are"
    is_counted: ClassVar[bool] = False
    is_logged: ClassVar[bool] = False
    keeps_values: ClassVar[bool] = True
    is_for_counts: ClassVar[bool] = False
    scales_to_total: ClassVar[bool] = False
    keeps_depth: ClassVar[bool] = True
    sums_counts: ClassVar[bool] = False
    reduces: ClassVar[bool] = False

    @property
    def readable(self) -> Transform:
        """The transform under which people read its features: log-normalised where they are counts."""
        return LOGNORM if self.sums_counts else self

    def factor(self, x: CSR, target_sum: float | None) -> DoubleArray | None:
        """Return the factor of each cell from all its features, `(n_obs,)`, or None where there is none.

        An empty cell gets 0 or 1 and stays empty.
        """
        return None

    def element(self, values: Any, cofactor: float = 5.0, *, out: Any = None) -> Any:
        """Return single values transformed, after the factor of their cell."""
        return values

    def undo(self, values: FloatArray, cofactor: float = 5.0) -> FloatArray:
        """Return values whose `element` is given."""
        return values

    def forward(
        self,
        x: CSR,
        *,
        target_sum: float | None = None,
        cofactor: float = 5.0,
        columns: IntArray | None = None,
    ) -> CSR:
        """Transform raw values `(n_obs, n_vars)`; factors are of all columns, the result has the chosen."""
        if on_disk(x):
            if self.keeps_values and (columns is None or len(columns) == x.shape[1]):
                return x
            each = partial(self.forward, target_sum=target_sum, cofactor=cofactor, columns=columns)
            return MappedRows(x, each, x.shape[1] if columns is None else len(columns))
        factor = self.factor(x, target_sum)
        values = own_columns(x, columns)
        if factor is not None:
            scale_rows(values, factor)
        self.element(values.data, cofactor, out=values.data)
        return values

    def check(self, x: CSR) -> None:
        """Raise `InputError` for values that are not finite, or negative where they must not be."""
        for block in blocks_of(x):
            self._check(block)

    def _check(self, x: CSR) -> None:
        with np.errstate(invalid="ignore"):
            total = x.data.sum(dtype=np.float64)
        if not np.isfinite(total):
            raise InputError("the matrix holds values that are not finite", expected="finite numbers")
        if self.is_counted and x.nnz and x.data.min() < 0:
            raise InputError(
                f"the transform '{self.name}' needs non-negative values",
                found=f"minimum {x.data.min():g}",
                hint="use the raw counts, or the transform 'identity'",
            )


class LogNorm(Transform):
    """`log1p(x / total * target_sum)`."""

    name = "lognorm"
    words = "normalised to the median depth of the training cells and logged"
    taken = "normalised by depth and logged"
    is_counted = is_logged = scales_to_total = sums_counts = True
    keeps_values = False

    def factor(self, x: CSR, target_sum: float | None) -> DoubleArray:
        """Return `target_sum / total`."""
        totals = row_sums(x.data, x.indptr)
        target = 1.0 if target_sum is None else target_sum
        return np.divide(target, totals, out=np.zeros_like(totals), where=totals > 0)

    def element(self, values: Any, cofactor: float = 5.0, *, out: Any = None) -> Any:
        """Return `log1p`."""
        return np.log1p(values, out=out)

    def undo(self, values: FloatArray, cofactor: float = 5.0) -> FloatArray:
        """Return `expm1`."""
        return np.expm1(values)


class Clr(LogNorm):
    """`log1p(x / exp(mean_j log1p(x_j)))`, the mean being over all features, zeros included."""

    name = "clr"
    words = "as centred log-ratios (CLR)"
    taken = "as centred log-ratios (CLR)"
    scales_to_total = sums_counts = keeps_depth = False

    def factor(self, x: CSR, target_sum: float | None) -> DoubleArray:
        """Return `1 / exp(mean_j log1p(x_j))`."""
        means: DoubleArray = row_sums(np.log1p(x.data), x.indptr) / max(x.shape[1], 1)
        return np.exp(-means)


class TfidfLsi(LogNorm):
    """TF-IDF and truncated SVD, see `lsi`: shares of the total times inverse document frequencies, logged."""

    name = "tfidf-lsi"
    reduces = True


class Arcsinh(Transform):
    """`arcsinh(x / cofactor)`."""

    name = "arcsinh"
    words = "after arcsinh"
    taken = "after arcsinh"
    keeps_values = False

    def element(self, values: Any, cofactor: float = 5.0, *, out: Any = None) -> Any:
        """Return `arcsinh(values / cofactor)`."""
        return np.arcsinh(np.divide(values, values.dtype.type(cofactor), out=out), out=out)

    def undo(self, values: FloatArray, cofactor: float = 5.0) -> FloatArray:
        """Return `sinh(values) * cofactor`."""
        return np.sinh(values) * np.float32(cofactor)


class Counts(Transform):
    """`x`, for likelihoods of counts."""

    name = "counts"
    is_counted = is_for_counts = sums_counts = True


LOGNORM, CLR = LogNorm(), Clr()
TRANSFORMS: dict[str, Transform] = {
    t.name: t for t in (LOGNORM, CLR, TfidfLsi(), Arcsinh(), Transform(), Counts())
}
"""Every transform by its name."""


def find_transform(name: str) -> Transform:
    """Return the transform of a name; `UsageError` where there is none."""
    if name not in TRANSFORMS:
        raise UsageError(
            f"there is no transform '{name}'", hint=did_you_mean(name, list(TRANSFORMS), "transforms")
        )
    return TRANSFORMS[name]


def canonical(x: CSR) -> CSR:
    """Return `x` as CSR float32 with sorted, unique indices; shares memory where it already is."""
    if on_disk(x):
        return x
    x = sparse.csr_matrix(x, dtype=np.float32, copy=False)
    if not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    return x


def row_sums(data: FloatArray, indptr: IntArray) -> DoubleArray:
    """Sum the stored values of each row in double precision, `(n_obs,)`; 0 for an empty row."""
    sums = np.zeros(len(indptr) - 1)
    stored = np.flatnonzero(np.diff(indptr))
    if len(stored):
        sums[stored] = np.add.reduceat(data, indptr[stored], dtype=np.float64)
    return sums


def scale_rows(x: CSR, factor: DoubleArray) -> None:
    """Multiply each row by its factor, in place."""
    factor = factor.astype(np.float32)
    for start in range(0, x.shape[0], _ROWS):
        bounds = x.indptr[start : start + _ROWS + 1]
        x.data[bounds[0] : bounds[-1]] *= np.repeat(factor[start : start + _ROWS], np.diff(bounds))


def own_columns(x: CSR, columns: IntArray | None = None) -> CSR:
    """Return the chosen columns with a value array of their own; indices may be shared."""
    if columns is not None and len(columns) != x.shape[1]:
        return x[:, columns]
    return sparse.csr_matrix((x.data.copy(), x.indices, x.indptr), shape=x.shape, copy=False)


def median_total(x: CSR) -> float:
    """Return the median total of the cells that are not empty; 1 if all are."""
    totals = np.concatenate([row_sums(block.data, block.indptr) for block in blocks_of(x)])
    totals = totals[totals > 0]
    return float(np.median(totals)) if len(totals) else 1.0
