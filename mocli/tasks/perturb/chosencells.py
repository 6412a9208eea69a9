"""Which cells of which modality are perturbed, found before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.errors import UsageError, did_you_mean
from mocli.tasks.perturb.cells import labels
from mocli.types import ModalityKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.perturb.options import PerturbOptions
    from mocli.types import IntArray, StrArray


@dataclass(frozen=True, eq=False)
class ChosenCells:
    """Rows of a file: the cells that are perturbed, those they should come nearer to, labels of all."""

    source: IntArray
    target: IntArray
    groups: StrArray | None
    truth: StrArray | None


def check_cells(file: ModalityFile, asked: PerturbOptions) -> ChosenCells:
    """Find the cells that are asked for, before anything is trained.

    Raises
    ------
    InputError, UsageError
        A column or group that is not there, cells that are to become what they are.
    """
    target = np.zeros(0, np.int64) if asked.target is None else asked.target.rows(file, "--to")
    if asked.source is not None:
        source = asked.source.rows(file, "--from")
    else:
        # all that are not there yet
        source = np.setdiff1d(np.arange(file.n_obs), target)
    both = np.intersect1d(source, target)
    if len(both) or not len(source):
        raise UsageError(
            "cells cannot go where they are",
            field="--from, --to",
            found=f"{len(both) or len(target):,} cells are in both groups",
            hint="name two groups that share no cell",
        )
    groups = None if asked.group_key is None else labels(file, asked.group_key, "--group-key")
    truth = None if asked.truth is None else labels(file, asked.truth, "--truth")
    return ChosenCells(source, target, groups, truth)


def modality_among(kinds: Mapping[str, ModalityKind], asked: str | None, where: str) -> str:
    """Return the modality to perturb: the one asked for, else expression, else the first.

    Raises
    ------
    UsageError
        There is no such modality.
    """
    if asked is not None:
        if asked not in kinds:
            raise UsageError(
                f"'{asked}' is not a modality of {where}",
                field="--source-modality",
                expected=", ".join(kinds),
                hint=did_you_mean(asked, kinds, "modalities"),
            )
        return asked
    return next((name for name, kind in kinds.items() if kind is ModalityKind.RNA), next(iter(kinds)))
