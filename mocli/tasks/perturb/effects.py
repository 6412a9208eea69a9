"""What perturbations do: to the values of a modality, and, feature by feature, towards a target.

Values are those of a cell of fixed library size and with covariates at their mean: only the cell's latent
coordinates change. Where the model decodes features they are its own decoder's; else a readout's, the
regression on the latent that is fitted after every training.

Besides the features asked for, others that are expressed as much are perturbed in the same way: their
shifts are the null distribution. `z` says by how many of their standard deviations a feature's shift
differs from their mean, itself left out; `p` is Student's for one value more of the same law, two-sided.

A screen may look into another modality too. scCross (Yang et al. 2024, Discussion) proposes to generate
the other modality from perturbed cells, and to score a gene by how far that shifts. Here: the mean
expected profile of a set of cells, on the log scale where the modality has one, and its Euclidean
distance to that of the target cells. Both come from the model, so its errors are in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from mocli.data.transforms.recipe import Recipe
from mocli.errors import InputError
from mocli.metrics.correlation import false_discovery_rate
from mocli.models.base import Decodes
from mocli.nn.neighbors import chunks
from mocli.tasks.infer.decoder import mean_log1p
from mocli.tasks.perturb.cells import DOWN, TOWARDS, UP, CellSets, Effect
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.perturb.shifts import (
    Moved,
    Perturbation,
    Shifts,
    WithNull,
    expression,
    hold_against,
    hold_perturbations,
    measure_shifts,
    stream,
)
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.saved import SavedModel
from mocli.types import DoubleArray, FloatArray, IntArray, StrArray, takes_counts

BLOCK = 4_000_000
"""Values decoded at a time."""

MOST_NULL = 100
"""Perturbations in the null distribution of an effect: those nearest in expression."""

_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class TargetReader:
    """Expected values of the features of one modality from latent coordinates.

    Attributes:
        route: `decoder` or `readout`.
        names: Features read, `(n_features,)`.
        columns: Their positions among all features of the modality.
        counted: Whether values are expected counts; else they are on the scale of the transform.
        logged: Whether that scale is a logarithm, so that differences are log fold changes.
    """

    saved: SavedModel
    modality: str
    route: str
    names: tuple[str, ...]
    columns: IntArray
    counted: bool
    logged: bool
    device: torch.device

    @classmethod
    def of(cls, saved: SavedModel, modality: str, device: torch.device) -> TargetReader:
        """Choose the route.

        Raises `InputError`: the model cannot predict values of the modality.
        """
        recipe, names = saved.recipes[modality], saved.modalities[modality]["var_names"]
        likelihood = saved.modalities[modality].get("likelihood")
        counted = takes_counts(likelihood)
        logged = recipe.transform.readable.is_logged or saved.modalities[modality]["values"] == "lognorm"
        if isinstance(saved.model, Decodes) and recipe.lsi is None and recipe.components is None:
            columns = recipe.selected
            saved.model.module.to(device).eval()
            return cls(
                saved, modality, "decoder", tuple(map(str, recipe.feature_names)), columns, counted, logged,
                device,
            )  # fmt: skip
        if modality not in saved.readouts:
            raise InputError(
                f"the model cannot predict values of '{modality}'",
                hint="train it again with this version of mocli",
            )
        columns = np.arange(len(names))
        every = tuple(map(str, names))
        return cls(saved, modality, "readout", every, columns, counted=False, logged=logged, device=device)

    @property
    def recipe(self) -> Recipe:
        """The transform of the modality."""
        return self.saved.recipes[self.modality]

    @property
    def readout(self) -> FeatureReadout:
        """The regression of the modality on the latent coordinates."""
        return self.saved.readouts[self.modality]

    def read(self, z: FloatArray, *, logs: bool = False) -> DoubleArray:
        """Return expected values `(n, n_features)` at coordinates `(n, n_latent)`.

        `logs`: expected logarithms instead of expected counts.
        """
        if self.route == "readout":
            return self.readout.predict(z, "log", self.columns).astype(np.float64)
        assert isinstance(self.saved.model, Decodes)
        with torch.inference_mode():
            decoded = self.saved.model.decode(self.modality, torch.from_numpy(z).to(self.device))
        values: FloatArray = decoded.float().cpu().numpy()
        if self.counted:
            return mean_log1p(values).astype(np.float64) if logs else values.astype(np.float64)
        return self.recipe.unscale(values).astype(np.float64)

    def blocks(self, n: int) -> Iterator[slice]:
        """Rows to read at a time."""
        return chunks(n, max(16, BLOCK // max(len(self.names), 1)))

    def fold(self, before: DoubleArray, after: DoubleArray) -> DoubleArray:
        """Log2 fold change of mean expected values; NaN where the scale has none."""
        if self.counted:
            return np.log2(np.maximum(after, _TINY) / np.maximum(before, _TINY))
        return (after - before) / np.log(2) if self.logged else np.full(np.shape(after), np.nan)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predicted changes.

    `table`: one row for each perturbation, direction, set of cells and target feature, the largest change of
    each perturbation first.
    """

    reader: TargetReader
    table: pd.DataFrame


def mean_changes(
    reader: TargetReader,
    z: FloatArray,
    sets: Sequence[IntArray],
    moved: Iterator[Moved],
    n: int,
    *,
    logs: bool,
) -> tuple[DoubleArray, DoubleArray]:
    """Mean expected values of sets of cells before, and how they change.

    Returns:
        `(n_sets, n_features)`, `(n_sets, n, n_features)`; a change of exactly 0 where no cell moves.
    """
    width = len(reader.names)
    before, changes = np.zeros((len(sets), width)), np.zeros((len(sets), n, width))
    member = np.zeros((len(sets), len(z)), bool)
    for k, cells in enumerate(sets):
        member[k, cells] = True
    for rows in reader.blocks(len(z)):
        values = reader.read(z[rows], logs=logs)
        before += member[:, rows].astype(np.float64) @ values
    for number, cell, after in moved:
        for rows in reader.blocks(len(cell)):
            gained = reader.read(after[rows], logs=logs) - reader.read(z[cell[rows]], logs=logs)
            for k in range(len(sets)):
                in_set = np.flatnonzero(member[k, cell[rows]])
                if not len(in_set):
                    continue
                perturbation = number[rows][in_set]
                # perturbations come in order: sums of runs
                starts = np.flatnonzero(np.r_[True, perturbation[1:] != perturbation[:-1]])
                changes[k, perturbation[starts]] += np.add.reduceat(gained[in_set], starts, axis=0)
    size = np.array([max(len(cells), 1) for cells in sets])
    return before / size[:, None], changes / size[:, None, None]


def predict_changes(
    cells: Replacement,
    perturbations: WithNull,
    sets: CellSets,
    effect: Effect,
    directions: Sequence[str],
    reader: TargetReader,
) -> Predicted:
    """Perturb, read the target modality, and compare each change with those by other features."""
    null = _nearest(perturbations, expression(cells, np.arange(len(cells.z))))
    every = [*perturbations.every[: perturbations.n], *(perturbations.every[k] for k in null)]
    null_at = np.arange(perturbations.n, len(every))
    members = [one.cells for one in sets.sets]
    parts = []
    for direction in directions:
        moved = stream(cells, every, effect, direction)
        before, changes = mean_changes(reader, cells.z, members, moved, len(every), logs=False)
        for k, one in enumerate(sets.sets):
            folds = reader.fold(before[k], before[k] + changes[k])
            measured = folds if np.isfinite(folds).any() else changes[k]
            usable = null_at[changes[k][null_at].any(axis=1)]
            for j in range(perturbations.n):
                others = [n for n in usable if every[n].columns != every[j].columns]
                rows = _rows(reader.names, before[k], changes[k, j], folds[j], measured[j], measured[others])
                identity = {"feature": every[j].name, "direction": direction, "group": one.name}
                for position, (column, value) in enumerate({**identity, "n_cells": len(one.cells)}.items()):
                    rows.insert(position, column, value)
                parts.append(rows)
    table = pd.concat(parts, ignore_index=True)
    if reader.modality == cells.modality:
        # what the perturbed feature itself does is what was done to it
        own_targets = {
            p.name: {reader.saved.modalities[cells.modality]["var_names"][c] for c in p.columns}
            for p in perturbations.every[: perturbations.n]
        }
        table["perturbed"] = [
            int(t in own_targets[f]) for f, t in zip(table["feature"], table["target"], strict=True)
        ]
    return Predicted(reader, table)


def _nearest(perturbations: WithNull, level: DoubleArray) -> IntArray:
    """Perturbations of the null that are expressed most like those to measure."""
    if perturbations.random or len(perturbations.null) <= MOST_NULL:
        return perturbations.null[:MOST_NULL]
    levels = np.array([level[p.columns[0]] for p in perturbations.every[: perturbations.n]])
    null = np.array([level[perturbations.every[k].columns[0]] for k in perturbations.null])
    far = np.abs(np.log(null + _TINY)[:, None] - np.log(levels + _TINY)[None, :]).min(axis=1)
    return perturbations.null[np.sort(np.argsort(far, kind="stable")[:MOST_NULL])]


def _rows(
    names: Sequence[str],
    before: DoubleArray,
    change: DoubleArray,
    fold: DoubleArray,
    value: DoubleArray,
    null: DoubleArray,
) -> pd.DataFrame:
    """Return the changes of every target feature by one perturbation, the largest first."""
    n = len(change)
    mean, z, p = (np.full(n, np.nan) for _ in range(3))
    if change.any() and len(null):
        # each target feature has a null of its own: its changes by the other perturbations
        standardised = hold_against(
            value,
            np.arange(n),
            null.ravel(),
            np.tile(np.arange(n), len(null)),
            np.full(n, -1),
            np.ones(n, bool),
        )
        mean, z, p = standardised.mean, standardised.z, standardised.p
    table = pd.DataFrame(
        {
            "target": np.array(names, dtype=object),
            "before": before,
            "after": before + change,
            "change": change,
            "log2_fold_change": fold,
            "null_mean": mean,
            "z": z,
            "p": p,
            "fdr": false_discovery_rate(p),
        }
    )
    order = np.argsort(-np.abs(value), kind="stable")
    table = table.iloc[order].reset_index(drop=True)
    table["rank"] = np.arange(1, n + 1)
    return table


VALUES, MOST = 20_000_000, 50
"""Mean changes kept at a time (sets of cells, perturbations, features), and perturbations at a time."""


@dataclass(frozen=True, eq=False)
class Across:
    """The target profiles of a screen in another modality.

    `profiles`: mean expected values of the target cells of every set, `(n_sets, n_features)`.
    """

    reader: TargetReader
    profiles: DoubleArray

    @classmethod
    def of(cls, reader: TargetReader, sets: CellSets, targets: FloatArray) -> Across:
        """Read the profiles of target cells at `(n, n_latent)`."""
        total = np.zeros((len(sets.sets), len(reader.names)))
        for rows in reader.blocks(len(targets)):
            values = reader.read(targets[rows], logs=True)
            for k, one in enumerate(sets.sets):
                targets_here = (
                    one.targets[(one.targets >= rows.start) & (one.targets < rows.stop)] - rows.start
                )
                total[k] += values[targets_here].sum(axis=0)
        size = np.array([max(len(one.targets), 1) for one in sets.sets])
        return cls(reader, total / size[:, None])

    def shifts(
        self,
        cells: Replacement,
        perturbations: Sequence[Perturbation],
        sets: CellSets,
        effect: Effect,
        direction: str,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[DoubleArray, DoubleArray]:
        """Return distances before `(n_sets,)`, and by how much each perturbation lessens them.

        The second is `(n_sets, n_perturbations)`; exactly 0 where no cell changes.
        """
        members = [one.cells for one in sets.sets]
        nearer = np.zeros((len(members), len(perturbations)))
        start = np.zeros(len(members))
        for part in chunks(
            len(perturbations), max(1, min(MOST, VALUES // (len(members) * len(self.reader.names))))
        ):
            some = perturbations[part]
            moved = stream(cells, some, effect, direction)
            before, changes = mean_changes(self.reader, cells.z, members, moved, len(some), logs=True)
            if progress is not None:
                progress(part.stop, len(perturbations))
            way = before - self.profiles
            start = np.linalg.norm(way, axis=1)
            after = np.linalg.norm(way[:, None] + changes, axis=2)
            still = ~changes.any(axis=2)
            nearer[:, part] = np.where(still, 0.0, start[:, None] - after)
        return start, nearer


def screen(
    cells: Replacement,
    perturbations: WithNull,
    sets: CellSets,
    effect: Effect,
    directions: Sequence[str],
    *,
    across: Across | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Perturb, measure, and compare with the null distribution, set of cells by set of cells.

    Returned is one row for each perturbation, direction and set of cells, the best of each set first. With
    `across` the same is done in another modality, in columns `across_*`.
    """
    levels = [expression(cells, one.cells) for one in sets.sets]
    towards = signs(cells, perturbations.every[: perturbations.n]) if effect.kind == TOWARDS else None
    parts: list[pd.DataFrame] = []
    for direction in directions:
        moved = stream(cells, perturbations.every, effect, direction, progress=progress)
        shifts = measure_shifts(cells.z, sets, moved, len(perturbations.every))
        other = None
        if across is not None:
            other = across.shifts(cells, perturbations.every, sets, effect, direction, progress=progress)
        for k, one in enumerate(sets.sets):
            rows = _screen_rows(perturbations, shifts, k, one.name, len(one.cells), direction, levels[k])
            if towards is not None:
                rows["direction"], rows["difference"] = towards
            if other is not None:
                before, values = other[0][k], other[1][k]
                standardised = hold_perturbations(perturbations, values, shifts.n_changed[k] > 0, levels[k])
                rows["across_before"], rows["across_shift"] = before, values[: perturbations.n]
                rows["across_z"], rows["across_p"] = standardised.z, standardised.p
            parts.append(rows)
    table = pd.concat(parts, ignore_index=True)
    ranked = []
    for one in sets.sets:
        of_set = table[(table["group"] == one.name).to_numpy()].copy()
        of_set["fdr"] = false_discovery_rate(of_set["p"].to_numpy())
        # equal shifts, those of 0 above all, stay in the order of the features
        of_set["shift_rank"] = _ranks(of_set["shift"].to_numpy())
        excess = (of_set["shift"] - of_set["null_mean"].fillna(0.0)).where(of_set["n_changed"] > 0, 0.0)
        of_set = of_set.iloc[np.argsort(-excess.to_numpy(), kind="stable")]
        of_set["rank"] = np.arange(1, len(of_set) + 1)
        if across is not None:
            of_set["across_fdr"] = false_discovery_rate(of_set["across_p"].to_numpy())
            of_set["across_rank"] = _ranks(of_set["across_shift"].to_numpy())
        ranked.append(of_set)
    columns = [c for c in table.columns if c != "length" and not c.startswith("across_")]
    columns += ["fdr", "rank", "shift_rank"]
    if across is not None:
        columns += [f"across_{what}" for what in ("before", "shift", "z", "p", "fdr", "rank")]
    return pd.concat(ranked, ignore_index=True)[columns]


def signs(cells: Replacement, perturbations: Sequence[Perturbation]) -> tuple[StrArray, DoubleArray]:
    """Return in which direction the effect `towards` changes each perturbation's features, and by how much.

    Of several features: `towards` where some rise and some fall, and the mean of their differences.
    """
    assert cells.difference is not None
    parts = [cells.difference[list(p.columns)] for p in perturbations]
    words = [UP if (part > 0).all() else DOWN if (part <= 0).all() else TOWARDS for part in parts]
    return np.array(words, dtype=object), np.array([part.mean() for part in parts])


def _ranks(values: DoubleArray) -> IntArray:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks


def _screen_rows(
    perturbations: WithNull,
    shifts: Shifts,
    k: int,
    name: str,
    n_cells: int,
    direction: str,
    level: DoubleArray,
) -> pd.DataFrame:
    values, n = shifts.shift[k], perturbations.n
    standardised = hold_perturbations(perturbations, values, shifts.n_changed[k] > 0, level)
    return pd.DataFrame(
        {
            "feature": np.array([p.name for p in perturbations.every[:n]], dtype=object),
            "direction": np.full(n, direction, dtype=object),
            "group": np.full(n, name, dtype=object),
            "n_cells": np.full(n, n_cells),
            "n_changed": shifts.n_changed[k, :n],
            "distance_before": np.full(n, shifts.before[k]),
            "distance_after": shifts.before[k] - values[:n],
            "shift": values[:n],
            "cosine_before": np.full(n, shifts.cosine_before[k]),
            "cosine_shift": shifts.cosine_shift[k, :n],
            "null_mean": standardised.mean,
            "z": standardised.z,
            "p": standardised.p,
            "length": shifts.length[k, :n],
        }
    )
