"""The screen: every feature raised or lowered, and how far that brings cells towards a target group.

Beside the features asked for, others that are expressed as much are perturbed in the same way: what
they do is the null. `z` says by how many of their standard deviations a feature's shift differs
from their mean, itself left out; `p` is Student's for one value more of the same law, two-sided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mocli.metrics.correlation import draw_panel, false_discovery_rate
from mocli.tasks.perturb.null import Matching, hold_against
from mocli.tasks.perturb.shifts import Perturbation, measure_shifts, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mocli.tasks.perturb.across import Across
    from mocli.tasks.perturb.cells import CellSets
    from mocli.tasks.perturb.effect import Effect
    from mocli.tasks.perturb.null import Significance
    from mocli.tasks.perturb.reencode import Replacement
    from mocli.tasks.perturb.shifts import Shifts
    from mocli.types import BoolArray, DoubleArray, IntArray

WHOLE = 0.5
"""Share of the model's features from which on those asked for are their own null."""


@dataclass(frozen=True, eq=False)
class Screened:
    """What a screen found.

    Attributes
    ----------
    table
        One row a perturbation, direction and set of cells, the best of each set first.
    n_null
        Perturbations that the others are held against.
    """

    table: pd.DataFrame
    n_null: int


@dataclass(frozen=True, eq=False)
class Asked:
    """Perturbations asked for, and those of the null behind them.

    Attributes
    ----------
    every
        All of them, the `n` asked for first.
    null
        Positions of the null in `every`.
    random
        Whether the null is of random sets, which all stand for the one set asked for.
    """

    every: tuple[Perturbation, ...]
    n: int
    null: IntArray
    random: bool


def with_null(
    asked: Sequence[Perturbation], names: Sequence[str], used: IntArray, level: DoubleArray, *, seed: int
) -> Asked:
    """Add what the perturbations are held against.

    Parameters
    ----------
    names
        Of all features of the model.
    used, level
        Features that the encoder takes, and their mean expression in the perturbed cells.
    """
    place = {int(column): k for k, column in enumerate(used)}
    if any(len(p.columns) > 1 for p in asked):
        matching = Matching.draw(level, seed=seed, whole=True)
        sets = [
            Perturbation("", tuple(int(used[k]) for k in chosen))
            for p in asked
            for chosen in matching.random_sets(np.array([place[c] for c in p.columns]), seed=seed)
        ]
        null = len(asked) + np.arange(len(sets))
        return Asked((*asked, *sets), len(asked), null, random=True)
    matching = Matching.draw(level, seed=seed, whole=len(asked) >= WHOLE * len(used))
    at = {p.columns[0]: k for k, p in enumerate(asked)}
    extra = [int(used[k]) for k in matching.panel if int(used[k]) not in at]
    every = (*asked, *(Perturbation(names[c], (c,)) for c in extra))
    where = {p.columns[0]: k for k, p in enumerate(every)}
    null = np.array([where[int(used[k])] for k in matching.panel], dtype=np.int64)
    return Asked(every, len(asked), null, random=False)


def screen(
    cells: Replacement,
    asked: Asked,
    sets: CellSets,
    effect: Effect,
    directions: Sequence[str],
    *,
    absent: frozenset[int],
    across: Across | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Screened:
    """Perturb, measure, and hold against the null, set of cells by set of cells.

    With `across` the same is done in another modality, in columns `across_*`.
    """
    levels = [expression(cells, one.cells) for one in sets.sets]
    parts: list[pd.DataFrame] = []
    for direction in directions:
        moved = stream(cells, asked.every, effect, direction, absent=absent, progress=progress)
        shifts = measure_shifts(cells.z, sets, moved, len(asked.every))
        other = None
        if across is not None:
            other = across.shifts(
                cells, asked.every, sets, effect, direction, absent=absent, progress=progress
            )
        for k, one in enumerate(sets.sets):
            rows = _rows(asked, shifts, k, one.name, len(one.cells), direction, levels[k])
            if other is not None:
                before, values = other[0][k], other[1][k]
                held = _hold(asked, values, shifts.n_changed[k] > 0, levels[k])
                rows["across_before"], rows["across_shift"] = before, values[: asked.n]
                rows["across_z"], rows["across_p"] = held.z, held.p
            parts.append(rows)
    table = pd.concat(parts, ignore_index=True)
    found = []
    for one in sets.sets:
        mine = table[(table["group"] == one.name).to_numpy()].copy()
        mine["fdr"] = false_discovery_rate(mine["p"].to_numpy())
        # equal shifts, those of 0 above all, stay in the order of the features
        mine = mine.iloc[np.argsort(-mine["shift"].to_numpy(), kind="stable")]
        mine["rank"] = np.arange(1, len(mine) + 1)
        if across is not None:
            mine["across_fdr"] = false_discovery_rate(mine["across_p"].to_numpy())
            mine["across_rank"] = _ranks(mine["across_shift"].to_numpy())
        found.append(mine)
    columns = [*(c for c in table.columns if c != "length" and not c.startswith("across_")), "fdr", "rank"]
    if across is not None:
        columns += [f"across_{what}" for what in ("before", "shift", "z", "p", "fdr", "rank")]
    return Screened(pd.concat(found, ignore_index=True)[columns], len(asked.null))


def expression(cells: Replacement, rows: IntArray) -> DoubleArray:
    """Mean raw value of every feature of the model over some cells, `(n_vars,)`."""
    weight = np.zeros(cells.x.shape[0])
    weight[rows] = 1 / max(len(rows), 1)
    found: DoubleArray = np.asarray(weight @ cells.x, dtype=np.float64).ravel()
    return found


def _hold(asked: Asked, values: DoubleArray, changed: BoolArray, level: DoubleArray) -> Significance:
    """Hold what was asked for against the null; perturbations that change nothing are no null."""
    usable = asked.null[changed[asked.null]]
    bins = np.zeros(len(asked.every), np.int64)
    if not asked.random:
        mean = np.array([level[p.columns[0]] for p in asked.every])
        every: BoolArray = np.isin(np.arange(len(mean)), asked.null)
        bins = draw_panel(mean, every, 1, np.random.default_rng(0)).bins if (mean > 0).any() else bins
    own = np.full(len(asked.every), -1, np.int64)
    own[usable] = np.arange(len(usable))
    n = asked.n
    return hold_against(values[:n], bins[:n], values[usable], bins[usable], own[:n], changed[:n])


def _ranks(values: DoubleArray) -> IntArray:
    found = np.empty(len(values), np.int64)
    found[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return found


def _rows(
    asked: Asked, shifts: Shifts, k: int, name: str, n_cells: int, direction: str, level: DoubleArray
) -> pd.DataFrame:
    values, n = shifts.shift[k], asked.n
    held = _hold(asked, values, shifts.n_changed[k] > 0, level)
    return pd.DataFrame(
        {
            "feature": np.array([p.name for p in asked.every[:n]], dtype=object),
            "direction": np.full(n, direction, dtype=object),
            "group": np.full(n, name, dtype=object),
            "n_cells": np.full(n, n_cells),
            "n_changed": shifts.n_changed[k, :n],
            "distance_before": np.full(n, shifts.before[k]),
            "distance_after": shifts.before[k] - values[:n],
            "shift": values[:n],
            "cosine_before": np.full(n, shifts.cosine_before[k]),
            "cosine_shift": shifts.cosine_shift[k, :n],
            "null_mean": held.mean,
            "z": held.z,
            "p": held.p,
            "length": shifts.length[k, :n],
        }
    )
