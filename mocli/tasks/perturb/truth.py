"""Predicted changes against those of cells in which the feature was really perturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError
from mocli.tasks.infer.align import Aligned
from mocli.tasks.perturb.effect import Effect
from mocli.tasks.perturb.effects import TargetReader, mean_changes
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.perturb.shifts import Perturbation, stream
from mocli.types import CSR, DoubleArray, IntArray, StrArray

FEWEST_TRUE = 20
"""Really perturbed cells below which their mean is mostly noise."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Predictions beside what was measured.

    Attributes
    ----------
    table
        One row a perturbed feature and direction: cells, correlations over all other features of
        predicted and measured changes, of the baseline's, and of two halves of the cells.
    points
        Every target feature of every perturbation: predicted and measured change.
    left_out
        Levels of the column that name no feature the model takes, or too few cells.
    """

    table: pd.DataFrame
    points: pd.DataFrame
    left_out: tuple[str, ...]


def perturbed_cells(column: StrArray, control: IntArray) -> dict[str, IntArray]:
    """Return rows of really perturbed cells by the column's level, levels of too few cells left out.

    Parameters
    ----------
    column
        `(n_obs,)`, None where missing.
    control
        Rows of the cells that were not perturbed.
    """
    levels = sorted({str(v) for v in column if v is not None})
    rows = {name: np.setdiff1d(np.flatnonzero(column == name), control) for name in levels}
    return {name: cells for name, cells in rows.items() if len(cells) >= FEWEST_TRUE}


def true_features(
    levels: Mapping[str, IntArray],
    names: Sequence[str],
    cells: Replacement,
    *,
    column: str,
    file: ModalityFile,
) -> list[int]:
    """Return the features that were really perturbed in enough cells and that the encoder takes.

    Parameters
    ----------
    levels
        Of `perturbed_cells`.
    names
        All features of the model.

    Raises
    ------
    InputError
        There is none.
    """
    place = cells.response.place
    where = {name: k for k, name in reversed(list(enumerate(names)))}
    columns = [where[name] for name in levels if name in where and place[where[name]] >= 0]
    columns = [k for k in columns if k not in cells.absent]
    if not columns:
        raise InputError(
            f"no value of obs['{column}'] with {FEWEST_TRUE} cells is a feature of the model",
            file=file.where,
            field=f"obs['{column}']",
            found=", ".join(list(levels)[:8]) or "no values",
            expected="names of features of " + cells.modality,
            hint="--truth names the column that says which feature was perturbed in a cell",
        )
    return sorted(columns)


@dataclass(frozen=True, eq=False)
class MeasuredChanges:
    """What was measured of really perturbed cells in the target modality.

    Attributes
    ----------
    x
        Normalised logs of the target modality, `(n_cells, n_features)`.
    rows
        Where each cell of the perturbed modality is in it, -1 where it is not, `(n_obs,)`.
    control, levels
        Unperturbed cells, and perturbed ones by the level of the column: rows of the perturbed modality.
    named
        All levels of the column, those of too few cells too.
    """

    x: CSR
    rows: IntArray
    control: IntArray
    levels: Mapping[str, IntArray]
    named: frozenset[str]

    @classmethod
    def of(
        cls, aligned: Aligned, reader: TargetReader, file: ModalityFile, control: IntArray, column: StrArray
    ) -> MeasuredChanges:
        """Read the target modality, aligned with the model.

        Parameters
        ----------
        file, control, column
            Of the perturbed modality: its cells, rows of those unperturbed, and which feature was
            perturbed in a cell, `(n_obs,)`.
        """
        values = reader.readout.values(aligned.read(), "log")[:, reader.columns]
        rows = aligned.file.obs.index.get_indexer(file.obs.index)
        unperturbed = {str(v) for v in column[control]}
        named = frozenset(str(v) for v in column if v is not None) - unperturbed
        return cls(values, rows, control, perturbed_cells(column, control), named)

    def mean(self, cells: IntArray) -> DoubleArray:
        """Return the mean of some cells, `(n_features,)`."""
        rows = self.rows[cells]
        return np.asarray(self.x[rows[rows >= 0]].mean(axis=0), np.float64).ravel()

    def halves(self, cells: IntArray, seed: int) -> tuple[DoubleArray, DoubleArray]:
        """Return the means of two halves of some cells, drawn at random."""
        order = np.random.default_rng(seed).permutation(cells)
        half = len(order) // 2
        return self.mean(np.sort(order[:half])), self.mean(np.sort(order[half:]))


def compare_with_truth(
    cells: Replacement,
    measured: MeasuredChanges,
    reader: TargetReader,
    perturbations: Sequence[Perturbation],
    effect: Effect,
    directions: Sequence[str],
    *,
    seed: int,
) -> Truth:
    """Hold predicted changes against measured ones, and both against a baseline.

    The baseline is the mean change over all other perturbations of the column: what a perturbation
    does whatever it is. All are differences of mean normalised logs to the unperturbed cells; the
    perturbed feature itself is left out.
    """
    control = measured.mean(measured.control)
    true = {name: measured.mean(rows) - control for name, rows in measured.levels.items()}
    halves = {name: measured.halves(rows, seed) for name, rows in measured.levels.items()}
    compared = [p for p in perturbations if p.name in true]
    tables, points = [], []
    for direction in directions:
        moved = stream(cells, compared, effect, direction)
        every = [np.arange(len(cells.z))]
        changes = mean_changes(reader, cells.z, every, moved, len(compared), logs=True)[1][0]
        for name, change in zip((p.name for p in compared), changes, strict=True):
            others = np.array([n != name for n in reader.names])
            baseline = np.mean([v for n, v in true.items() if n != name], axis=0) if len(true) > 1 else None
            first, second = halves[name]
            tables.append(
                {
                    "feature": name,
                    "direction": direction,
                    "n_cells": len(measured.levels[name]),
                    "pearson": _pearson(change[others], true[name][others]),
                    "spearman": _spearman(change[others], true[name][others]),
                    "baseline_pearson": np.nan
                    if baseline is None
                    else _pearson(baseline[others], true[name][others]),
                    "halves_pearson": _pearson((first - control)[others], (second - control)[others]),
                    "own_measured": float(true[name][~others].mean()) if (~others).any() else np.nan,
                }
            )
            part = pd.DataFrame({"feature": np.full(len(change), name, dtype=object), "direction": direction})
            part["target"], part["predicted"] = np.array(reader.names, dtype=object), change
            part["measured"] = true[name]
            points.append(part[others])
    left_out = tuple(sorted(measured.named - {p.name for p in compared}))
    return Truth(pd.DataFrame(tables), pd.concat(points, ignore_index=True), left_out)


def _pearson(a: DoubleArray, b: DoubleArray) -> float:
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _spearman(a: DoubleArray, b: DoubleArray) -> float:
    return _pearson(rankdata(a), rankdata(b))
