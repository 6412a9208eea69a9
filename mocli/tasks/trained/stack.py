"""A stack of closed-form ways from cells of one modality to values of another, as it is kept with a model.

    stack.predict(new_cells, "log", columns)                  # expected values of others

A way is a ridge regression on some coordinates of a cell: principal components of its own values, plain and
standardised; nearness to landmarks in these, which averages over neighbours; nearness in a model's latent;
or a sum of the features that a feature is linked to. `tasks/infer/stackfitting.py` fits and weighs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from mocli.data.batches import densify
from mocli.data.transforms.components import Components
from mocli.nn.neighbors import chunks
from mocli.tasks.trained.latent import LEADING, CellCoordinates, Nearness, SourceCells, View
from mocli.types import CSR, DoubleArray, FloatArray, IntArray, Json


@dataclass(frozen=True, eq=False)
class Widening:
    """Times by which the interval of a cell is wider.

    Attributes:
        mean, projection: `(r,)` and `(r, k)`: from coordinates to directions in which a cell's squares sum to
            its leverage, times the number of cells fitted.
        usual: Median leverage of cells left out at random.
        level, slope: Of the logarithm of the times in that of leverage over the usual.
        new_batch: Times for a cell of a batch that training lacks, at least.
    """

    mean: FloatArray
    projection: FloatArray
    usual: float
    level: float
    slope: float
    new_batch: float

    def __call__(self, phi: FloatArray) -> FloatArray:
        """Return the times `(n,)`, 1 or more, of cells at coordinates `(n, r)`."""
        leverage = np.square((phi - self.mean) @ self.projection).sum(1)
        return times_of(leverage / self.usual, self.level, self.slope)

    def state(self) -> tuple[dict[str, Json], dict[str, Any]]:
        """Return what `from_state` needs: a JSON-able part and arrays by name."""
        facts: dict[str, Json] = {
            name: getattr(self, name) for name in ("usual", "level", "slope", "new_batch")
        }
        return facts, {"mean": self.mean, "projection": self.projection}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> Widening:
        """Rebuild what `state` gave."""
        return cls(arrays["mean"], arrays["projection"], **facts)


def times_of(relative: DoubleArray | FloatArray, level: float, slope: float) -> FloatArray:
    """Return the times of cells whose leverage is so many times the usual, `(n,)`; 1 at least."""
    logs = level + slope * np.log(np.maximum(relative, 1e-12))
    return np.asarray(np.maximum(1, np.exp(logs)), np.float32)


LINKED = "linked feature"
WAYS = ("components", "standardised components", "neighbours", "neighbours, standardised", "latent", LINKED)
"""Names of the ways, in the order of `Stack.weights`."""

_PARTS = ("coefficients", "intercept", "slope", "weights")


@dataclass(frozen=True, eq=False)
class LinkedValues:
    """Sums of the source's features that are linked to the target's.

    Attributes:
        sums: `(n_source, n_links)`.
        column: Which sum belongs to each feature of the target, -1 for none, `(n_vars,)`.
    """

    sums: CSR
    column: IntArray

    def __call__(self, cells: SourceCells) -> FloatArray:
        """Return the sums `(n, n_links)` of cells."""
        return densify(cells.values @ self.sums)


@dataclass(frozen=True, eq=False)
class Weighed:
    """The ways on one scale of the target's values, each multiplied by its weight.

    Attributes:
        coefficients: `(sum of coordinates, n_vars)`.
        intercept: `(n_vars,)`.
        slope: `(n_vars,)`, of the linked feature.
        weights: `(n_ways, n_vars)` in the order of `WAYS`.
    """

    coefficients: FloatArray
    intercept: FloatArray
    slope: FloatArray
    weights: FloatArray


@dataclass(frozen=True, eq=False)
class Stack:
    """Expected values of a target from cells of a source.

    Attributes:
        linked: None without links.
        by_scale: On `log` values and, where values are counts, on `counts`.
        reach: Strangeness, of either kind, below which 99 % of the cells left out of a fold lie.
        n_cells: Cells fitted on.
        widening: None in a model of an earlier version.
    """

    coordinates: CellCoordinates
    linked: LinkedValues | None
    by_scale: Mapping[str, Weighed]
    reach: tuple[float, float]
    n_cells: int
    widening: Widening | None = None

    @property
    def n_vars(self) -> int:
        """Number of features of the target."""
        return len(self.by_scale["log"].intercept)

    def predict(self, cells: SourceCells, scale: str, columns: IntArray) -> FloatArray:
        """Return expected values `(n, n_columns)`."""
        fitted = self.by_scale[scale]
        out = np.empty((cells.n, len(columns)), np.float32)
        coefficients = fitted.coefficients[:, columns]
        for rows in chunks(cells.n, 4096):
            some = cells.take(np.arange(rows.start, rows.stop))
            phi = np.concatenate(self.coordinates(some), axis=1)
            out[rows] = phi @ coefficients + fitted.intercept[columns]
            if self.linked is not None:
                linked_column = self.linked.column[columns]
                by_link = self.linked(some)[:, np.maximum(linked_column, 0)] * fitted.slope[columns]
                out[rows] += np.where(linked_column >= 0, by_link, 0)
        return out

    def distance(self, cells: SourceCells) -> FloatArray:
        """Return how far cells lie from those fitted on, `(n,)`: 1 is as far as 99 % of these lie."""
        strange = self.coordinates.strangeness(cells) / np.asarray(self.reach)
        return np.asarray(strange.max(1), np.float32)

    def times(self, cells: SourceCells) -> FloatArray:
        """Return how many times wider the intervals of cells are than those of ordinary ones, `(n,)`."""
        far = np.maximum(self.distance(cells), np.float32(1))
        if self.widening is None:
            return far
        c = self.coordinates
        return np.maximum(far, self.widening(c.near_plain(c.plain(cells)[:, :LEADING])))

    def state(self) -> tuple[dict[str, Json], dict[str, Any]]:
        """Return what `from_state` needs: a JSON-able part and arrays by name."""
        c = self.coordinates
        arrays: dict[str, Any] = {}
        if self.linked is not None:
            sums = self.linked.sums.tocoo()
            arrays = {"linked/column": self.linked.column, "linked/shape": np.array(sums.shape)}
            arrays |= {"linked/row": sums.row, "linked/link": sums.col, "linked/weight": sums.data}
        for scale, fitted in self.by_scale.items():
            arrays |= {f"{scale}/{part}": getattr(fitted, part) for part in _PARTS}
        for name, view in (("plain", c.plain), ("standardised", c.standardised)):
            arrays |= {f"{name}/columns": view.columns, f"{name}/scale": view.scale}
            arrays |= {f"{name}/{k}": v for k, v in view.components.arrays().items()}
        widths: dict[str, Json] = {}
        for name, nearness in (
            ("near_plain", c.near_plain),
            ("near_standardised", c.near_standardised),
            ("latent", c.latent),
        ):
            if nearness is not None:
                widths[name] = nearness.width
                arrays |= {f"{name}/landmarks": nearness.landmarks, f"{name}/projection": nearness.projection}
        widening: Json = None
        if self.widening is not None:
            widening, tensors = self.widening.state()
            arrays |= {f"widening/{k}": v for k, v in tensors.items()}
        facts: dict[str, Json] = {
            "widening": widening,
            "reach": list(self.reach),
            "n_cells": self.n_cells,
            "widths": widths,
            "scales": list(self.by_scale),
        }
        return facts, arrays

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> Stack:
        """Rebuild; the result predicts bit for bit as the original."""

        def view(name: str) -> View:
            parts = _under(arrays, f"{name}/")
            return View(parts["columns"], parts["scale"], Components.from_arrays(parts))

        nearness = {
            name: Nearness(arrays[f"{name}/landmarks"], width, arrays[f"{name}/projection"])
            for name, width in facts["widths"].items()
        }
        coordinates = CellCoordinates(
            view("plain"),
            view("standardised"),
            nearness["near_plain"],
            nearness["near_standardised"],
            nearness.get("latent"),
        )
        by_scale = {
            scale: Weighed(*(arrays[f"{scale}/{part}"] for part in _PARTS)) for scale in facts["scales"]
        }
        linked = None
        if "linked/column" in arrays:
            entries = (arrays["linked/weight"], (arrays["linked/row"], arrays["linked/link"]))
            shape = tuple(int(n) for n in arrays["linked/shape"])
            linked = LinkedValues(sparse.csr_matrix(entries, shape=shape), arrays["linked/column"])
        wide = facts.get("widening")
        widening = Widening.from_state(wide, _under(arrays, "widening/")) if wide else None
        return cls(coordinates, linked, by_scale, tuple(facts["reach"]), facts["n_cells"], widening)


def _under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
