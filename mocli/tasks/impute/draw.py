"""One draw of every imputed value from the model's likelihood, at the depth of the cell itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mocli.errors import UsageError
from mocli.models.base import Conditions, Decodes, Samples
from mocli.tasks.impute.denoise import Denoised
from mocli.tasks.infer.decoder import ValueDecoder, cannot_decode, is_counted
from mocli.tasks.infer.translation import Translation
from mocli.tasks.trained.saved import SavedModel
from mocli.types import FloatArray, IntArray

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
