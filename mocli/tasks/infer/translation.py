"""A translation: cells of one modality under a model, and the values of another that it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.saved import SavedModel
from mocli.types import CSR, FloatArray, IntArray, Route


@dataclass(frozen=True, eq=False)
class Translation:
    """Cells of the source at their latent coordinates, and what makes values of the target of these.

    Attributes
    ----------
    target_file
        None where no input holds the target.
    pairs
        Rows of the same cell in source and target, `(n, 2)`.
    layers
        Layers that the user named, by modality.
    z
        Latent coordinates of the source's cells, `(n_obs, n_latent)`.
    batches
        Codes of the batches of the source's cells, `(n_obs,)`, where each is decoded under its own.
    """

    saved: SavedModel
    source: str
    target: str
    source_file: ModalityFile
    target_file: ModalityFile | None
    pairs: IntArray
    layers: Mapping[str, str]
    z: FloatArray
    predictor: Predictor
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
        """Place every cell of the source in the latent, and choose what makes values of it; and why so.

        Parameters
        ----------
        batch
            As `decode_batch` takes it.

        Raises
        ------
        InputError
            The model has no readout of the target; features or covariates of the cells do not fit it.
        UsageError
            A route or a batch to decode as that the model does not offer.
        """
        source, target, file = direction.source, direction.target, direction.source_file
        if target not in saved.readouts:
            raise InputError(
                f"the model cannot give values of '{target}'",
                hint="train it again with this version of mocli",
            )
        predictor, why = choose_predictor(
            saved, source, target, route=route, batch=batch, device=device, warn=tell.warn
        )
        batches = None
        if isinstance(predictor, ValueDecoder) and predictor.batch and predictor.batch.own:
            batches = own_batches(saved, target, file, data.batch_key, tell.warn)
        aligned = align(saved, source, file, layers=data.layer, warn=tell.warn)
        z = place_cells(saved, source, aligned, data, device=device, seed=seed, tell=tell)
        pairs = np.zeros((0, 2), dtype=np.int64)
        return (
            cls(saved, source, target, file, direction.target_file, pairs, data.layer, z, predictor, batches),
            why,
        )

    @property
    def readout(self) -> FeatureReadout:
        """What the latent says of the target's features."""
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

    def predict(self, rows: IntArray, scale: str, columns: IntArray) -> FloatArray:
        """Return expected values of some rows of the source for columns of the target, `(n, n_columns)`."""
        batches = None if self.batches is None else self.batches[rows]
        return of_cells(self.predictor, batches).predict(self.z[rows], scale, columns)

    def measured(self, name: str, rows: IntArray) -> tuple[CSR, IntArray]:
        """Return measured values `(n, n_vars)`, log scale, and the features that the file lacks: 0 there."""
        aligned = self.aligned(name)
        return self.saved.readouts[name].values(aligned.read(rows), "log"), aligned.absent
