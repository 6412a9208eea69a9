"""What is perturbed: the cells of a file, their groups and targets, and how a feature changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.files.frames import words
from mocli.data.files.inspect import tells
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.nn.neighbors import unit_rows
from mocli.tasks.relate.scope import ALL
from mocli.types import DoubleArray, FloatArray, IntArray, ModalityKind, StrArray

KINDS = ("towards", "scale", "knockout", "log-shift", "count-shift")
UP, DOWN, TOWARDS = "up", "down", "towards"
DIRECTIONS = (UP, DOWN, "both")
_DEFAULT_SIZES = {"towards": 1.0, "scale": 0.5, "log-shift": 1.0, "count-shift": 1.0}


@dataclass(frozen=True)
class Effect:
    """What happens to the values of a feature.

    ============= ======================================== =============================
    kind          up                                       down
    ============= ======================================== =============================
    scale         `x (1 + size)`                           `x (1 - size)`
    knockout                                               `0`
    log-shift     `log1p(x f) + size`, turned back          `max(log1p(x f) - size, 0)`
    count-shift   `x + size`                               `max(x - size, 0)`
    ============= ======================================== =============================

    f is the cell's normalising factor. Values that are logs already are shifted directly.

    `towards` gives a feature what the target cells have: with d the difference of the mean normalised logs of
    target and perturbed cells, `log-shift=d` upwards where d is above 0; where it is below, logs are scaled
    down so that their mean falls by d (`log-scale`). Its size is the share of the way.
    """

    kind: str
    size: float

    @classmethod
    def parse(cls, text: str, option: str = "--effect") -> Effect:
        """Read `towards`, `scale=0.5`, `knockout`, `log-shift=1`, `count-shift=1`; sizes may be left out.

        Raises `UsageError`: the effect does not exist, or its size is invalid.
        """
        kind, equals, number = text.partition("=")
        kind = kind.strip()
        if kind not in KINDS or (kind == "knockout" and equals):
            raise UsageError(
                f"there is no effect '{text}'",
                field=option,
                expected="towards, scale=0.5, knockout, log-shift=1 or count-shift=1",
                hint=did_you_mean(kind, KINDS, "effects"),
            )
        try:
            size = float(number) if equals else _DEFAULT_SIZES.get(kind, 0.0)
        except ValueError:
            size = float("nan")
        if kind != "knockout" and not (np.isfinite(size) and size > 0):
            raise UsageError(
                f"the size of '{kind}' is a positive number", field=option, found=text, hint=f"{kind}=0.5"
            )
        return cls(kind, size)

    def directions(self, wanted: str | None) -> tuple[str, ...]:
        """Return the directions that are asked for, by default all that the effect has.

        Raises `UsageError`: the effect does not have this direction, or lowers by more than all of it.
        """
        if wanted is not None and wanted not in DIRECTIONS:
            raise UsageError(
                f"'{wanted}' is not a direction",
                field="--direction",
                expected=", ".join(DIRECTIONS),
                hint=did_you_mean(wanted, DIRECTIONS, "directions"),
            )
        if self.kind == TOWARDS:
            return (TOWARDS,)
        if self.kind == "knockout":
            if wanted == UP:
                raise UsageError(
                    "a knock-out only lowers",
                    field="--direction",
                    found=wanted,
                    hint="leave --direction out, or choose --effect scale=0.5",
                )
            return (DOWN,)
        directions = (UP, DOWN) if wanted in {None, "both"} else (str(wanted),)
        if self.kind == "scale" and self.size > 1 and DOWN in directions:
            raise UsageError(
                "nothing can be lowered by more than all of it",
                field="--effect",
                found=f"scale={self.size:g}",
                expected="a share of at most 1",
                hint="choose a smaller share, or --direction up",
            )
        return directions

    def of_feature(self, difference: float, level: float) -> tuple[Effect, str]:
        """Return the effect and direction with which `towards` changes a feature.

        Args:
            difference: Mean normalised log in the target cells less that in the perturbed ones.
            level: The latter.
        """
        size = self.size * abs(difference)
        if difference >= 0:
            return Effect("log-shift", size), UP
        # cells without the feature cannot have less of it: those that have it make up for them
        return (Effect("log-scale", min(size / level, 1.0)) if level > 0 else Effect("log-shift", size)), DOWN

    def reaches_zeros(self, direction: str) -> bool:
        """Say whether values of 0 change as well."""
        return direction == UP and self.kind in {"log-shift", "count-shift"}

    def apply(self, x: DoubleArray, factor: DoubleArray, direction: str, *, logged: bool) -> DoubleArray:
        """Return changed raw values, `(n,)`.

        Args:
            factor: Of each value's cell, `(n,)`; 0 for a cell without any signal, which stays as it is.
            logged: Whether raw values are logs already.
        """
        sign = 1.0 if direction == UP else -1.0
        if self.kind == "knockout":
            return np.zeros_like(x)
        if self.kind == "scale":
            return x * (1 + sign * self.size)
        if self.kind == "log-scale" and logged:
            return x * (1 + sign * self.size)
        if self.kind == "count-shift" or logged:
            moved = x + sign * self.size
            return np.where(x >= 0, np.maximum(moved, 0), moved)
        logs = np.log1p(np.maximum(x, 0) * factor)
        logs = logs * (1 + sign * self.size) if self.kind == "log-scale" else logs + sign * self.size
        shifted = np.expm1(np.maximum(logs, 0))
        return np.divide(shifted, factor, out=x.astype(np.float64, copy=True), where=factor > 0)

    def words(self, direction: str) -> str:
        """Describe the change, as the end of a sentence."""
        if direction == TOWARDS:
            share = "" if self.size == 1 else f" {self.size:.0%} of the way"
            return f"moved{share} to what the target cells have"
        verb = "raised" if direction == UP else "lowered"
        if self.kind == "knockout":
            return "set to 0"
        if self.kind == "scale":
            return f"{verb} by {self.size:.0%}"
        unit = "on the log scale" if self.kind == "log-shift" else "raw units"
        return f"{verb} by {self.size:g} {unit}"


FEWEST_TARGETS = 20
"""Fewest target cells within a group of cells; the mean of fewer says little."""


@dataclass(frozen=True)
class Selection:
    """Cells by a value of an obs column."""

    column: str
    value: str

    @classmethod
    def parse(cls, text: str, option: str) -> Selection:
        """Read `COLUMN=VALUE`.

        Raises `UsageError`: the text has another form.
        """
        column, equals, value = text.partition("=")
        if not (equals and column.strip() and value.strip()):
            raise UsageError(
                f"{option} selects cells by a column of obs and a value in it",
                field=option,
                found=text,
                expected="COLUMN=VALUE",
                hint=f"such as {option} condition=control",
            )
        return cls(column.strip(), value.strip())

    def rows(self, file: ModalityFile, option: str) -> IntArray:
        """Return the cells of a file that have the value, at least one.

        Raises `InputError`: there is no such column, or no cell has the value.
        """
        column = labels(file, self.column, option)
        rows = np.flatnonzero(column == self.value)
        if not len(rows):
            values = list(dict.fromkeys(v for v in column if v is not None))
            raise InputError(
                f"no cell of {file.name} has {self.column} = {self.value}",
                file=file.where,
                field=f"obs['{self.column}']",
                found=", ".join(values[:8]) + (", ..." if len(values) > 8 else "") or "no values",
                hint=did_you_mean(self.value, values, "groups"),
            )
        return rows

    def __str__(self) -> str:
        return f"{self.column}={self.value}"


def labels(file: ModalityFile, column: str, option: str) -> StrArray:
    """Return a column of obs as strings, None where missing, `(n_obs,)`."""
    values = find_column([file], column, option=option)[file.name]
    assert values is not None
    return words(values)


@dataclass(frozen=True, eq=False)
class ChosenCells:
    """Rows of a file that are perturbed, rows of the target cells, and labels of all its cells.

    `groups`, `truth`: columns of `--group-key` and `--truth`, `(n_obs,)`; None where not asked for.
    """

    source: IntArray
    target: IntArray
    groups: StrArray | None
    truth: StrArray | None


def doubt_of_batches(file: ModalityFile, batch_key: str | None, chosen: ChosenCells) -> str:
    """Warn if batches coincide with the compared groups, so that batch correction removes the change.

    Empty where cells to perturb and target cells share a batch, or one of them has none.
    """
    if not batch_key or batch_key not in file.obs:
        return ""
    rows = np.concatenate([chosen.source, chosen.target])
    side = pd.Series(np.repeat(["from", "to"], [len(chosen.source), len(chosen.target)]))
    if not tells(file.obs[batch_key].iloc[rows], side):
        return ""
    return (
        f"no level of obs['{batch_key}'] (--batch-key) holds cells of both --from and --to: the difference "
        "between batches is also that between these groups, and the model removes it; leave out the "
        "option, or give a column whose levels both groups share (donor)"
    )


def choose_cells(
    file: ModalityFile,
    source: Selection | None,
    target: Selection | None,
    *,
    group_key: str | None = None,
    truth: str | None = None,
) -> ChosenCells:
    """Find the cells to perturb, before anything is trained.

    Raises `InputError` or `UsageError`: a column or a value does not exist, or both selections hold the same
    cell.
    """
    target_rows = np.zeros(0, np.int64) if target is None else target.rows(file, "--to")
    if source is not None:
        rows = source.rows(file, "--from")
    else:
        # all that are not there yet
        rows = np.setdiff1d(np.arange(file.n_obs), target_rows)
    both = np.intersect1d(rows, target_rows)
    if len(both) or not len(rows):
        raise UsageError(
            "--from and --to select the same cells",
            field="--from, --to",
            found=f"{len(both) or len(target_rows):,} cells are in both groups",
            hint="name two groups that share no cell",
        )
    return ChosenCells(
        rows,
        target_rows,
        None if group_key is None else labels(file, group_key, "--group-key"),
        None if truth is None else labels(file, truth, "--truth"),
    )


def modality_to_perturb(kinds: Mapping[str, ModalityKind], name: str | None, where: str) -> str:
    """Return the modality to perturb: the named one, else expression, else the first.

    Raises `UsageError`: there is no such modality.
    """
    if name is not None:
        if name not in kinds:
            raise UsageError(
                f"'{name}' is not a modality of {where}",
                field="--source-modality",
                expected=", ".join(kinds),
                hint=did_you_mean(name, kinds, "modalities"),
            )
        return name
    return next((name for name, kind in kinds.items() if kind is ModalityKind.RNA), next(iter(kinds)))


@dataclass(frozen=True, eq=False)
class CellSet:
    """Some of the perturbed cells, and the target cells that they are compared with.

    Attributes:
        cells: Positions among the perturbed cells, increasing.
        targets: Positions among the target cells, increasing; none where there is no target.
        middle, heading: Mean of the targets' latent coordinates, and of these at length 1, `(n_latent,)`: the
            mean cosine distance to all targets is 1 minus the product with `heading`.
    """

    name: str
    cells: IntArray
    targets: IntArray
    middle: FloatArray
    heading: FloatArray


@dataclass(frozen=True, eq=False)
class CellSets:
    """All perturbed cells, and each group of theirs that is large enough.

    `left_out`: group, perturbed cells and target cells of groups that are too small.
    """

    sets: tuple[CellSet, ...]
    left_out: tuple[tuple[str, int, int], ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the sets, all cells first."""
        return [s.name for s in self.sets]


def split_cells(
    groups: StrArray | None, target_groups: StrArray | None, z_targets: FloatArray, *, n: int, min_cells: int
) -> CellSets:
    """Return all cells as one set, and every group of at least `min_cells`.

    Args:
        groups, target_groups: Labels of perturbed and of target cells; None without groups.
        z_targets: Latent coordinates of the target cells, without rows where there is no target.
    """
    zero = np.zeros(z_targets.shape[1], np.float32)

    def of(name: str, cells: IntArray, targets: IntArray) -> CellSet:
        z = z_targets[targets]
        return CellSet(
            name, cells, targets, z.mean(0) if len(z) else zero, unit_rows(z).mean(0) if len(z) else zero
        )

    every = np.arange(len(z_targets))
    sets, left_out = [of(ALL, np.arange(n), every)], []
    for name in [] if groups is None else sorted({str(g) for g in groups if g is not None}):
        cells = np.flatnonzero(groups == name)
        targets = every if target_groups is None else np.flatnonzero(target_groups == name)
        if len(cells) < min_cells or (len(z_targets) and len(targets) < FEWEST_TARGETS):
            left_out.append((name, len(cells), len(targets)))
        else:
            sets.append(of(name, cells, targets))
    return CellSets(tuple(sets), tuple(left_out))
