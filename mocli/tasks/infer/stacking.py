"""Values from a stack of closed-form ways, fitted to training cells that were measured in both modalities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mocli.data.batches import dense_rows
from mocli.data.transforms.linkrecipe import LinkRecipe
from mocli.nn.neighbors import knn
from mocli.tasks.infer.align import Aligned
from mocli.tasks.prepare.aim import FEWEST_PAIRS
from mocli.tasks.trained.atlas import Atlas
from mocli.tasks.trained.coordinates import SourceCells
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.saved import SavedModel
from mocli.tasks.trained.stack import Stack
from mocli.types import CSR, FloatArray, IntArray

NEAREST = 5
"""The distance to this nearest training cell tells how far a cell lies from all of them."""


@dataclass(frozen=True, eq=False)
class StackPredictor:
    """A stack, on the scales that users ask for."""

    stack: Stack
    readout: FeatureReadout

    @property
    def name(self) -> str:
        """The name that its calibration is kept under."""
        return "stack"

    def predict(self, cells: SourceCells, scale: str, columns: IntArray) -> FloatArray:
        """Return values `(n, n_columns)`; values that cannot be negative are clipped at 0."""
        values = self.stack.predict(cells, "log" if scale == "scaled" else scale, columns)
        if self.readout.floor is not None:
            np.maximum(values, self.readout.floor, out=values)
        return self.readout.standardised(values, columns) if scale == "scaled" else values


def link_sides(saved: SavedModel, source: str, target: str) -> tuple[LinkRecipe, LinkRecipe] | None:
    """Return how linked features are computed from source and target; None where no links join the two."""
    recipes = saved.link_recipes
    if (source, target) in recipes:
        return recipes[source, target]
    return recipes[target, source][::-1] if (target, source) in recipes else None


def link_columns(aggregation: CSR) -> IntArray:
    """Return for each feature its own linked column, -1 for none, `(n_vars,)`.

    `aggregation`: of the target's side of a link recipe, `(n_vars, n_links)`; the largest weight wins.
    """
    columns = np.full(aggregation.shape[0], -1, dtype=np.int64)
    entries = aggregation.tocoo()
    order = np.argsort(entries.data, kind="stable")
    columns[entries.row[order]] = entries.col[order]
    return columns


def linked_values(recipe: LinkRecipe, x: CSR) -> FloatArray:
    """Return standardised linked features of raw values, `(n, n_links)`."""
    return dense_rows(recipe.apply(x), np.arange(x.shape[0]))


def cells_of_file(
    saved: SavedModel, source: str, aligned: Aligned, rows: IntArray, z: FloatArray
) -> SourceCells:
    """Return some rows of a file as a stack sees them; `z` is of these rows."""
    values = saved.readouts[source].values(aligned.read(rows), "log")
    absent = aligned.absent if len(aligned.absent) else None
    return SourceCells(values, np.asarray(z, np.float32), absent)


def distance_in_latent(atlas: Atlas, source: str, z: FloatArray) -> FloatArray | None:
    """Return how far cells lie from the training cells of a modality, `(n,)`; None for fewer than 50 cells.

    It is the distance to the fifth nearest training cell, over the 99 % quantile of that distance among
    training cells.
    """
    if source in atlas.alone:
        known_z = atlas.alone[source]
    else:
        of_source = [k for k, name in enumerate(atlas.groups) if source in name.split("+")]
        known_z = atlas.z[np.isin(atlas.group, of_source)]
    known_z = known_z[np.isfinite(known_z).all(1)]
    if len(known_z) < FEWEST_PAIRS:
        return None
    rows = np.linspace(0, len(known_z) - 1, min(len(known_z), 2_000)).astype(np.int64)
    usual = knn(known_z[rows], known_z, NEAREST + 1)[0][:, -1]
    reach = float(np.quantile(usual, 0.99)) or 1.0
    return np.asarray(knn(np.asarray(z, np.float32), known_z, NEAREST)[0][:, -1] / reach, np.float32)
