"""A translation: cells of one modality in a model, and the values of another modality that it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError
from mocli.tasks.infer.align import Aligned, align
from mocli.tasks.infer.batch import own_batches
from mocli.tasks.infer.decoder import ValueDecoder
from mocli.tasks.infer.direction import Direction
from mocli.tasks.infer.place import place_cells
from mocli.tasks.infer.predictor import Predictor, choose_predictor, of_cells
from mocli.tasks.infer.stacking import StackPredictor, cells_of_file, distance_in_latent
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.coordinates import SourceCells
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.saved import SavedModel
from mocli.types import CSR, FloatArray, IntArray, Route


class Chosen(NamedTuple):
    """What will make values of the target, and from what, before any cell is placed.

    Attributes:
        why: Why values are made so.
        aligned: The source, its features as the model's.
        batches: As `Translation` has them.
    """

    predictor: Predictor | StackPredictor
    why: str
    aligned: Aligned
    batches: IntArray | None


def choose(
    saved: SavedModel,
    direction: Direction,
    data: DataOptions,
    *,
    route: Route,
    batch: str | None,
    device: torch.device,
    tell: Tell,
) -> Chosen:
    """Choose what makes values of the target, and match the source's features with the model's.

    Args:
        batch: As `decode_batch` takes it.

    Raises:
        InputError: The model has no readout of the target; features or covariates of the cells do not fit it.
        UsageError: A route or a batch to decode as that the model does not offer.
    """
    source, target, file = direction.source, direction.target, direction.source_file
    if target not in saved.readouts:
        raise InputError(
            f"the model cannot give values of '{target}'", hint="train it again with this version of mocli"
        )
    predictor, why = choose_predictor(
        saved, source, target, route=route, batch=batch, device=device, warn=tell.warn
    )
    batches = None
    if isinstance(predictor, ValueDecoder) and predictor.batch and predictor.batch.by_cell:
        batches = own_batches(saved, target, file, data.batch_key, tell.warn)
    return Chosen(predictor, why, align(saved, source, file, layers=data.layer, warn=tell.warn), batches)


@dataclass(frozen=True, eq=False)
class Translation:
    """Cells of the source at their latent coordinates, and the predictor that turns these into target values.

    Attributes:
        target_file: None where no input holds the target.
        pairs: Rows of the same cell in source and target, `(n, 2)`.
        layers: Layers that the user named, by modality.
        z: Latent coordinates of the source's cells, `(n_obs, n_latent)`.
        batches: Codes of the batches of the source's cells, `(n_obs,)`, where each is decoded under its own.
    """

    saved: SavedModel
    source: str
    target: str
    source_file: ModalityFile
    target_file: ModalityFile | None
    pairs: IntArray
    layers: Mapping[str, str]
    z: FloatArray
    predictor: Predictor | StackPredictor
    batches: IntArray | None = None

    @classmethod
    def of(
        cls,
        saved: SavedModel,
        direction: Direction,
        data: DataOptions,
        *,
        route: Route,
        batch: str | None,
        device: torch.device,
        seed: int,
        tell: Tell,
    ) -> tuple[Translation, str]:
        """Encode every cell of the source, and choose what turns its latent coordinates into values, and why.

        Raises:
            InputError: The model has no readout of the target; features or covariates of the cells do not fit
                it.
            UsageError: The model does not offer the route or the batch to decode under.
        """
        chosen = choose(saved, direction, data, route=route, batch=batch, device=device, tell=tell)
        translation = cls(
            saved,
            direction.source,
            direction.target,
            direction.source_file,
            direction.target_file,
            np.zeros((0, 2), dtype=np.int64),
            data.layer,
            place_cells(saved, direction.source, chosen.aligned, data, device=device, seed=seed, tell=tell),
            chosen.predictor,
            chosen.batches,
        )
        return translation, chosen.why

    @property
    def readout(self) -> FeatureReadout:
        """The readout of the target's features from the latent."""
        return self.saved.readouts[self.target]

    @property
    def names(self) -> list[str]:
        """All features of the target, in the model's order."""
        return list(self.saved.modalities[self.target]["var_names"])

    @property
    def direction(self) -> str:
        """`rna->prot`."""
        return f"{self.source}->{self.target}"

    def aligned(self, name: str, file: ModalityFile | None = None) -> Aligned:
        """Return a file of the source or of the target, as a rule its own, with features as the model's."""
        file = file or (self.source_file if name == self.source else self.target_file)
        assert file is not None
        return align(self.saved, name, file, layers=self.layers, warn=lambda _: None)

    def partners(self) -> IntArray:
        """Return for each cell of the source its row in the target, -1 for none, `(n_obs,)`."""
        rows = np.full(self.source_file.n_obs, -1, dtype=np.int64)
        rows[self.pairs[:, 0]] = self.pairs[:, 1]
        return rows

    def of_rows(self, rows: IntArray) -> Callable[[str, IntArray], FloatArray]:
        """Return a function that gives expected values `(n, n_columns)` of some rows of the source.

        It is called with a scale and columns of the target, as often as need be.
        """
        if isinstance(self.predictor, StackPredictor):
            cells = self.cells(rows)
            return partial(self.predictor.predict, cells)
        batches = None if self.batches is None else self.batches[rows]
        return partial(of_cells(self.predictor, batches).predict, self.z[rows])

    def predict(self, rows: IntArray, scale: str, columns: IntArray) -> FloatArray:
        """Return expected values of some rows of the source for columns of the target, `(n, n_columns)`."""
        return self.of_rows(rows)(scale, columns)

    def cells(self, rows: IntArray) -> SourceCells:
        """Return some rows of the source in the form that a stack takes."""
        aligned = self.aligned(self.source)
        return cells_of_file(self.saved, self.source, aligned, rows, self.z[rows])

    def distance(self, rows: IntArray) -> FloatArray | None:
        """Return how far some rows of the source lie from the training cells, `(n,)`; None where unknown.

        99 % of such cells lie within 1. It is measured in the source's own components where a
        stack knows them, else in the latent.
        """
        stack = self.saved.stacks.get((self.source, self.target))
        if stack is not None:
            return stack.distance(self.cells(rows))
        atlas = self.saved.atlas
        return None if atlas is None else distance_in_latent(atlas, self.source, self.z[rows])

    def times(self, rows: IntArray) -> FloatArray | None:
        """Return how many times wider the intervals of some rows are, `(n,)`; None where it is not known."""
        stack = self.saved.stacks.get((self.source, self.target))
        if stack is not None:
            return stack.times(self.cells(rows))
        distance = self.distance(rows)
        return None if distance is None else np.maximum(distance, np.float32(1))

    def measured(self, name: str, rows: IntArray, *, logged: bool = True) -> tuple[CSR, IntArray]:
        """Return measured values `(n, n_vars)` at one depth, and features that the file lacks: 0 there."""
        aligned, readout = self.aligned(name), self.saved.readouts[name]
        scale = "log" if logged or "counts" not in readout.by_scale else "counts"
        return readout.values(aligned.read(rows), scale), aligned.absent
