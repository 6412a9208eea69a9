"""As which batch values are decoded: the one asked for, or all that measured the modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mocli.data.obs import find_column
from mocli.errors import UsageError, did_you_mean
from mocli.tasks.covariate import words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mocli.data.modality import ModalityFile
    from mocli.tasks.saved import SavedModel

OPTION = "--decode-batch"


@dataclass(frozen=True)
class DecodeBatch:
    """Levels of the batch that values are decoded under, and averaged over.

    Attributes
    ----------
    codes
        Of the levels, in the model's order.
    asked
        The level that the user named, None for all that measured the modality.
    """

    key: str
    levels: tuple[str, ...]
    codes: tuple[int, ...]
    asked: str | None

    @property
    def suffix(self) -> str:
        """What tells values of one batch from the average."""
        return "" if self.asked is None else f"={self.asked}"

    @property
    def words(self) -> str:
        """Say it."""
        if self.asked is not None:
            return f"{self.key} = {self.asked}"
        return f"the mean over {self.key} = {', '.join(self.levels)}"


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
    if asked is None:
        return DecodeBatch(key, tuple(measured), tuple(map(levels.index, measured)), None)
    check_level(asked, levels)
    if asked not in measured:
        warn(
            f"no cell of {key} = {asked} had {modality} measured in training, so that the model never saw "
            f"what {modality} looks like there; measured in {', '.join(measured)}"
        )
    return DecodeBatch(key, (asked,), (levels.index(asked),), asked)


def check_before_training(files: Sequence[ModalityFile], batch_key: str | None, asked: str | None) -> None:
    """Raise `UsageError` for a batch that the cells to train on do not have."""
    if asked is None:
        return
    if batch_key is None:
        raise no_batches(asked)
    columns = find_column(files, batch_key, option="--batch-key").values()
    check_level(asked, sorted({v for c in columns if c is not None for v in words(c) if v is not None}))


def check_level(asked: str, levels: Sequence[str]) -> None:
    """Raise `UsageError` unless a level is known."""
    if asked not in levels:
        raise UsageError(
            f"the model knows no batch '{asked}'",
            field=OPTION,
            found=asked,
            expected=", ".join(levels),
            hint=did_you_mean(asked, levels, "batches"),
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
