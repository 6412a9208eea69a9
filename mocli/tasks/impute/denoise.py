"""A modality denoised: the values that the model expects of measured cells, at their own depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mocli.data.batches import densify
from mocli.nn.neighbors import chunks
from mocli.tasks.infer.align import Aligned
from mocli.tasks.infer.decoder import BLOCK, ValueDecoder
from mocli.tasks.infer.predictor import Predictor, of_cells
from mocli.tasks.infer.stacking import StackPredictor
from mocli.tasks.infer.translation import Translation
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.types import CSR, BoolArray, DoubleArray, FloatArray, IntArray

OWN_DEPTH = ("counts", "shares")
"""Scales on which a cell keeps its own total; on the others it has the median depth."""


@dataclass(frozen=True, eq=False)
class Denoised:
    """Expected values of the modality that gave the cells their latent coordinates.

    Features that the decoder knows, and those it does not (not highly variable: the readout's), each keep
    the total that the cell has of them: the library size enters once, not squared as in scCross' code.

    Attributes:
        is_decoded: Features that the decoder gives, `(n_vars,)`; none where there is no decoder.
        batches: Codes of the batches of all cells of the file, `(n_obs,)`, where each is decoded under its
            own.
        totals: Counts of each cell among these, and among the others, `(n_obs, 2)`; zeros where values are no
            counts.
    """

    predictor: Predictor
    readout: FeatureReadout
    aligned: Aligned
    is_decoded: BoolArray
    totals: DoubleArray
    batches: IntArray | None = None

    @classmethod
    def of(cls, translation: Translation) -> Denoised:
        """Measure the depth of the cells of a modality that is translated into itself."""
        predictor, readout = translation.predictor, translation.readout
        assert not isinstance(predictor, StackPredictor)
        aligned = translation.aligned(translation.source)
        is_decoded = np.zeros(readout.n_vars, dtype=bool)
        if isinstance(predictor, ValueDecoder):
            is_decoded[predictor.decoded(np.arange(readout.n_vars))] = True
        n = aligned.file.n_obs
        totals = np.zeros((n, 2))
        parts = np.stack([is_decoded, ~is_decoded], axis=1).astype(np.float64)
        if "counts" in readout.by_scale:
            for rows in chunks(n, 4096):
                totals[rows] = aligned.read(rows) @ parts
        return cls(predictor, readout, aligned, is_decoded, totals, translation.batches)

    def predict(self, z: FloatArray, rows: IntArray, scale: str, columns: IntArray) -> FloatArray:
        """Return expected values `(n, n_columns)` of some rows of the file at coordinates `(n, n_latent)`.

        Over the features that the file has, counts sum to the cell's own total, shares to 1.
        """
        if scale not in OWN_DEPTH:
            return self._of(rows).predict(z, scale, columns)
        out = np.zeros((len(rows), len(columns)), dtype=np.float32)
        measured = np.ones(self.readout.n_vars, dtype=bool)
        measured[self.aligned.absent] = False
        library = self.totals if scale == "counts" else self._shares(rows)
        for part, features in enumerate((np.flatnonzero(self.is_decoded), np.flatnonzero(~self.is_decoded))):
            wanted = np.flatnonzero(self.is_decoded[columns] == (part == 0))
            if not len(wanted):
                continue
            decoded_column = np.searchsorted(features, columns[wanted])
            # every feature is needed for the total, whatever columns are wanted
            for span in chunks(len(rows), max(16, BLOCK // len(features))):
                values = self._of(rows[span]).predict(z[span], "counts", features)
                total = values[:, measured[features]].sum(1, dtype=np.float64)
                library_of_part = library[rows[span], part] if scale == "counts" else library[span, part]
                factor = np.divide(library_of_part, total, out=np.zeros_like(total), where=total > 0)
                out[span, wanted] = values[:, decoded_column] * factor[:, None]
        return out

    def measured(self, x: CSR, scale: str, columns: IntArray, absent: IntArray | None = None) -> FloatArray:
        """Return raw values `(n, n_vars)` on a scale, some columns, dense; NaN for absent features."""
        if scale not in OWN_DEPTH:
            return self.readout.measured(x, scale, columns, absent)
        values = densify(x[:, columns])
        if scale == "shares":
            total = np.asarray(x.sum(1), np.float64).reshape(-1, 1)
            values = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
        if absent is not None and len(absent):
            values[:, np.isin(columns, absent)] = np.nan
        return values

    def _of(self, rows: IntArray) -> Predictor:
        return of_cells(self.predictor, None if self.batches is None else self.batches[rows])

    def _shares(self, rows: IntArray) -> DoubleArray:
        """Return the shares of both parts in some cells; for an empty cell, those of all cells together."""
        totals = self.totals[rows]
        totals = np.where(totals.sum(1, keepdims=True) > 0, totals, self.totals.sum(0))
        total = totals.sum(1, keepdims=True)
        return np.divide(totals, total, out=np.zeros_like(totals), where=total > 0)
