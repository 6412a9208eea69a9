"""`LinkRecipe`: the linked features of one modality, one column a link group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from mocli.data.bundle import FeatureMatrix
from mocli.data.packed import MappedRows, on_disk
from mocli.data.transforms.transform import (
    DENSE_ABOVE,
    Scaler,
    Transform,
    canonical,
    density,
    find_transform,
    layout,
    median_total,
    packed,
    scale_rows,
)
from mocli.types import CSR


@dataclass(frozen=True, eq=False)
class LinkRecipe:
    """A fitted aggregation of features into linked columns.

    For `lognorm` and `tfidf-lsi` a cell is scaled to the median total of the
    training cells, its features are summed by the weights of `aggregation`, and
    the sums go through log1p; `counts` does the same without scaling. `clr`,
    `arcsinh` and `identity` values are summed after their transform. Positive
    and negative weights are summed apart, each through the log, and subtracted.
    All columns are then standardised.

    Attributes:
        aggregation: CSR float32, `(n_vars, n_columns)`.
        names: `(n_columns,)`.
        target_sum: Total that a cell is scaled to, or None.
        dense: Whether the result is a dense array (above half of the values stored).
    """

    transform: str
    aggregation: CSR
    names: tuple[str, ...]
    cofactor: float
    target_sum: float | None
    dense: bool
    scaler: Scaler

    @classmethod
    def fit(
        cls, x: CSR, *, aggregation: CSR, transform: str, names: Sequence[str], cofactor: float = 5.0
    ) -> LinkRecipe:
        """Fit on the raw values of the training cells, `(n_obs, n_vars)`; `x` is not changed.

        Raises `InputError`: values that are not finite, or negative where the transform forbids it.
        """
        how = find_transform(transform)
        if aggregation.shape != (x.shape[1], len(names)):
            raise ValueError(f"aggregation is {aggregation.shape}, not {(x.shape[1], len(names))}")
        x = canonical(x)
        how.check(x)
        aggregation = canonical(aggregation)
        target_sum = median_total(x) if how.scales_to_total else None
        values = _aggregate(x, aggregation, how, target_sum=target_sum, cofactor=cofactor)
        return cls(
            transform=transform,
            aggregation=aggregation,
            names=tuple(names),
            cofactor=cofactor,
            target_sum=target_sum,
            dense=density(values) > DENSE_ABOVE,
            scaler=Scaler.fit(values),
        )

    def apply(self, x: CSR) -> FeatureMatrix:
        """Transform raw values `(n, n_vars)` to `(n, n_columns)`; `x` is not changed."""
        if x.shape[1] != self.aggregation.shape[0]:
            raise ValueError(f"{x.shape[1]} columns, fitted on {self.aggregation.shape[0]}")
        x = canonical(x)
        how = find_transform(self.transform)
        how.check(x)
        values = _aggregate(x, self.aggregation, how, target_sum=self.target_sum, cofactor=self.cofactor)
        return packed(self.scaler.apply(layout(values, dense=self.dense), self.names))

    @property
    def n_constant(self) -> int:
        """Number of columns without any spread over the training cells; they hold zeros."""
        return int(self.scaler.constant.sum())

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `from_state` needs: a JSON-able part and arrays by name."""
        json = {
            "transform": self.transform,
            "names": list(self.names),
            "n_vars": int(self.aggregation.shape[0]),
            "cofactor": self.cofactor,
            "target_sum": self.target_sum,
            "dense": self.dense,
        }
        parts = {name: getattr(self.aggregation, name) for name in ("data", "indices", "indptr")}
        return json, {f"aggregation.{name}": part for name, part in parts.items()} | self.scaler.arrays()

    @classmethod
    def from_state(cls, json: Mapping[str, Any], arrays: Mapping[str, Any]) -> LinkRecipe:
        """Rebuild; the result applies bit for bit as the original."""
        parts = tuple(np.asarray(arrays[f"aggregation.{name}"]) for name in ("data", "indices", "indptr"))
        return cls(
            transform=json["transform"],
            aggregation=sparse.csr_matrix(parts, shape=(json["n_vars"], len(json["names"]))),
            names=tuple(json["names"]),
            cofactor=json["cofactor"],
            target_sum=json["target_sum"],
            dense=json["dense"],
            scaler=Scaler.from_arrays(arrays, clip=None),
        )


def _aggregate(x: CSR, aggregation: CSR, how: Transform, *, target_sum: float | None, cofactor: float) -> CSR:
    """Return linked columns before standardisation, CSR `(n_obs, n_columns)`."""
    if on_disk(x):
        each = partial(_aggregate, how=how, target_sum=target_sum, cofactor=cofactor)
        return MappedRows(x, lambda rows: each(rows, aggregation), aggregation.shape[1])
    logged = how.sums_counts
    # Scaling cells commutes with summing features, so only the small product is scaled.
    factor = how.factor(x, target_sum) if logged else None
    values = x if logged else how.forward(x, cofactor=cofactor)
    if not logged or not aggregation.nnz or aggregation.data.min() >= 0:
        return _summed(values, aggregation, factor, logged=logged)
    positive = _summed(values, aggregation.maximum(0), factor, logged=logged)
    return positive - _summed(values, (-aggregation).maximum(0), factor, logged=logged)


def _summed(values: CSR, aggregation: CSR, factor: Any, *, logged: bool) -> CSR:
    product = sparse.csr_matrix(values @ aggregation)
    if factor is not None:
        scale_rows(product, factor)
    if logged:
        np.log1p(product.data, out=product.data)
    return product
