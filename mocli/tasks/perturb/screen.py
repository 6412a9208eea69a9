"""The screen: every feature raised or lowered, and how far that moves cells towards a target group.

Besides the features asked for, others that are expressed as much are perturbed in the same way: their
shifts are the null distribution. `z` says by how many of their standard deviations a feature's shift
differs from their mean, itself left out; `p` is Student's for one value more of the same law, two-sided.

A screen may look into another modality too. scCross (Yang et al. 2024, Discussion) proposes to generate
the other modality from perturbed cells, and to score a gene by how far that shifts. Here: the mean
expected profile of a set of cells, on the log scale where the modality has one, and its Euclidean
distance to that of the target cells. Both come from the model, so its errors are in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.metrics.correlation import false_discovery_rate
from mocli.nn.neighbors import chunks
from mocli.tasks.perturb.cells import CellSets
from mocli.tasks.perturb.effect import DOWN, TOWARDS, UP, Effect
from mocli.tasks.perturb.effects import TargetReader, mean_changes
from mocli.tasks.perturb.null import WithNull, expression, hold_perturbations
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.perturb.shifts import Perturbation, Shifts, measure_shifts, stream
from mocli.types import DoubleArray, FloatArray, IntArray, StrArray

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
            rows = _rows(perturbations, shifts, k, one.name, len(one.cells), direction, levels[k])
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


def _rows(
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
