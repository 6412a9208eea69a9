"""A translation: cells of one modality under a model, and the values of another that it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.tasks.infer.align import Aligned, align
from mocli.tasks.infer.predictor import Predictor, of_cells
from mocli.tasks.trained.readout import FeatureReadout
from mocli.tasks.trained.saved import SavedModel
from mocli.types import CSR, FloatArray, IntArray


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
