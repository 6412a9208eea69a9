"""Normalisation of sparse counts: one factor a row, one a column, one function of the stored values.

Every transform here maps zero to zero, so sparse data stay sparse, and works on
the array of stored values in place. Memory: one more array of values, the
indices are shared with the input.

References
----------
Stoeckius et al. 2017, doi:10.1038/nmeth.4380 (CLR for antibody counts; the form
with log1p is Seurat's). Cusanovich et al. 2015, doi:10.1126/science.aab1601, and
Stuart et al. 2021, doi:10.1038/s41592-021-01282-5 (TF-IDF of accessibility).
Bendall et al. 2011, doi:10.1126/science.1198704 (arcsinh with cofactor 5).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from mocli.errors import InputError, UsageError, did_you_mean
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

TRANSFORMS = ("lognorm", "clr", "tfidf-lsi", "arcsinh", "identity", "counts")
NON_NEGATIVE = frozenset({"lognorm", "clr", "tfidf-lsi", "counts"})

_ROWS = 16_384


def check_transform(transform: str) -> None:
    """Raise `UsageError` unless the transform exists."""
    if transform not in TRANSFORMS:
        raise UsageError(
            f"there is no transform '{transform}'", hint=did_you_mean(transform, TRANSFORMS, "transforms")
        )


def canonical(x: CSR) -> CSR:
    """Return `x` as CSR float32 with sorted, unique indices; shares memory where it already is."""
    x = sparse.csr_matrix(x, dtype=np.float32, copy=False)
    if not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    return x


def check_values(x: CSR, transform: str) -> None:
    """Raise `InputError` for values that are not finite, or negative where the transform forbids them."""
    with np.errstate(invalid="ignore"):
        total = x.data.sum(dtype=np.float64)
    if not np.isfinite(total):
        raise InputError("the matrix holds values that are not finite", expected="finite numbers")
    if transform in NON_NEGATIVE and x.nnz and x.data.min() < 0:
        raise InputError(
            f"the transform '{transform}' needs non-negative values",
            found=f"minimum {x.data.min():g}",
            hint="use the raw counts, or the transform 'identity'",
        )


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
    totals = row_sums(x.data, x.indptr)
    totals = totals[totals > 0]
    return float(np.median(totals)) if len(totals) else 1.0


def row_factor(x: CSR, transform: str, target_sum: float | None) -> DoubleArray | None:
    """Return the factor of each cell from all its features, `(n_obs,)`, or None where there is none.

    For `lognorm` and `tfidf-lsi` it is `target_sum / total`. For `clr` it is
    `1 / exp(mean_j log1p(x_j))`, the mean being over all features, zeros
    included. An empty cell gets 0 or 1 and stays empty.
    """
    if transform in ("lognorm", "tfidf-lsi"):
        totals = row_sums(x.data, x.indptr)
        target = 1.0 if target_sum is None else target_sum
        factor: DoubleArray = np.divide(target, totals, out=np.zeros_like(totals), where=totals > 0)
        return factor
    if transform == "clr":
        means: DoubleArray = row_sums(np.log1p(x.data), x.indptr) / max(x.shape[1], 1)
        return np.exp(-means)
    return None


def normalize(
    x: CSR,
    transform: str,
    *,
    target_sum: float | None = None,
    cofactor: float = 5.0,
    columns: IntArray | None = None,
) -> CSR:
    """Apply an element-wise transform; factors come from all columns, the result has the chosen ones.

    ============ ==================================================
    lognorm      `log1p(x / total * target_sum)`
    clr          `log1p(x / exp(mean_j log1p(x_j)))`
    arcsinh      `arcsinh(x / cofactor)`
    identity     `x`
    counts       `x`
    ============ ==================================================
    """
    factor = row_factor(x, transform, target_sum)
    values = own_columns(x, columns)
    if factor is not None:
        scale_rows(values, factor)
        np.log1p(values.data, out=values.data)
    elif transform == "arcsinh":
        values.data /= np.float32(cofactor)
        np.arcsinh(values.data, out=values.data)
    return values
