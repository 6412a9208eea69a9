"""The perturbed cells as a stream, and how far each set of cells moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from mocli.data.files.inmemory import of_anndata
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.models.base import Encodes
from mocli.tasks.infer.align import Aligned, align, check_modality
from mocli.tasks.infer.place import settle_cells
from mocli.tasks.perturb.cells import CellSets, split_cells, unit
from mocli.tasks.perturb.effect import TOWARDS, Effect
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.run.frame import Foresight
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import DoubleArray, FloatArray, IntArray

PAIRS = 131_072
"""Changed cells, over all perturbations, that are encoded at a time."""


@dataclass(frozen=True)
class Perturbation:
    """Features that change together; `columns` are their positions in the model."""

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
    """Encode again every cell that a perturbation changes, many perturbations at a time.

    Cells that do not change are not yielded: they keep exactly their coordinates.
    """
    waiting: list[tuple[IntArray, IntArray, DoubleArray]] = []
    numbers: list[int] = []
    n_held = 0
    for number, perturbation in enumerate(perturbations):
        for column in perturbation.columns:
            changed, delta = cells.changes(column, effect, direction)
            waiting.append((changed, np.full(len(changed), cells.response.place[column]), delta))
            numbers.append(number)
            n_held += len(changed)
        if n_held >= PAIRS:
            yield _place(cells, waiting, numbers)
            waiting, numbers, n_held = [], [], 0
            if progress is not None:
                progress(number + 1, len(perturbations))
    if n_held:
        yield _place(cells, waiting, numbers)


def _place(
    cells: Replacement, waiting: list[tuple[IntArray, IntArray, DoubleArray]], numbers: list[int]
) -> Moved:
    number = np.repeat(numbers, [len(changed) for changed, _, _ in waiting])
    cell, used, delta = (np.concatenate([part[k] for part in waiting]) for k in range(3))
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

    Attributes:
        before, cosine_before: Mean distance to the mean of the targets, mean cosine distance to all of them,
            `(n_sets,)`.
        shift, cosine_shift: How much nearer the cells of a set come, on average, `(n_sets, n_perturbations)`;
            exactly 0 where no cell changes.
        length: How far the cells of a set move, on average, in whatever direction.
        n_changed: Cells that change, `(n_sets, n_perturbations)`.
    """

    before: DoubleArray
    cosine_before: DoubleArray
    shift: DoubleArray
    cosine_shift: DoubleArray
    length: DoubleArray
    n_changed: IntArray


def measure_shifts(z: FloatArray, sets: CellSets, moved: Iterator[Moved], n_perturbations: int) -> Shifts:
    """Add up the shifts of each set by each perturbation.

    `z`: where the cells are, `(n, n_latent)`.
    """
    n_sets = len(sets.sets)
    member = np.zeros((n_sets, len(z)), bool)
    distance, angle = np.zeros((n_sets, len(z))), np.zeros((n_sets, len(z)))
    for k, one in enumerate(sets.sets):
        member[k, one.cells] = True
        distance[k] = np.linalg.norm(z - one.middle, axis=1)
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
            perturbation, who = number[rows], cell[rows]
            nearer = distance[k, who] - np.linalg.norm(after[rows] - one.middle, axis=1)
            turned = angle[k, who] - (1 - direction[rows] @ one.heading)
            for total, gained in zip(sums, (nearer, turned, step[rows]), strict=True):
                total[k] += np.bincount(perturbation, gained, n_perturbations)
            counts[k] += np.bincount(perturbation, minlength=n_perturbations)
    size = np.array([max(len(one.cells), 1) for one in sets.sets])[:, None]
    mean = [float(d[m].mean()) if m.any() else np.nan for d, m in zip(distance, member, strict=True)]
    cosine = [float(d[m].mean()) if m.any() else np.nan for d, m in zip(angle, member, strict=True)]
    return Shifts(np.array(mean), np.array(cosine), sums[0] / size, sums[1] / size, sums[2] / size, counts)


def perturb_cells(
    model: SavedModel | str | Path,
    cells: AnnData,
    perturbations: Mapping[str, Sequence[str]],
    effect: Effect | str = "knockout",
    *,
    direction: str = "down",
    targets: AnnData | None = None,
    modality: str | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Shifts:
    """Change features of cells that are in memory, encode the cells again, and measure how far they move.

    Args:
        model: As `load_model` returns it, or its folder.
        cells: Measured in one modality of the model, raw values in `X` or a layer.
        perturbations: By name the features that change together.
        effect, direction: See `Effect`: `knockout`, `scale=0.5`, `log-shift=1`, `count-shift=1`; `up` or
            `down`; `towards`.
        targets: Cells towards which shifts are measured; without them only `length` and `n_changed` are
            meaningful.
        modality: The model's name of the modality; None where it has only one.

    Returns:
        Shifts: For one set with all cells: arrays `(1, n_perturbations)`.

    Raises:
        InputError, UsageError: Cells or features do not fit the model.
    """
    saved = load_model(model)
    name = check_modality(saved, modality or next(iter(saved.modalities)), "modality")
    features = list(map(str, saved.modalities[name]["var_names"]))
    where = {feature: column for column, feature in enumerate(features)}
    unknown = [f for group in perturbations.values() for f in group if f not in where]
    if unknown:
        raise InputError(
            f"the model has no feature '{unknown[0]}'",
            field="perturbations",
            hint=did_you_mean(unknown[0], features, "features"),
        )
    both = [cells] if targets is None else [cells, targets]
    files = [of_anndata(adata, name, saved.modalities[name]["kind"]) for adata in both]
    aligned = [align(saved, name, file, layers={}, warn=lambda _: None) for file in files]
    place = torch.device(device)
    ready = [_ready(saved, name, one, place, seed=seed) for one in aligned]
    z = ready[1].z if targets is not None else np.zeros((0, ready[0].z.shape[1]), np.float32)
    sets = split_cells(None, None, z, n=len(ready[0].z), min_cells=1)
    changed = [Perturbation(key, tuple(where[f] for f in group)) for key, group in perturbations.items()]
    what = Effect.parse(effect) if isinstance(effect, str) else effect
    if what.kind == TOWARDS:
        if targets is None:
            raise UsageError("the effect towards needs targets", field="targets", hint="give target cells")
        ready[0], direction = ready[0].with_targets(saved, aligned[1].read(None)), TOWARDS
    return measure_shifts(ready[0].z, sets, stream(ready[0], changed, what, direction), len(changed))


def _ready(saved: SavedModel, name: str, aligned: Aligned, device: torch.device, *, seed: int) -> Replacement:
    x = aligned.read(None)
    if isinstance(saved.model, Encodes):
        return Replacement.of(saved, name, x, aligned.absent, device)
    data = DataOptions(inputs=())
    placed = settle_cells(saved, name, aligned, data, device=device, seed=seed, tell=Foresight())
    return Replacement.settled(saved, name, x, aligned.absent, placed, np.arange(x.shape[0]))
