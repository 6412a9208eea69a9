"""Predicted changes against those of cells in which the feature was really perturbed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mocli.errors import InputError
from mocli.tasks.infer.align import align, find_modality
from mocli.tasks.perturb.effects import mean_changes
from mocli.tasks.perturb.shifts import stream

if TYPE_CHECKING:
    from mocli.tasks.perturb.effects import TargetReader
    from mocli.tasks.perturb.work import PerturbationRun
    from mocli.types import CSR, DoubleArray, IntArray

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


def true_features(work: PerturbationRun) -> list[int]:
    """Return the features that were really perturbed in enough cells and that the encoder takes.

    Raises
    ------
    InputError
        There is none.
    """
    assert work.chosen.truth is not None
    levels = _levels(work)
    place = work.cells.response.place
    where = {name: k for k, name in reversed(list(enumerate(work.names)))}
    found = [where[name] for name in levels if name in where and place[where[name]] >= 0]
    found = [k for k in found if k not in work.absent]
    if not found:
        raise InputError(
            f"no value of obs['{work.asked.truth}'] with {FEWEST_TRUE} cells is a feature of the model",
            file=work.file.where,
            field=f"obs['{work.asked.truth}']",
            found=", ".join(list(levels)[:8]) or "no values",
            expected="names of features of " + work.modality,
            hint="--truth names the column that says which feature was perturbed in a cell",
        )
    return sorted(found)


def compare_with_truth(work: PerturbationRun, reader: TargetReader) -> Truth:
    """Hold predicted changes against measured ones, and both against a baseline.

    The baseline is the mean change over all other perturbations of the column: what a perturbation
    does whatever it is. All are differences of mean normalised logs to the unperturbed cells; the
    perturbed feature itself is left out.
    """
    levels = _levels(work)
    measure = _Measured.of(work, reader)
    control = measure.mean(work.chosen.source)
    true = {name: measure.mean(rows) - control for name, rows in levels.items()}
    halves = {name: _halves(measure, rows, work.request.run.seed) for name, rows in levels.items()}
    asked = [p for p in work.perturbations if p.name in levels]
    tables, points = [], []
    for direction in work.asked.directions:
        moved = stream(work.cells, asked, work.asked.effect, direction, absent=work.absent)
        everyone = [np.arange(len(work.cells.z))]
        changes = mean_changes(reader, work.cells.z, everyone, moved, len(asked), logs=True)[1][0]
        for perturbation, change in zip(asked, changes, strict=True):
            name = perturbation.name
            others = np.array([n != name for n in reader.names])
            baseline = np.mean([v for n, v in true.items() if n != name], axis=0) if len(true) > 1 else None
            first, second = halves[name]
            tables.append(
                {
                    "feature": name,
                    "direction": direction,
                    "n_cells": len(levels[name]),
                    "pearson": _pearson(change[others], true[name][others]),
                    "spearman": _spearman(change[others], true[name][others]),
                    "baseline_pearson": np.nan
                    if baseline is None
                    else _pearson(baseline[others], true[name][others]),
                    "halves_pearson": _pearson((first - control)[others], (second - control)[others]),
                    "own_measured": float(true[name][~others].mean()) if (~others).any() else np.nan,
                }
            )
            points.append(
                pd.DataFrame(
                    {
                        "feature": np.full(len(change), name, dtype=object),
                        "direction": np.full(len(change), direction, dtype=object),
                        "target": np.array(reader.names, dtype=object),
                        "predicted": change,
                        "measured": true[name],
                    }
                )[others]
            )
    named = {p.name for p in asked}
    assert work.chosen.truth is not None
    given = {str(v) for v in work.chosen.truth if v is not None}
    own = {work.asked.source.value} if work.asked.source is not None else set()
    return Truth(
        pd.DataFrame(tables), pd.concat(points, ignore_index=True), tuple(sorted(given - named - own))
    )


def _levels(work: PerturbationRun) -> dict[str, IntArray]:
    """Rows of the really perturbed cells, level by level, those of too few cells left out."""
    column = work.chosen.truth
    assert column is not None
    found: dict[str, IntArray] = {}
    for name in sorted({str(v) for v in column if v is not None}):
        rows = np.setdiff1d(np.flatnonzero(column == name), work.chosen.source)
        if len(rows) >= FEWEST_TRUE:
            found[name] = rows
    return found


@dataclass(frozen=True, eq=False)
class _Measured:
    """Normalised logs of the target modality; `rows` says where a cell of the perturbed one is in it."""

    x: CSR
    rows: IntArray

    @classmethod
    def of(cls, work: PerturbationRun, reader: TargetReader) -> _Measured:
        file = work.file
        if reader.modality != work.modality:
            found = find_modality(work.files, reader.modality, work.saved)
            if found is None:
                raise InputError(
                    f"no input holds '{reader.modality}', with which predictions are to be compared",
                    field="--truth",
                    hint="give the file, or leave --truth out",
                )
            file = found
        aligned = align(
            work.saved, reader.modality, file, layers=work.request.data.layer, warn=lambda _: None
        )
        values = reader.readout.values(aligned.read(), "log")[:, reader.columns]
        return cls(values, file.obs.index.get_indexer(work.file.obs.index))

    def mean(self, cells: IntArray) -> DoubleArray:
        rows = self.rows[cells]
        found: DoubleArray = np.asarray(self.x[rows[rows >= 0]].mean(axis=0), np.float64).ravel()
        return found


def _halves(measure: _Measured, rows: IntArray, seed: int) -> tuple[DoubleArray, DoubleArray]:
    order = np.random.default_rng(seed).permutation(rows)
    half = len(order) // 2
    return measure.mean(np.sort(order[:half])), measure.mean(np.sort(order[half:]))


def _pearson(a: DoubleArray, b: DoubleArray) -> float:
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _spearman(a: DoubleArray, b: DoubleArray) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(a), rankdata(b))
