"""As which batch values are decoded: one asked for, each cell's own, or all that measured the modality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.errors import UsageError, did_you_mean
from mocli.tasks.prepare.obscolumns import words
from mocli.tasks.trained.saved import SavedModel
from mocli.types import IntArray

OPTION = "--decode-batch"

OWN, AVERAGE = "own", "average"
"""Words for the batch of each cell, and for the mean over batches, unless a level has that name."""


@dataclass(frozen=True)
class DecodeBatch:
    """Levels of the batch that values are decoded under, and averaged over.

    Attributes
    ----------
    codes
        Of the levels, in the model's order.
    asked
        The level that the user named, `own`, or None for all that measured the modality.
    own
        Whether every cell is decoded under its own batch; the levels are for cells whose batch is unknown.
    """

    key: str
    levels: tuple[str, ...]
    codes: tuple[int, ...]
    asked: str | None
    own: bool = False

    @property
    def suffix(self) -> str:
        """What tells values of one batch from the average."""
        return "" if self.asked is None else f"={self.asked}"

    @property
    def words(self) -> str:
        """Say it."""
        mean = f"the mean over {self.key} = {', '.join(self.levels)}"
        if self.own:
            return f"the own {self.key} of each cell; where it is unknown, {mean}"
        return mean if self.asked is None else f"{self.key} = {self.asked}"


def decode_batch(
    saved: SavedModel, modality: str, asked: str | None, warn: Callable[[str], None]
) -> DecodeBatch | None:
    """Return the batches to decode under; None for a model without batches.

    Raises
    ------
    UsageError
        A batch is asked for that the model does not know, or it knows none.
    """
    known = _known(saved, modality)
    if known is None:
        if asked is not None:
            raise no_batches(asked)
        return None
    key, levels, measured = known
    word = None if asked in levels else asked
    if asked is None or word in (OWN, AVERAGE):
        codes = tuple(map(levels.index, measured))
        own = word == OWN
        return DecodeBatch(key, tuple(measured), codes, OWN if own else None, own)
    check_level(asked, levels)
    if asked not in measured:
        _warn_unseen(key, [asked], modality, measured, warn)
    return DecodeBatch(key, (asked,), (levels.index(asked),), asked)


def own_batches(
    saved: SavedModel,
    modality: str,
    file: ModalityFile,
    batch_key: str | None,
    warn: Callable[[str], None],
) -> IntArray:
    """Return the model's code of the batch of every cell of a file, -1 where it knows none, `(n_obs,)`.

    Parameters
    ----------
    modality
        What is decoded.
    batch_key
        The column, where it is not the one that the model was trained with.

    Raises
    ------
    InputError
        The file has no such column.
    UsageError
        The model knows no batches.
    """
    known = _known(saved, modality)
    if known is None:
        raise no_batches(OWN)
    key, levels, measured = known
    entries = {entry["key"]: entry["column"] for entry in saved.description.get("covariates", [])}
    column = batch_key or entries.get(key) or saved.description.get("columns", {}).get(key, key)
    found = find_column([file], column, option="--batch-key")[file.name]
    assert found is not None
    where = {level: code for code, level in enumerate(levels)}
    codes = np.array([where.get(value, -1) for value in words(found)], dtype=np.int64)
    n = int((codes < 0).sum())
    if n:
        warn(
            f"{n:,} of {len(codes):,} cells are of no batch that the model knows (obs['{column}']; it knows "
            f"{', '.join(levels)}): they are decoded as the mean over {', '.join(measured)}"
        )
    unseen = [levels[k] for k in np.unique(codes[codes >= 0]) if levels[k] not in measured]
    if unseen:
        _warn_unseen(key, unseen, modality, measured, warn)
    return codes


def _warn_unseen(
    key: str, levels: Sequence[str], modality: str, measured: Sequence[str], warn: Callable[[str], None]
) -> None:
    warn(
        f"no cell of {key} = {', '.join(levels)} had {modality} measured in training, so that the model "
        f"never saw what {modality} looks like there; measured in {', '.join(measured)}"
    )


def check_before_training(files: Sequence[ModalityFile], batch_key: str | None, asked: str | None) -> None:
    """Raise `UsageError` for a batch that the cells to train on do not have."""
    if asked is None:
        return
    if not batch_key:
        raise no_batches(asked)
    columns = find_column(files, batch_key, option="--batch-key").values()
    check_level(asked, sorted({v for c in columns if c is not None for v in words(c) if v is not None}))


def check_level(asked: str, levels: Sequence[str]) -> None:
    """Raise `UsageError` unless a level is known, or a word stands for some."""
    if asked not in (*levels, OWN, AVERAGE):
        raise UsageError(
            f"the model knows no batch '{asked}'",
            field=OPTION,
            found=asked,
            expected=", ".join([OWN, AVERAGE, *levels]),
            hint=did_you_mean(asked, [OWN, AVERAGE, *levels], "batches"),
        )


def no_batches(asked: str) -> UsageError:
    """Return the error for a batch asked of a model without any."""
    return UsageError(
        "the model knows no batches to decode as",
        field=OPTION,
        found=asked,
        hint="train it with --batch-key COLUMN, or leave --decode-batch out",
    )


def _known(saved: SavedModel, modality: str) -> tuple[str, list[str], list[str]] | None:
    """Key, all levels, and those with cells measured in a modality."""
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
