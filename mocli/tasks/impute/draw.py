"""One draw of every imputed value from the model's likelihood, at the depth of the cell itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mocli.errors import UsageError
from mocli.models.base import Conditions, Decodes, Samples
from mocli.tasks.infer.align import align
from mocli.tasks.infer.decoder import Decoder, cannot_decode, is_counted

if TYPE_CHECKING:
    from mocli.tasks.impute.work import Imputation
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

    Attributes
    ----------
    ratio
        Depth of every source cell over the training cells' median, `(n,)`: a cell as deep in the source
        will be as deep in the target, whatever other cells are drawn with it.
    library
        Where a modality is denoised, the counts of every cell among features that the decoder knows,
        `(n,)`; they stand instead of the ratio.
    place
        Where a feature is in the decoder's output, -1 for none, `(n_vars,)`.
    """

    work: Imputation
    ratio: FloatArray
    place: IntArray
    library: FloatArray | None = None

    @classmethod
    def of(cls, work: Imputation) -> Sampler:
        """Measure the depth of the source's cells."""
        saved, source = work.saved, work.source
        check_draws(saved, work.target)
        ratio, library = np.ones(work.source_file.n_obs, np.float32), None
        if work.denoised is not None:
            library = work.denoised.totals[:, 0].astype(np.float32)
        elif is_counted(saved, source) and is_counted(saved, work.target):
            aligned = align(
                saved, source, work.source_file, layers=work.request.data.layer, warn=lambda _: None
            )
            totals = np.asarray(aligned.read().sum(1), np.float64).ravel()
            ratio = (totals / max(saved.readouts[source].depth, 1e-12)).astype(np.float32)
        selected = saved.recipes[work.target].selected
        place = np.full(len(work.names), -1, np.int64)
        place[selected] = np.arange(len(selected))
        return cls(work, ratio, place, library)

    def draw(self, rows: IntArray, columns: IntArray) -> FloatArray:
        """Return drawn values `(n, n_columns)` of cells; NaN for features that the decoder does not know."""
        own = self.work.own
        if own is None or (own[rows] >= 0).all() or (own[rows] < 0).all():
            return self._draw(rows, columns)
        # cells of no known batch are of no particular kind
        found = np.empty((len(rows), len(columns)), np.float32)
        for some in (own[rows] >= 0, own[rows] < 0):
            found[some] = self._draw(rows[some], columns)
        return found

    def _draw(self, rows: IntArray, columns: IntArray) -> FloatArray:
        work, model, device = self.work, self.work.saved.model, self.work.run.device
        assert isinstance(model, Samples)
        assert isinstance(model, Decodes)
        z, conditions = torch.from_numpy(work.z[rows]).to(device), self._conditions(rows)
        # the rows are part of the seed, so that blocks differ
        seed = np.random.SeedSequence([work.request.run.seed, int(rows[0])]).generate_state(1)[0]
        generator = torch.Generator(device).manual_seed(int(seed))
        with torch.inference_mode():
            library = None
            if is_counted(work.saved, work.target) and self.library is not None:
                library = torch.from_numpy(self.library[rows]).to(device)
            elif is_counted(work.saved, work.target):
                usual = model.decode(work.target, z, conditions).sum(1)
                library = usual * torch.from_numpy(self.ratio[rows]).to(device)
            drawn = model.sample(work.target, z, conditions, library, generator=generator)
        values: FloatArray = drawn.float().cpu().numpy()
        at = self.place[columns]
        return np.where(at >= 0, values[:, np.maximum(at, 0)], np.nan).astype(np.float32)

    def _conditions(self, rows: IntArray) -> Conditions | None:
        batch = self.work.predictor.batch if isinstance(self.work.predictor, Decoder) else None
        if batch is not None and self.work.own is not None:
            if (self.work.own[rows] < 0).any():
                return None
            return Conditions({batch.key: torch.from_numpy(self.work.own[rows]).to(self.work.run.device)})
        codes = () if batch is None else [code for code in batch.codes if code is not None]
        # several batches are one of no particular kind
        if batch is None or len(codes) != 1:
            return None
        return Conditions({batch.key: torch.full((len(rows),), codes[0], device=self.work.run.device)})
