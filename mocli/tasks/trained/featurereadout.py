"""Expected values of the features of a modality from latent coordinates, on the scales that users ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.data.transforms.recipe import Recipe
from mocli.data.transforms.transform import CLR, LOGNORM, Transform, find_transform, median_total, scale_rows
from mocli.errors import UsageError
from mocli.nn.neighbors import chunks
from mocli.nn.readout import Basis, Readout
from mocli.types import CSR, FloatArray, IntArray, Json, ModalityKind

SCALES = ("log", "counts", "scaled", "shares")
ROWS = 4096
"""Cells read at a time."""

_PARTS = ("coefficients", "intercept", "mean", "deviation")


@dataclass(frozen=True, eq=False)
class FeatureReadout:
    """A regression of the features of one modality on latent coordinates.

    Attributes:
        transform: Of the modality's recipe.
        readable: What `log` means: antibodies are read as CLR even if the model sees their counts.
        depth: Total that `counts`, and `log` of counts, are scaled to: the median of the training cells.
        by_scale: Maps to `log` values and, where values are counts, to `counts`.
        source: Modality that the cells fitted on were encoded from; None: from all modalities measured in
            them.
    """

    transform: Transform
    readable: Transform
    depth: float
    cofactor: float
    by_scale: Mapping[str, Readout]
    source: str | None = None

    @classmethod
    def fit(
        cls, file: ModalityFile, layer: str, recipe: Recipe, z: FloatArray, *, seed: int
    ) -> FeatureReadout:
        """Fit on the cells of a file, read block by block; `z` is `(n_obs, n_latent)`."""
        transform = recipe.transform
        depth = recipe.target_sum or 1.0
        if transform.is_counted and recipe.target_sum is None:
            depth = median_total(file.sample(layer, n_rows=20_000))
        antibodies = file.kind is ModalityKind.PROT and transform.is_for_counts
        readable = CLR if antibodies else transform.readable
        return cls(transform, readable, depth, recipe.options.cofactor, {})._fitted(file, layer, z, seed=seed)

    def refitted(
        self, file: ModalityFile, layer: str, z: FloatArray, *, source: str, seed: int
    ) -> FeatureReadout:
        """Refit on cells encoded from one modality alone; the scales stay those of the earlier cells."""
        fitted = replace(self, source=source)._fitted(file, layer, z, seed=seed)
        by_scale = {
            scale: replace(r, mean=self.by_scale[scale].mean, deviation=self.by_scale[scale].deviation)
            for scale, r in fitted.by_scale.items()
        }
        return replace(fitted, by_scale=by_scale)

    def _fitted(self, file: ModalityFile, layer: str, z: FloatArray, *, seed: int) -> FeatureReadout:
        basis = Basis.fit(z, seed=seed)
        by_scale: dict[str, Readout] = {}

        def blocks(scale: str) -> Iterator[tuple[slice, CSR]]:
            for rows in chunks(file.n_obs, ROWS):
                yield rows, self.values(file.read(layer, rows=rows), scale)

        by_scale["log"] = Readout.fit(basis, z, blocks("log"))
        if self.transform.is_counted:
            by_scale["counts"] = Readout.fit(basis, z, blocks("counts"))
        return replace(self, by_scale=by_scale)

    @property
    def name(self) -> str:
        """The name of the route."""
        return "readout"

    @property
    def n_vars(self) -> int:
        """Number of features."""
        return self.by_scale["log"].n_vars

    def check_scale(self, scale: str, modality: str) -> None:
        """Raise `UsageError` where the modality has no values on a scale."""
        if scale in ("counts", "shares") and "counts" not in self.by_scale:
            raise UsageError(
                f"{modality} did not hold counts in training, so counts cannot be imputed",
                field="--scale",
                found=scale,
                expected="log or scaled",
            )

    def values(self, x: CSR, scale: str) -> CSR:
        """Return raw values `(n, n_vars)` on the scale `log` or `counts`, sparse; `x` is not changed."""
        if scale == "counts":
            values = x.copy()
            scale_rows(values, LOGNORM.factor(x, self.depth))
            return values
        return self.readable.forward(x, target_sum=self.depth, cofactor=self.cofactor)

    def measured(self, x: CSR, scale: str, columns: IntArray, absent: IntArray | None = None) -> FloatArray:
        """Return raw values `(n, n_vars)` on any scale, some columns, dense.

        `absent`: features that these cells were not measured for; NaN in the result.
        """
        from mocli.data.batches import densify

        values = densify(self.values(x, "log" if scale == "scaled" else scale)[:, columns])
        if absent is not None and len(absent):
            values[:, np.isin(columns, absent)] = np.nan
        return self.standardised(values, columns) if scale == "scaled" else values

    def predict(self, z: FloatArray, scale: str, columns: IntArray) -> FloatArray:
        """Return expected values `(n, n_columns)` of cells `(n, n_latent)`.

        Values that cannot be negative are clipped at 0.
        """
        values = self.by_scale["log" if scale == "scaled" else scale].predict(z, columns)
        if self.floor is not None:
            np.maximum(values, self.floor, out=values)
        return self.standardised(values, columns) if scale == "scaled" else values

    @property
    def floor(self) -> float | None:
        """The least value that `log` and `counts` can have, None where there is none."""
        return 0.0 if self.transform.is_counted else None

    def moments(self, scale: str) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the training cells' values on a scale, `(n_vars,)` each."""
        if scale == "scaled":
            return np.zeros(self.n_vars, np.float32), np.ones(self.n_vars, np.float32)
        return self.by_scale[scale].mean, self.by_scale[scale].deviation

    def standardised(self, values: FloatArray, columns: IntArray) -> FloatArray:
        """Return values on `log`, some columns, on the scale `scaled`."""
        mean, deviation = self.moments("log")
        spread = np.where(deviation[columns] > 0, deviation[columns], 1)
        return ((values - mean[columns]) / spread).astype(np.float32)

    def state(self) -> tuple[dict[str, Json], dict[str, Any]]:
        """Return what `from_state` needs: a JSON-able part and arrays by name."""
        basis = self.by_scale["log"].basis
        arrays: dict[str, Any] = {"centers": basis.centers, "center": basis.center}
        for scale, readout in self.by_scale.items():
            arrays |= {f"{scale}.{part}": getattr(readout, part) for part in _PARTS}
        facts: dict[str, Json] = {
            "transform": self.transform.name,
            "readable": self.readable.name,
            "depth": self.depth,
            "cofactor": self.cofactor,
            "width": basis.width,
            "scales": list(self.by_scale),
            "source": self.source,
        }
        return facts, arrays

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> FeatureReadout:
        """Rebuild; the result predicts bit for bit as the original."""
        basis = Basis(arrays["centers"], facts["width"], arrays["center"])
        by_scale = {
            scale: Readout(basis, *(arrays[f"{scale}.{part}"] for part in _PARTS))
            for scale in facts["scales"]
        }
        transform = find_transform(facts["transform"])
        # before it was kept, it was that of the transform
        readable = find_transform(facts.get("readable", transform.readable.name))
        return cls(transform, readable, facts["depth"], facts["cofactor"], by_scale, facts.get("source"))
