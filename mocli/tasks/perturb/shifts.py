"""How far perturbed cells move, and the null distribution of that: shifts of features expressed alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from mocli.data.files.modality import of_anndata
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.metrics.correlation import FEWEST_MATCHED, draw_panel, outlier_p
from mocli.models.base import Encodes
from mocli.nn.neighbors import unit_rows
from mocli.tasks.infer.align import Aligned, align, check_modality
from mocli.tasks.infer.query import settle_cells
from mocli.tasks.perturb.cells import TOWARDS, CellSets, Effect, split_cells
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.run.frame import Foresight
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray

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
        angle[k] = 1 - unit_rows(z) @ one.heading
    sums = np.zeros((3, n_sets, n_perturbations))
    counts = np.zeros((n_sets, n_perturbations), np.int64)
    for number, cell, after in moved:
        step = np.linalg.norm(after - z[cell], axis=1)
        direction = unit_rows(after)
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


PER_BIN = 60
"""Features drawn to represent all that are expressed as much."""

RANDOM_SETS = 200
"""Random sets in the null distribution of features that are perturbed together."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Features by how much they are expressed.

    Attributes:
        panel: Features of the null, positions among those the model takes, increasing.
        bins: Bin of every feature, `(n_features,)`.
    """

    panel: IntArray
    bins: IntArray

    @classmethod
    def draw(cls, level: DoubleArray, *, seed: int, whole: bool) -> Matching:
        """Draw a panel.

        Args:
            level: Mean expression of every feature over the perturbed cells, `(n_features,)`.
            whole: Take every feature that is expressed, not a sample.
        """
        rng = np.random.default_rng(seed)
        panel = draw_panel(level, np.ones(len(level), bool), len(level) if whole else PER_BIN, rng)
        return cls(panel.features, panel.bins)

    def random_sets(self, members: IntArray, *, seed: int) -> list[tuple[int, ...]]:
        """Return sets of other features, each matched with one of `members`, no feature twice in a set."""
        rng = np.random.default_rng(seed)
        of_panel = self.bins[self.panel]
        by_bin = {k: np.setdiff1d(self.panel[of_panel == k], members) for k in np.unique(self.bins)}
        drawn = []
        for _ in range(RANDOM_SETS):
            chosen: list[int] = []
            for member in members:
                free = np.setdiff1d(by_bin[self.bins[member]], chosen)
                if len(free):
                    chosen.append(int(rng.choice(free)))
            if len(chosen) == len(members):
                drawn.append(tuple(chosen))
        return drawn


@dataclass(frozen=True, eq=False)
class Significance:
    """Mean of the null, standardised value and two-sided p of every value, `(n,)`; NaN where undefined."""

    mean: DoubleArray
    z: DoubleArray
    p: DoubleArray


def hold_against(
    values: DoubleArray,
    bins: IntArray,
    null: DoubleArray,
    null_bins: IntArray,
    position: IntArray,
    tested: BoolArray,
) -> Significance:
    """Standardise values by the null values of their bin, their own left out.

    Args:
        values, bins: `(n,)`.
        null, null_bins: `(n_null,)`, finite.
        position: Position of each value in the null, -1 for none, `(n,)`.
        tested: Values that are tested; the others are NaN in the result, `(n,)`.
    """
    n_bins = int(max(bins.max(initial=0), null_bins.max(initial=0))) + 1
    count = np.bincount(null_bins, minlength=n_bins)
    total, squares = (np.bincount(null_bins, null**k, n_bins) for k in (1, 2))
    inside = position >= 0
    own_value = np.where(inside, null[position], 0.0) if len(null) else np.zeros(len(values))
    others = count[bins] - inside
    enough = tested & (others >= FEWEST_MATCHED)
    safe = np.where(enough, others, 2)
    mean = (total[bins] - own_value) / safe
    variance = (squares[bins] - own_value**2 - safe * mean**2) / (safe - 1)
    defined = enough & (variance > 1e-24)
    z = np.full(len(values), np.nan)
    z[defined] = (values[defined] - mean[defined]) / np.sqrt(variance[defined])
    return Significance(np.where(enough, mean, np.nan), z, outlier_p(z, safe.astype(np.int64)))


WHOLE = 0.5
"""From this share of the model's features on, the features asked for are their own null."""


@dataclass(frozen=True, eq=False)
class WithNull:
    """Perturbations to measure, and those of the null behind them.

    Attributes:
        every: All of them, the `n` to measure first.
        null: Positions of the null in `every`.
        random: Whether the null consists of random sets, which are all compared with the one set to measure.
    """

    every: tuple[Perturbation, ...]
    n: int
    null: IntArray
    random: bool


def with_null(
    perturbations: Sequence[Perturbation],
    names: Sequence[str],
    used: IntArray,
    level: DoubleArray,
    *,
    seed: int,
) -> WithNull:
    """Add the perturbations of the null distribution.

    Args:
        names: Of all features of the model.
        used, level: Features that the encoder takes, and their mean expression in the perturbed cells.
    """
    place = {int(column): k for k, column in enumerate(used)}
    if any(len(p.columns) > 1 for p in perturbations):
        matching = Matching.draw(level, seed=seed, whole=True)
        sets = [
            Perturbation("", tuple(int(used[k]) for k in chosen))
            for p in perturbations
            for chosen in matching.random_sets(np.array([place[c] for c in p.columns]), seed=seed)
        ]
        null = len(perturbations) + np.arange(len(sets))
        return WithNull((*perturbations, *sets), len(perturbations), null, random=True)
    matching = Matching.draw(level, seed=seed, whole=len(perturbations) >= WHOLE * len(used))
    place_of = {p.columns[0]: k for k, p in enumerate(perturbations)}
    extra = [int(used[k]) for k in matching.panel if int(used[k]) not in place_of]
    every = (*perturbations, *(Perturbation(names[c], (c,)) for c in extra))
    where = {p.columns[0]: k for k, p in enumerate(every)}
    null = np.array([where[int(used[k])] for k in matching.panel], dtype=np.int64)
    return WithNull(every, len(perturbations), null, random=False)


def expression(cells: Replacement, rows: IntArray) -> DoubleArray:
    """Mean raw value of every feature of the model over some cells, `(n_vars,)`."""
    weight = np.zeros(cells.x.shape[0])
    weight[rows] = 1 / max(len(rows), 1)
    return np.asarray(weight @ cells.x, dtype=np.float64).ravel()


def hold_perturbations(
    perturbations: WithNull, values: DoubleArray, changed: BoolArray, level: DoubleArray
) -> Significance:
    """Compare measured perturbations with the null, without perturbations of the null that change no cell.

    Args:
        values, changed: Of every perturbation, those of the null included: what is held against the null, and
            whether any cell changes, `(n_every,)`.
        level: Mean expression of every feature of the model, `(n_vars,)`.
    """
    usable = perturbations.null[changed[perturbations.null]]
    bins = np.zeros(len(perturbations.every), np.int64)
    if not perturbations.random:
        mean = np.array([level[p.columns[0]] for p in perturbations.every])
        every: BoolArray = np.isin(np.arange(len(mean)), perturbations.null)
        bins = draw_panel(mean, every, 1, np.random.default_rng(0)).bins if (mean > 0).any() else bins
    position = np.full(len(perturbations.every), -1, np.int64)
    position[usable] = np.arange(len(usable))
    n = perturbations.n
    return hold_against(values[:n], bins[:n], values[usable], bins[usable], position[:n], changed[:n])
