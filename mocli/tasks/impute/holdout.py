"""Cells held out of training, and predicted afterwards as new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.types import BoolArray, IntArray

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
