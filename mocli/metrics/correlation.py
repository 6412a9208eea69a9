"""Columns brought to a form in which a product is a correlation; a sparse side stays sparse."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mocli.types import CSR, BoolArray, DoubleArray

_ROUNDING = 1e-6  # a spread below this share of the largest value is float32 noise


class UnitRows(NamedTuple):
    """The columns of a sparse matrix, as rows.

    Attributes
    ----------
    rows
        CSR `(m, n)` float64: a column divided by the norm of its centred form.
        Times a centred unit vector that is Pearson's correlation, since the mean
        that was not taken off meets a vector whose sum is 0.
    constant
        `(m,)`, columns without a correlation.
    """

    rows: CSR
    constant: BoolArray

    def times(self, block: DoubleArray) -> DoubleArray:
        """Correlate with the columns `(n, k)` that `unit_dense` gives: `(m, k)`, NaN where undefined."""
        product: DoubleArray = np.clip(self.rows @ block, -1.0, 1.0)
        product[self.constant] = np.nan
        return product

    def take(self, index: np.ndarray) -> UnitRows:
        """Return some of the columns."""
        return UnitRows(self.rows[index], self.constant[index])


def unit_sparse(columns: CSR) -> UnitRows:
    """Scale the columns of a CSC matrix `(n, m)` for `UnitRows.times`."""
    x = columns.astype(np.float64)  # a copy
    x.sum_duplicates()
    n, m = x.shape
    stored = np.diff(x.indptr)
    column = np.repeat(np.arange(m), stored)
    mean = np.bincount(column, x.data, m) / n
    squares = np.bincount(column, (x.data - mean[column]) ** 2, m) + (n - stored) * mean**2
    peak = np.zeros(m)
    np.maximum.at(peak, column, np.abs(x.data))
    norm = np.sqrt(squares)
    constant = ~(norm > _ROUNDING * peak * math.sqrt(n))
    x.data /= np.where(constant, 1.0, norm)[column]
    return UnitRows(x.T, constant)


def unit_dense(block: np.ndarray) -> DoubleArray:
    """Columns `(n, k)` of mean 0 and norm 1 in float64; NaN where constant up to float32 rounding."""
    v = block.astype(np.float64)
    peak = np.abs(v).max(axis=0, initial=0.0)
    v -= v.mean(axis=0)
    norm = np.sqrt(np.einsum("ij,ij->j", v, v))
    constant = ~(norm > _ROUNDING * peak * math.sqrt(len(v)))
    v /= np.where(constant, np.nan, norm)
    return v


def rank_sparse(columns: CSR) -> CSR:
    """Rank each column of a CSC matrix `(n, m)`, ties averaged, less the rank of its zeros.

    Only stored values are sorted: a column's zeros share one rank, and taking it
    off every cell changes no correlation but leaves the zeros zero.
    """
    x = columns.astype(np.float64)
    x.sum_duplicates()
    x.eliminate_zeros()
    n = x.shape[0]
    for begin, end in zip(x.indptr[:-1], x.indptr[1:], strict=True):
        values = x.data[begin:end]
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        first = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, [end - begin]])
        rank = np.repeat((first[:-1] + 1 + first[1:]) / 2, np.diff(first))
        negative, zeros = np.searchsorted(ordered, 0.0), n - (end - begin)
        rank[negative:] += zeros
        values[order] = rank - (negative + (zeros + 1) / 2)
    return x


def rank_dense(block: np.ndarray) -> DoubleArray:
    """Rank each column `(n, k)`, ties averaged."""
    from scipy import stats  # late: listing the metrics loads nothing heavy

    ranks: DoubleArray = stats.rankdata(block, axis=0)
    return ranks
