"""Cells set apart by the user: held out of training, or in groups to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.files.frames import words
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.types import BoolArray, IntArray, StrArray

FEWEST = 20
"""Fewest cells to hold out, or to train on."""

MOST = 0.99
"""Share of the cells that may be kept out."""


@dataclass(frozen=True)
class HoldOut:
    """A share of the cells at random, or all cells with one value in a column of obs."""

    share: float = 0.0
    column: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return f"{self.share:.6g}" if self.column is None else f"{self.column}={self.value}"

    @classmethod
    def parse(cls, text: str | float, option: str = "--hold-out") -> HoldOut:
        """Read `0.2` or `batch=donor3`.

        Raises `UsageError`: it is neither.
        """
        column, equals, value = str(text).partition("=")
        if equals and column and value:
            return cls(column=column, value=value)
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not 0 <= share <= MOST:
            raise UsageError(
                f"{option} takes a share of the cells or a value of an obs column",
                field=option,
                found=str(text),
                expected=f"a number from 0 to {MOST:g}, or COLUMN=VALUE",
            )
        return cls(share=share)

    def choose(
        self, files: Sequence[ModalityFile], pairs: IntArray | None, source: str, target: str, *, seed: int
    ) -> dict[str, BoolArray]:
        """Return which cells of each modality are held out, `(n_obs,)` by name.

        `pairs`: rows of the cells measured in source and target, `(n, 2)`; a share is drawn among them.
        """
        if self.column is not None:
            out = self._by_column(files)
            if pairs is not None:
                # a cell leaves both, also where only one of them has the column
                cells = pairs[out[source][pairs[:, 0]] | out[target][pairs[:, 1]]]
                out[source][cells[:, 0]] = True
                out[target][cells[:, 1]] = True
            return out
        out = {f.name: np.zeros(f.n_obs, dtype=bool) for f in files}
        if not self.share or pairs is None:
            return out
        n = round(self.share * len(pairs))
        if n < FEWEST:
            return out
        drawn = np.random.default_rng(seed).choice(len(pairs), n, replace=False)
        names = next(f for f in files if f.name == source).obs.index[pairs[drawn, 0]]
        for f in files:
            # a cell leaves every modality, also those that are neither source nor target
            out[f.name] = np.asarray(f.obs.index.isin(names))
        for side, name in enumerate((source, target)):
            out[name][:] = False
            out[name][pairs[drawn, side]] = True
        return out

    def _by_column(self, files: Sequence[ModalityFile]) -> dict[str, BoolArray]:
        columns = find_column(files, self.column or "", option="--hold-out")
        out = {}
        for f in files:
            column = columns[f.name]
            out[f.name] = (
                np.zeros(f.n_obs, bool) if column is None else np.array(column.astype(str) == self.value)
            )
        if not any(o.any() for o in out.values()):
            levels = {str(v) for c in columns.values() if c is not None for v in c.unique()}
            raise InputError(
                f"no cell has {self.column} = {self.value}",
                field="--hold-out",
                found=", ".join(sorted(levels)[:8]),
                hint=did_you_mean(self.value or "", sorted(levels), "values"),
            )
        return out


def without(files: Sequence[ModalityFile], out: Mapping[str, BoolArray]) -> list[ModalityFile]:
    """Return the modalities without the held-out cells.

    Raises `InputError`: too few are left to train on.
    """
    remaining = []
    for f in files:
        rows = np.flatnonzero(~out[f.name])
        if len(rows) < FEWEST and out[f.name].any():
            raise InputError(
                f"--hold-out leaves {len(rows):,} cells of {f.name} to train on",
                file=f.where,
                field="--hold-out",
                expected=f"at least {FEWEST}",
                hint="hold fewer cells out",
            )
        remaining.append(f.take(rows) if out[f.name].any() else f)
    return remaining


OPTION = "--compare-groups"
"""Fewest compared cells of a group."""


@dataclass(frozen=True)
class Groups:
    """A column of obs, and the two of its values that are compared; None for all of them."""

    column: str
    two: tuple[str, str] | None = None

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return self.column if self.two is None else f"{self.column}={','.join(self.two)}"

    @classmethod
    def parse(cls, text: str, option: str = OPTION) -> Groups:
        """Read `cell_type` or `cell_type=B,NK`.

        Raises `UsageError`: it is neither.
        """
        column, equals, values = str(text).partition("=")
        first, comma, second = (part.strip() for part in values.partition(","))
        if not equals and column:
            return cls(column)
        if not (column and first and comma and second) or first == second:
            raise UsageError(
                f"{option} takes a column of obs, or a column and two of its values",
                field=option,
                found=str(text),
                expected="COLUMN or COLUMN=A,B",
            )
        return cls(column, (first, second))

    def of_file(self, file: ModalityFile) -> StrArray:
        """Return the value of every cell of a file, `(n_obs,)`; None where it has none."""
        return values_of(file, find_column([file], self.column, option=OPTION)[file.name])

    def has(self, group: StrArray) -> BoolArray:
        """Say of each value, `(n,)`, whether there is one, and it may be compared."""
        return np.array([g is not None and (self.two is None or g in self.two) for g in group], dtype=bool)

    def chosen(self, group: StrArray, every: StrArray | None = None) -> tuple[list[str], str]:
        """Return the groups that are compared, and what each is compared with.

        Of two values the first is compared with the second.

        `group`: of each cell that can be compared, `(n,)`, None where it has none; `every`: of all cells.

        Raises `InputError`: a group that was asked for has fewer than 20 cells, or no two groups have as
        many.
        """
        n_cells = _counts(group)
        spelled = n_cells if every is None else _counts(every)
        enough = [level for level, n in n_cells.items() if n >= FEWEST]
        wanted = enough if self.two is None else self.two
        short = [level for level in wanted if level not in enough]
        if short or len(wanted) < 2:
            named = short or list(n_cells)
            unknown = [level for level in short if level not in spelled]
            raise InputError(
                "there are no two groups of cells that can be compared",
                field=OPTION,
                found=", ".join(f"{g}: {n_cells.get(g, 0):,}" for g in named[:8])
                or f"no value of {self.column} among the cells",
                expected=f"two values of {self.column} with {FEWEST} cells that are compared",
                hint=did_you_mean(unknown[0], spelled, f"values of {self.column}")
                if unknown
                else "compare other groups or another column; with --evaluate, hide more cells (--hold-out)",
            )
        if len(n_cells) == 2 or self.two is not None:
            return [wanted[0]], wanted[1]
        return enough, "all others"


def _counts(group: StrArray) -> dict[str, int]:
    labels = group[np.array([g is not None for g in group], dtype=bool)].astype(str)
    levels, sizes = np.unique(labels, return_counts=True)
    return {str(level): int(n) for level, n in zip(levels, sizes, strict=True)}


def values_of(file: ModalityFile, column: pd.Series | None) -> StrArray:
    """Return a column of a file as text, `(n_obs,)`; None where it has no value, or there is no column."""
    return np.full(file.n_obs, None, dtype=object) if column is None else words(column)


def labels_of_sides(
    files: tuple[ModalityFile, ModalityFile], pairs: IntArray, columns: Mapping[str, pd.Series | None]
) -> tuple[StrArray, StrArray]:
    """Return labels of all cells of source and target, None where unknown; partners know each other's.

    Args:
        files: Source and target.
        pairs: Rows of the same cell in both, `(n, 2)`.
        columns: Labels of the cells of each file, by its name.
    """
    source, target = (values_of(f, columns[f.name]) for f in files)
    for first, labels, other in ((0, source, target), (1, target, source)):
        lacking = np.array([v is None for v in labels[pairs[:, first]]], dtype=bool)
        labels[pairs[lacking, first]] = other[pairs[lacking, 1 - first]]
    return source, target
