"""Expected values through a model's own decoder: under which batch, and on which scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from scipy.stats import poisson

from mocli.data.files.frames import words
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.transforms.recipe import Recipe
from mocli.errors import UsageError, did_you_mean
from mocli.models.base import Conditions, Decodes
from mocli.nn.neighbors import chunks
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.saved import SavedModel
from mocli.types import COUNT_LIKELIHOODS, BoolArray, DoubleArray, FloatArray, IntArray

OPTION = "--decode-batch"

OWN, AVERAGE = "own", "average"
"""Words for the batch of each cell, and for the mean over batches, unless a level has that name."""


@dataclass(frozen=True)
class DecodeBatch:
    """Levels of the batch that values are decoded under, and averaged over.

    Attributes:
        codes: Codes of the levels, in the model's order.
        level: The level that the user named, `own`, or None for all that measured the modality.
        by_cell: Whether every cell is decoded under its own batch; the levels are for cells whose batch is
            unknown.
    """

    key: str
    levels: tuple[str, ...]
    codes: tuple[int, ...]
    level: str | None
    by_cell: bool = False

    @property
    def suffix(self) -> str:
        """A suffix that tells values of one batch from the average."""
        return "" if self.level is None else f"={self.level}"

    @property
    def words(self) -> str:
        """The batches, in words."""
        mean = f"the mean over {self.key} = {', '.join(self.levels)}"
        if self.by_cell:
            return f"each cell's own {self.key}; where it is unknown, {mean}"
        return mean if self.level is None else f"{self.key} = {self.level}"


def decode_batch(
    saved: SavedModel, modality: str, level: str | None, warn: Callable[[str], None]
) -> DecodeBatch | None:
    """Return the batches to decode under; None for a model without batches.

    Raises `UsageError`: the model does not know the batch that is asked for, or knows none.
    """
    of_model = _known(saved, modality)
    if of_model is None:
        if level is not None:
            raise no_batches(level)
        return None
    key, levels, measured = of_model
    word = None if level in levels else level
    if level is None or word in (OWN, AVERAGE):
        codes = tuple(map(levels.index, measured))
        is_own = word == OWN
        return DecodeBatch(key, tuple(measured), codes, OWN if is_own else None, is_own)
    check_level(level, levels)
    if level not in measured:
        _warn_unseen(key, [level], modality, measured, warn)
    return DecodeBatch(key, (level,), (levels.index(level),), level)


def own_batches(
    saved: SavedModel, modality: str, file: ModalityFile, batch_key: str | None, warn: Callable[[str], None]
) -> IntArray:
    """Return the model's code of each cell's batch, `(n_obs,)`; -1 where the model does not know the batch.

    Args:
        modality: The modality that is decoded.
        batch_key: The column, where it is not the one that the model was trained with.

    Raises:
        InputError: The file has no such column.
        UsageError: The model knows no batches.
    """
    of_model = _known(saved, modality)
    if of_model is None:
        raise no_batches(OWN)
    key, levels, measured = of_model
    column = _column(saved, key, batch_key)
    column_values = find_column([file], column, option="--batch-key")[file.name]
    assert column_values is not None
    where = {level: code for code, level in enumerate(levels)}
    codes = np.array([where.get(value, -1) for value in words(column_values)], dtype=np.int64)
    n = int((codes < 0).sum())
    if n:
        warn(
            f"{n:,} of {len(codes):,} cells have no batch that the model knows (obs['{column}']; it knows "
            f"{', '.join(levels)}): they are decoded as the mean over {', '.join(measured)}"
        )
    unseen = [levels[k] for k in np.unique(codes[codes >= 0]) if levels[k] not in measured]
    if unseen:
        _warn_unseen(key, unseen, modality, measured, warn)
    return codes


def in_new_batch(
    saved: SavedModel, modality: str, file: ModalityFile, batch_key: str | None, *, trained_now: bool
) -> BoolArray:
    """Return which cells of a file are of a batch in which training lacked a modality, `(n_obs,)`.

    Where a cell names no batch it is one of training if the model was trained in this run, or knows its name.
    """
    names = () if saved.atlas is None else saved.atlas.names
    is_new: BoolArray = ~np.asarray(file.obs.index.astype(str).isin(names))
    is_new &= not trained_now
    of_model = _known(saved, modality)
    if of_model is None:
        return is_new
    key, _, measured = of_model
    column = _column(saved, key, batch_key)
    if column in file.obs:
        values = words(file.obs[column])
        named = values != None  # noqa: E711 - element by element
        is_new[named] = ~np.isin(values[named].astype(str), measured)
    return is_new


def _column(saved: SavedModel, key: str, batch_key: str | None) -> str:
    entries = {entry["key"]: entry["column"] for entry in saved.description.get("covariates", [])}
    return batch_key or entries.get(key) or str(saved.description.get("columns", {}).get(key, key))


def _warn_unseen(
    key: str, levels: Sequence[str], modality: str, measured: Sequence[str], warn: Callable[[str], None]
) -> None:
    warn(
        f"no cell of {key} = {', '.join(levels)} had {modality} measured in training, so the model never "
        f"saw {modality} there; measured in {', '.join(measured)}"
    )


def check_before_training(files: Sequence[ModalityFile], batch_key: str | None, level: str | None) -> None:
    """Raise `UsageError` for a batch that the cells to train on do not have."""
    if level is None:
        return
    if not batch_key:
        raise no_batches(level)
    columns = find_column(files, batch_key, option="--batch-key").values()
    check_level(level, sorted({v for c in columns if c is not None for v in words(c) if v is not None}))


def check_level(level: str, levels: Sequence[str]) -> None:
    """Raise `UsageError` unless it is a known level, or one of the words for levels."""
    if level not in (*levels, OWN, AVERAGE):
        raise UsageError(
            f"the model knows no batch '{level}'",
            field=OPTION,
            found=level,
            expected=", ".join([OWN, AVERAGE, *levels]),
            hint=did_you_mean(level, [OWN, AVERAGE, *levels], "batches"),
        )


def no_batches(level: str) -> UsageError:
    """Return the error for a batch asked of a model without any."""
    return UsageError(
        "the model has no batches to decode under",
        field=OPTION,
        found=level,
        hint="train it with --batch-key COLUMN, or leave --decode-batch out",
    )


def _known(saved: SavedModel, modality: str) -> tuple[str, list[str], list[str]] | None:
    """Return the key, all levels, and those with cells measured in a modality."""
    entry = saved.modalities[modality]
    if "batches" in entry:
        batches = entry["batches"]
        if batches is None:
            return None
        levels = list(saved.description["levels"][batches["key"]])
        return batches["key"], levels, list(batches["levels"]) or levels
    # saved before it was noted what each batch measured
    spec = saved.description["spec"]
    if not spec.get("has_batch"):
        return None
    key, levels = spec["levels"][0]
    return key, list(levels), list(levels)


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
