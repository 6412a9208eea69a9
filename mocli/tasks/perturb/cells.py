"""Which cells are perturbed, towards which others, and in which groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.data.files.obs import find_column
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.tasks.prepare.columns import words
from mocli.tasks.relate.scope import ALL

if TYPE_CHECKING:
    from mocli.data.files.modality import ModalityFile
    from mocli.types import FloatArray, IntArray, StrArray

FEWEST_TARGETS = 20
"""Cells of the target group within a group of cells, below which their middle means little."""


@dataclass(frozen=True)
class Selection:
    """Cells by a value of an obs column."""

    column: str
    value: str

    @classmethod
    def parse(cls, text: str, option: str) -> Selection:
        """Read `COLUMN=VALUE`.

        Raises
        ------
        UsageError
            It has no such form.
        """
        column, equals, value = text.partition("=")
        if not (equals and column.strip() and value.strip()):
            raise UsageError(
                f"{option} names cells by a column of obs and a value in it",
                field=option,
                found=text,
                expected="COLUMN=VALUE",
                hint=f"such as {option} condition=control",
            )
        return cls(column.strip(), value.strip())

    def rows(self, file: ModalityFile, option: str) -> IntArray:
        """Return the cells of a file that it names, at least one.

        Raises
        ------
        InputError
            No such column, or no cell has the value.
        """
        column = labels(file, self.column, option)
        found = np.flatnonzero(column == self.value)
        if not len(found):
            known = list(dict.fromkeys(v for v in column if v is not None))
            raise InputError(
                f"no cell of {file.name} has {self.column} = {self.value}",
                file=file.where,
                field=f"obs['{self.column}']",
                found=", ".join(known[:8]) + (", ..." if len(known) > 8 else "") or "no values",
                hint=did_you_mean(self.value, known, "groups"),
            )
        return found

    def __str__(self) -> str:
        return f"{self.column}={self.value}"


def labels(file: ModalityFile, column: str, option: str) -> StrArray:
    """Return a column of obs as strings, None where missing, `(n_obs,)`."""
    found = find_column([file], column, option=option)[file.name]
    assert found is not None
    named: StrArray = words(found)
    return named


@dataclass(frozen=True, eq=False)
class CellSet:
    """Some of the perturbed cells, and where they should go.

    Attributes
    ----------
    cells
        Positions among the perturbed cells, increasing.
    targets
        Positions among the target cells, increasing; none where there is no target.
    middle, heading
        Mean of the targets' latents, and of these at length 1, `(n_latent,)`: the mean cosine
        distance to all targets is 1 minus the product with `heading`.
    """

    name: str
    cells: IntArray
    targets: IntArray
    middle: FloatArray
    heading: FloatArray

    @property
    def n_targets(self) -> int:
        """Cells of the target group."""
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class CellSets:
    """All perturbed cells, and each group of theirs that is large enough.

    Attributes
    ----------
    left_out
        Group, perturbed cells and target cells of groups that are too small.
    """

    sets: tuple[CellSet, ...]
    left_out: tuple[tuple[str, int, int], ...]

    @property
    def names(self) -> list[str]:
        """Names of the sets, all cells first."""
        return [s.name for s in self.sets]


def unit(z: FloatArray) -> FloatArray:
    """Return rows at length 1, rows of 0 as they are."""
    length = np.linalg.norm(z, axis=-1, keepdims=True)
    found: FloatArray = np.divide(z, length, out=np.zeros_like(z), where=length > 0)
    return found


def split_cells(
    groups: StrArray | None,
    target_groups: StrArray | None,
    z_targets: FloatArray,
    *,
    n: int,
    min_cells: int,
) -> CellSets:
    """Return all cells as one set, and every group of at least `min_cells`.

    Parameters
    ----------
    groups, target_groups
        Labels of perturbed and of target cells; None without groups.
    z_targets
        Latents of the target cells, without rows where there is no target.
    """
    width = z_targets.shape[1]

    def made(name: str, cells: IntArray, targets: IntArray) -> CellSet:
        zero, mine = np.zeros(width, np.float32), z_targets[targets]
        middle = mine.mean(0) if len(mine) else zero
        return CellSet(name, cells, targets, middle, unit(mine).mean(0) if len(mine) else zero)

    every = np.arange(len(z_targets))
    sets, left = [made(ALL, np.arange(n), every)], []
    known = [] if groups is None else sorted({str(g) for g in groups if g is not None})
    for name in known:
        assert groups is not None
        cells = np.flatnonzero(groups == name)
        mine = every if target_groups is None else np.flatnonzero(target_groups == name)
        if len(cells) < min_cells or (len(z_targets) and len(mine) < FEWEST_TARGETS):
            left.append((name, len(cells), len(mine)))
        else:
            sets.append(made(name, cells, mine))
    return CellSets(tuple(sets), tuple(left))
