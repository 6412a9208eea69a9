"""Expected values through a model's own decoder, on the scales that users ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from scipy.stats import poisson

from mocli.data.transforms.recipe import Recipe
from mocli.models.base import Conditions, Decodes
from mocli.nn.neighbors import chunks
from mocli.tasks.infer.batch import DecodeBatch
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.saved import SavedModel
from mocli.types import COUNT_LIKELIHOODS, DoubleArray, FloatArray, IntArray

BLOCK = 2_000_000
"""Values decoded at a time."""

MOST_SUMMED = 100.0
"""Up to this expected count the mean of log1p is summed; beyond it two terms of its series are enough."""


@dataclass(frozen=True, eq=False)
class ValueDecoder:
    """Expected values of the features of one modality, from a model's decoder.

    Expected counts are those of a cell of the training cells' median depth: proportions among the
    features decoded, times the share of the total that the readout expects these to have in the
    cell. Features that the decoder does not know (not highly variable) are the readout's. Where
    several batches are asked for, their values on the asked scale are averaged.

    Attributes:
        place: Where a feature is in the decoder's output, -1 for none, `(n_vars,)`.
        counted: Whether the decoder's likelihood is one of counts; else its values are on the scale of the
            recipe.
        batch: The batches to decode under; None: covariates at their mean.
        batch_codes: Codes of the batches of the cells to predict, `(n,)`, -1 for none; None unless each has
            its own.
    """

    model: Decodes
    modality: str
    recipe: Recipe
    readout: FeatureReadout
    place: IntArray
    counted: bool
    batch: DecodeBatch | None
    device: torch.device
    batch_codes: IntArray | None = None

    @classmethod
    def of(
        cls, saved: SavedModel, modality: str, batch: DecodeBatch | None, device: torch.device | str
    ) -> ValueDecoder:
        """Take the decoder of a saved model; `cannot_decode` must have returned None."""
        model, recipe, readout = saved.model, saved.recipes[modality], saved.readouts[modality]
        if not isinstance(model, Decodes):
            raise TypeError(f"{type(model).__name__} cannot decode")
        place = np.full(readout.n_vars, -1, dtype=np.int64)
        place[recipe.selected] = np.arange(len(recipe.selected))
        model.module.to(device)
        return cls(
            model, modality, recipe, readout, place, is_counted(saved, modality), batch, torch.device(device)
        )

    @property
    def name(self) -> str:
        """`decoder`, with the batch where one was asked for."""
        return "decoder" if self.batch is None else f"decoder{self.batch.suffix}"

    def of_cells(self, batch_codes: IntArray | None) -> ValueDecoder:
        """Return the decoder of cells of these batches; the same where each is not decoded under its own."""
        return (
            replace(self, batch_codes=batch_codes) if self.batch is not None and self.batch.by_cell else self
        )

    def decoded(self, columns: IntArray) -> IntArray:
        """Positions of the target's columns that the decoder knows."""
        return np.flatnonzero(self.place[columns] >= 0)

    def predict(self, z: FloatArray, scale: str, columns: IntArray) -> FloatArray:
        """Return expected values `(n, n_columns)` of cells `(n, n_latent)`, decoded block by block."""
        is_decoded = self.place[columns] >= 0
        out = np.empty((len(z), len(columns)), dtype=np.float32)
        if not is_decoded.all():
            out[:, ~is_decoded] = self.readout.predict(z, scale, columns[~is_decoded])
        if is_decoded.any():
            places = self.place[columns[is_decoded]]
            # softmax needs every feature, whatever columns are wanted
            for rows in chunks(len(z), max(16, BLOCK // max(len(self.recipe.selected), 1))):
                batch_codes = None if self.batch_codes is None else self.batch_codes[rows]
                values = self._on_scale(z[rows], "log" if scale == "scaled" else scale, batch_codes)[
                    :, places
                ]
                if scale == "scaled":
                    values = self.readout.standardised(values, columns[is_decoded])
                out[rows, is_decoded] = values
        return out

    def _on_scale(self, z: FloatArray, scale: str, batch_codes: IntArray | None) -> FloatArray:
        codes = (None,) if self.batch is None else self.batch.codes
        if batch_codes is None:
            return self._mean(z, scale, codes)
        values = np.empty((len(z), len(self.recipe.selected)), dtype=np.float32)
        for code in np.unique(batch_codes):
            of_batch = batch_codes == code
            values[of_batch] = self._mean(z[of_batch], scale, (int(code),) if code >= 0 else codes)
        return values

    def _mean(self, z: FloatArray, scale: str, codes: Sequence[int | None]) -> FloatArray:
        """Values on a scale, averaged over batches."""
        total = np.zeros((len(z), len(self.recipe.selected)), dtype=np.float32)
        for code in codes:
            total += self._convert(self._decode(z, code), z, scale)
        total /= len(codes)
        return total

    def _decode(self, z: FloatArray, code: int | None) -> FloatArray:
        conditions = None
        if code is not None and self.batch is not None:
            conditions = Conditions({self.batch.key: torch.full((len(z),), code, device=self.device)})
        with torch.inference_mode():
            decoded = self.model.decode(self.modality, torch.from_numpy(z).to(self.device), conditions)
        return decoded.float().cpu().numpy()

    def _convert(self, decoded: FloatArray, z: FloatArray, scale: str) -> FloatArray:
        """Take the decoder's output to `log` or `counts`."""
        if self.counted:
            counts = self._at_depth(decoded, z)
            return counts if scale == "counts" else self._logged(counts)
        values = self.recipe.unscale(decoded)
        if self.readout.floor is not None:
            values = np.maximum(values, self.readout.floor)
        if scale == "log":
            return values
        readable = self.readout.readable
        counts = readable.undo(values)
        # CLR leaves the total open, and the depth asked for settles it
        return counts if readable.keeps_depth else self._at_depth(counts, z)

    def _logged(self, counts: FloatArray) -> FloatArray:
        """Return expected logs of counts at the median depth, or CLR of the expected counts."""
        if self.readout.readable.keeps_depth:
            return mean_log1p(counts)
        center = np.log1p(counts).mean(1, keepdims=True)
        return np.log1p(counts * np.exp(-center)).astype(np.float32)

    def _at_depth(self, counts: FloatArray, z: FloatArray) -> FloatArray:
        """Scale cells to the median depth, or to the share of it that the features decoded have."""
        readout, selected = self.readout, self.recipe.selected
        library: FloatArray | float = readout.depth
        if len(selected) < readout.n_vars:
            library = readout.predict(z, "counts", selected).sum(1, keepdims=True)
        total = counts.sum(1, keepdims=True)
        scaled: FloatArray = counts * (library / np.maximum(total, np.finfo(np.float32).tiny))
        return scaled.astype(np.float32, copy=False)


def cannot_decode(saved: SavedModel, modality: str) -> str | None:
    """Return None if a model's decoder gives values of a modality, else the reason, to end a sentence."""
    recipe = saved.recipes[modality]
    if not isinstance(saved.model, Decodes):
        return f"{saved.description['model']} has no decoder"
    if recipe.lsi is not None or recipe.components is not None:
        return f"its decoder gives components of {modality}, not features"
    if likelihood_of(saved, modality) == "bernoulli":
        return f"its decoder says whether a feature of {modality} is detected, not how much of it there is"
    return None


def mean_log1p(mean: FloatArray) -> FloatArray:
    """Return the mean of log(1 + x) over Poisson counts x with some means, any shape."""
    grid, values = _summed()
    summed = np.interp(np.minimum(mean, MOST_SUMMED), grid, values)
    series = np.log1p(mean) - mean / (2 * np.square(1 + mean))
    return np.where(mean < MOST_SUMMED, summed, series).astype(np.float32)


@cache
def _summed() -> tuple[DoubleArray, DoubleArray]:
    grid = np.concatenate([[0.0], np.geomspace(1e-4, MOST_SUMMED, 1000)])
    counts = np.arange(int(MOST_SUMMED + 12 * np.sqrt(MOST_SUMMED)))
    return grid, poisson.pmf(counts, grid[:, None]) @ np.log1p(counts)


def likelihood_of(saved: SavedModel, modality: str) -> str | None:
    """Return the likelihood of a modality's values; None where none was chosen."""
    entry = saved.modalities[modality]
    if "likelihood" in entry:
        return None if entry["likelihood"] is None else str(entry["likelihood"])
    # saved before it was kept for every model
    taken_for_by_name = {name: taken_for for name, _, taken_for in saved.description["spec"]["modalities"]}
    return str(taken_for_by_name[modality])


def is_counted(saved: SavedModel, modality: str) -> bool:
    """Say whether a modality's likelihood is one of counts."""
    return likelihood_of(saved, modality) in COUNT_LIKELIHOODS
