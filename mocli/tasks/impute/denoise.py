"""Values of a modality that a model gives measured cells: denoised, or one draw of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mocli.data.batches import densify
from mocli.errors import UsageError
from mocli.models.base import Conditions, Decodes, Samples
from mocli.nn.neighbors import chunks
from mocli.tasks.infer.align import Aligned
from mocli.tasks.infer.decoder import BLOCK, ValueDecoder, cannot_decode, is_counted
from mocli.tasks.infer.predictor import Predictor, StackPredictor, of_cells
from mocli.tasks.infer.translation import Translation
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.saved import SavedModel
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


OPTION = "--draw"


def check_draws(saved: SavedModel, target: str) -> None:
    """Raise `UsageError` for a model that cannot draw values of a modality."""
    problem = cannot_decode(saved, target)
    if problem is None and not isinstance(saved.model, Samples):
        problem = f"{saved.description['model']} cannot draw from its likelihood"
    if problem is not None:
        raise UsageError(f"values of {target} cannot be drawn: {problem}", field=OPTION, hint="leave it out")


@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws values of the target.

    Attributes:
        ratio: Depth of every source cell over the training cells' median, `(n,)`: a cell that is deep in the
            source will be as deep in the target, whatever other cells are drawn with it.
        library: Where a modality is denoised, the counts of every cell among features that the decoder knows,
            `(n,)`; they stand instead of the ratio.
        place: Where a feature is in the decoder's output, -1 for none, `(n_vars,)`.
    """

    translation: Translation
    ratio: FloatArray
    place: IntArray
    device: torch.device
    seed: int
    library: FloatArray | None = None

    @classmethod
    def of(
        cls, translation: Translation, denoised: Denoised | None, *, device: torch.device, seed: int
    ) -> Sampler:
        """Measure the depth of the source's cells."""
        saved, source, target = translation.saved, translation.source, translation.target
        check_draws(saved, target)
        ratio, library = np.ones(translation.source_file.n_obs, np.float32), None
        if denoised is not None:
            library = denoised.totals[:, 0].astype(np.float32)
        elif is_counted(saved, source) and is_counted(saved, target):
            totals = np.asarray(translation.aligned(source).read().sum(1), np.float64).ravel()
            ratio = (totals / max(saved.readouts[source].depth, 1e-12)).astype(np.float32)
        selected = saved.recipes[target].selected
        place = np.full(len(translation.names), -1, np.int64)
        place[selected] = np.arange(len(selected))
        return cls(translation, ratio, place, device, seed, library)

    def draw(self, rows: IntArray, columns: IntArray) -> FloatArray:
        """Return drawn values `(n, n_columns)` of cells; NaN for features that the decoder does not know."""
        batches = self.translation.batches
        if batches is None or (batches[rows] >= 0).all() or (batches[rows] < 0).all():
            return self._draw(rows, columns)
        # cells of no known batch are of no particular kind
        values = np.empty((len(rows), len(columns)), np.float32)
        for some in (batches[rows] >= 0, batches[rows] < 0):
            values[some] = self._draw(rows[some], columns)
        return values

    def _draw(self, rows: IntArray, columns: IntArray) -> FloatArray:
        saved, target, device = self.translation.saved, self.translation.target, self.device
        model = saved.model
        assert isinstance(model, Samples)
        assert isinstance(model, Decodes)
        z, conditions = torch.from_numpy(self.translation.z[rows]).to(device), self._conditions(rows)
        # the rows are part of the seed, so that blocks differ
        seed = np.random.SeedSequence([self.seed, int(rows[0])]).generate_state(1)[0]
        generator = torch.Generator(device).manual_seed(int(seed))
        with torch.inference_mode():
            library = None
            if is_counted(saved, target) and self.library is not None:
                library = torch.from_numpy(self.library[rows]).to(device)
            elif is_counted(saved, target):
                usual = model.decode(target, z, conditions).sum(1)
                library = usual * torch.from_numpy(self.ratio[rows]).to(device)
            drawn = model.sample(target, z, conditions, library, generator=generator)
        values: FloatArray = drawn.float().cpu().numpy()
        places = self.place[columns]
        return np.where(places >= 0, values[:, np.maximum(places, 0)], np.nan).astype(np.float32)

    def _conditions(self, rows: IntArray) -> Conditions | None:
        predictor, batches = self.translation.predictor, self.translation.batches
        batch = predictor.batch if isinstance(predictor, ValueDecoder) else None
        if batch is not None and batches is not None:
            if (batches[rows] < 0).any():
                return None
            return Conditions({batch.key: torch.from_numpy(batches[rows]).to(self.device)})
        # several batches are one of no particular kind
        if batch is None or len(batch.codes) != 1:
            return None
        return Conditions({batch.key: torch.full((len(rows),), batch.codes[0], device=self.device)})
