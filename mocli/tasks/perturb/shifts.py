"""What is perturbed, cell by cell: a stream of changed cells, and how far each set of cells moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import sparse

from mocli.tasks.perturb.cells import CellSets, unit
from mocli.tasks.perturb.effect import Effect
from mocli.tasks.perturb.reencode import Replacement
from mocli.types import DoubleArray, FloatArray, IntArray

PAIRS = 131_072
"""Changed cells, over all perturbations, that are gathered at a time."""


@dataclass(frozen=True)
class Perturbation:
    """Features that change together, `columns` among the model's."""

    name: str
    columns: tuple[int, ...]


Moved: TypeAlias = tuple[IntArray, IntArray, FloatArray]
"""Perturbations `(m,)`, cells `(m,)`, and where these are after them `(m, n_latent)`."""


def stream(
    cells: Replacement,
    perturbations: Sequence[Perturbation],
    effect: Effect,
    direction: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Moved]:
    """Place again every cell that a perturbation changes, many perturbations at a time.

    Cells that do not change are not given: they stay where they are, exactly.
    """
    held: list[tuple[IntArray, IntArray, DoubleArray]] = []
    which: list[int] = []
    n_held = 0
    for number, perturbation in enumerate(perturbations):
        for column in perturbation.columns:
            changed, delta = cells.changes(column, effect, direction)
            held.append((changed, np.full(len(changed), cells.response.place[column]), delta))
            which.append(number)
            n_held += len(changed)
        if n_held >= PAIRS:
            yield _place(cells, held, which)
            held, which, n_held = [], [], 0
            if progress is not None:
                progress(number + 1, len(perturbations))
    if n_held:
        yield _place(cells, held, which)


def _place(cells: Replacement, held: list[tuple[IntArray, IntArray, DoubleArray]], which: list[int]) -> Moved:
    number = np.repeat(which, [len(changed) for changed, _, _ in held])
    cell, used, delta = (np.concatenate([part[k] for part in held]) for k in range(3))
    n = len(cells.z)
    # features that change together are one change of the cell
    pairs, row = np.unique(number * n + cell, return_inverse=True)
    shape = (len(pairs), len(cells.response.used))
    added = sparse.csr_matrix((delta, (row, used)), shape=shape)
    changed = (pairs % n).astype(np.int64)
    return (pairs // n).astype(np.int64), changed, cells.place(changed, added)


@dataclass(frozen=True, eq=False)
class Shifts:
    """How far sets of cells are from their targets, before and after perturbations.

    Attributes
    ----------
    before, cosine_before
        Mean distance to the mean of the targets, mean cosine distance to all of them, `(n_sets,)`.
    shift, cosine_shift
        How much nearer the cells of a set come, on average, `(n_sets, n_perturbations)`; exactly 0
        where no cell changes.
    length
        How far the cells of a set move, on average, in whatever direction.
    n_changed
        Cells that change, `(n_sets, n_perturbations)`.
    """

    before: DoubleArray
    cosine_before: DoubleArray
    shift: DoubleArray
    cosine_shift: DoubleArray
    length: DoubleArray
    n_changed: IntArray


def measure_shifts(z: FloatArray, sets: CellSets, moved: Iterator[Moved], n_perturbations: int) -> Shifts:
    """Add up what each perturbation does to each set.

    Parameters
    ----------
    z
        Where the cells are, `(n, n_latent)`.
    """
    n_sets = len(sets.sets)
    member = np.zeros((n_sets, len(z)), bool)
    near, angle = np.zeros((n_sets, len(z))), np.zeros((n_sets, len(z)))
    for k, one in enumerate(sets.sets):
        member[k, one.cells] = True
        near[k] = np.linalg.norm(z - one.middle, axis=1)
        angle[k] = 1 - unit(z) @ one.heading
    sums = np.zeros((3, n_sets, n_perturbations))
    counts = np.zeros((n_sets, n_perturbations), np.int64)
    for number, cell, after in moved:
        step = np.linalg.norm(after - z[cell], axis=1)
        direction = unit(after)
        for k, one in enumerate(sets.sets):
            rows = np.flatnonzero(member[k, cell])
            if not len(rows):
                continue
            which, who = number[rows], cell[rows]
            nearer = near[k, who] - np.linalg.norm(after[rows] - one.middle, axis=1)
            turned = angle[k, who] - (1 - direction[rows] @ one.heading)
            for total, gained in zip(sums, (nearer, turned, step[rows]), strict=True):
                total[k] += np.bincount(which, gained, n_perturbations)
            counts[k] += np.bincount(which, minlength=n_perturbations)
    size = np.array([max(len(one.cells), 1) for one in sets.sets])[:, None]
    mean = [float(d[m].mean()) if m.any() else np.nan for d, m in zip(near, member, strict=True)]
    cosine = [float(d[m].mean()) if m.any() else np.nan for d, m in zip(angle, member, strict=True)]
    return Shifts(np.array(mean), np.array(cosine), sums[0] / size, sums[1] / size, sums[2] / size, counts)
