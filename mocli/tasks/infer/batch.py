"""The batch that values are decoded under: one asked for, each cell's own, or the mean of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.errors import UsageError, did_you_mean
from mocli.tasks.prepare.obscolumns import words
from mocli.tasks.trained.saved import SavedModel
from mocli.types import BoolArray, IntArray

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
    found: BoolArray = ~np.asarray(file.obs.index.astype(str).isin(names))
    found &= not trained_now
    known = _known(saved, modality)
    if known is None:
        return found
    key, _, measured = known
    column = _column(saved, key, batch_key)
    if column in file.obs:
        values = words(file.obs[column])
        named = values != None  # noqa: E711 - element by element
        found[named] = ~np.isin(values[named].astype(str), measured)
    return found


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
