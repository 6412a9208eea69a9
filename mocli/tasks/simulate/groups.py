"""The cells to simulate: their groups, how many of each, and their latent coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mocli.data.bundle import Codes
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.models.base import Clusters, DrawsCoordinates, EncodesJointly
from mocli.models.registry import available, models_that
from mocli.nn.neighbors import chunks, knn
from mocli.tasks.infer.align import check_modality
from mocli.tasks.infer.decoder import is_counted
from mocli.tasks.simulate.options import SimulateOptions
from mocli.tasks.trained.atlas import Atlas
from mocli.tasks.trained.saved import SavedModel
from mocli.types import DoubleArray, FloatArray, IntArray, Task

FEWEST = 20
"""Training cells of a group below which these say little of its spread."""


@dataclass(frozen=True, eq=False)
class CellGroup:
    """Cells to simulate of one kind.

    Attributes:
        name: The label, `component K`, or `all cells`.
        rows: Training cells of the kind, rows of the atlas.
        n: Cells to simulate.
        label, component: Code of the label, number of the component; None where the group is not a label, or
            not a component.
    """

    name: str
    rows: IntArray
    n: int
    label: int | None = None
    component: int | None = None

    @property
    def words(self) -> str:
        """Describe the group in a line."""
        return f"{self.name}: {self.n:,} cells, from {len(self.rows):,} training cells"


@dataclass(frozen=True, eq=False)
class SimulationPlan:
    """The groups of cells to simulate.

    `labels`: column of the labels over the atlas, None for a model without any.
    """

    groups: tuple[CellGroup, ...]
    labels: Codes | None
    modalities: tuple[str, ...]

    @property
    def n_cells(self) -> int:
        """Number of cells to simulate."""
        return sum(group.n for group in self.groups)


def tell_groups(plan: SimulationPlan, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Say what is simulated, and of which groups there are too few training cells to learn a type from."""
    for group in plan.groups:
        say(group.words)
    few = [f"{group.name} ({len(group.rows):,})" for group in plan.groups if len(group.rows) < FEWEST]
    if few:
        warn(
            f"few training cells of {', '.join(few)}: simulated ones vary these, and tell no more of their "
            f"type than these do; {FEWEST} or more are better"
        )


def atlas_of(saved: SavedModel) -> Atlas:
    """Return the training cells kept with a model; `InputError` if there are none."""
    if saved.atlas is None:
        raise InputError(
            "the model does not keep training cells to simulate from",
            field="--from-model",
            hint="train it again with this version of mocli",
        )
    return saved.atlas


def check_model(saved: SavedModel) -> None:
    """Raise `UsageError` for a model that cannot simulate; the message names those that can."""
    name = saved.description["model"]
    able = [other for other, traits in available().items() if Task.SIMULATE in traits.tasks]
    if name not in able:
        raise UsageError(
            f"{name} cannot simulate: it has no likelihood to draw measured values from",
            field="--from-model",
            hint="these models can: " + ", ".join(able),
        )


def component_shares(saved: SavedModel, device: str = "cpu") -> FloatArray | None:
    """Return the probability of every cluster for every training cell, `(n, K)`; None without clusters."""
    # imported here: a refusal must not pay for torch
    import torch

    from mocli.train.predict import cluster_cells

    if not isinstance(saved.model, Clusters):
        return None
    return cluster_cells(saved.model, atlas_of(saved).z, torch.device(device))


def settle(saved: SavedModel, options: SimulateOptions, shares: FloatArray | None) -> SimulationPlan:
    """Find the training cells asked for, and how many to simulate.

    `shares`: of `component_shares`. Raises `UsageError` or `InputError`: a label, column, component or
    modality that the model does not have; or one without cells.
    """
    check_model(saved)
    atlas = atlas_of(saved)
    modalities = tuple(check_modality(saved, name, "--modality") for name in options.modality)
    column, codes = _labels(atlas, options.label)
    labels = None if column is None else atlas.labels[column]
    if options.component:
        unsized = [_component(k, saved, shares) for k in options.component]
    elif labels is None or (options.places == "mixture" and not options.label):
        unsized = [CellGroup("all cells", np.arange(len(atlas.z)), 0)]
    else:
        unsized = [
            CellGroup(labels.levels[code], rows, 0, label=code)
            for code in codes
            if len(rows := np.flatnonzero(labels.codes == code)) or options.label
        ]
    groups = tuple(_sized(group, saved, options) for group in unsized)
    return SimulationPlan(groups, labels, modalities or tuple(saved.modalities))


def _labels(atlas: Atlas, texts: Sequence[str]) -> tuple[str | None, list[int]]:
    """Return the column of the labels, and their codes."""
    label_columns = atlas.labels
    if not label_columns:
        if texts:
            raise UsageError(
                "the model has no labels of its training cells",
                field="--label",
                found=texts[0],
                hint="train it with --label-key COLUMN, or simulate without --label",
            )
        return None, []
    if not texts:
        column = next(iter(label_columns))
        return column, list(range(len(label_columns[column].levels)))
    wanted = [_split(text, label_columns) for text in texts]
    columns = list(dict.fromkeys(column for column, _ in wanted))
    if len(columns) > 1:
        raise UsageError(
            "labels must come from one column",
            field="--label",
            found=", ".join(columns),
            hint="simulate from one column at a time",
        )
    column = columns[0]
    levels = label_columns[column].levels
    codes: list[int] = []
    for _, level in wanted:
        if level is None:
            codes += range(len(levels))
        elif level in levels:
            codes.append(levels.index(level))
        else:
            raise UsageError(
                f"no training cell of the model has {column} = {level}",
                field="--label",
                found=level,
                expected=", ".join(levels[:12]) + (", ..." if len(levels) > 12 else ""),
                hint=did_you_mean(level, levels, column),
            )
    return column, list(dict.fromkeys(codes))


def _split(text: str, label_columns: Mapping[str, Codes]) -> tuple[str, str | None]:
    columns = list(label_columns)
    if text in columns:
        return text, None
    # a column's name may hold '=' as well
    fitting = [c for c in columns if text.startswith(f"{c}=")]
    if fitting:
        column = max(fitting, key=len)
        return column, text[len(column) + 1 :]
    having = [c for c in columns if text in label_columns[c].levels]
    if len(having) == 1:
        return having[0], text
    column = text.partition("=")[0]
    raise UsageError(
        f"the model keeps no labels '{column}' of its training cells",
        field="--label",
        found=text,
        expected=" or ".join(f"{c}=VALUE" for c in columns),
        hint=did_you_mean(column, columns, "columns"),
    )


def _component(k: int, saved: SavedModel, shares: FloatArray | None) -> CellGroup:
    if shares is None:
        raise UsageError(
            f"{saved.description['model']} has no components",
            field="--component",
            found=k,
            hint=f"ask for labels with --label, or train {models_that(DrawsCoordinates)}",
        )
    n = shares.shape[1]
    if not 0 <= k < n:
        raise UsageError(
            f"the model has no component {k}", field="--component", found=k, expected=f"0 to {n - 1}"
        )
    return CellGroup(f"component {k}", np.flatnonzero(shares.argmax(1) == k), 0, component=k)


def _sized(group: CellGroup, saved: SavedModel, options: SimulateOptions) -> CellGroup:
    """Return the group with the number of cells to simulate."""
    atlas = atlas_of(saved)
    if not len(group.rows):
        raise InputError(
            f"{group.name} has no training cell to simulate from",
            field="--component" if group.component is not None else "--label",
            hint="ask for another",
        )
    if options.n_cells is not None:
        n = options.n_cells
    else:
        # where modalities have places of their own, a cell may lie in the atlas once for each
        of_each = np.bincount(atlas.group.codes[group.rows])
        cells = of_each.sum() if isinstance(saved.model, EncodesJointly) else of_each.max()
        n = max(1, round(options.multiple * cells * atlas.n_cells / len(atlas.z)))
    return CellGroup(group.name, group.rows, n, group.label, group.component)


NEAREST = 15
"""Number of nearest training cells of the same label whose spread is used around a cell."""

_AT_ONCE = 4096  # fixed, as numbers are drawn block by block


def draw_sources(rows: IntArray, n: int, rng: Generator, weights: DoubleArray | None = None) -> IntArray:
    """Return training cells that simulated ones follow, `(n,)`.

    Every cell comes equally often, up to one; by `weights`, those are drawn with replacement.
    """
    if weights is not None:
        return rows[rng.choice(len(rows), n, p=weights / weights.sum())]
    whole, rest = divmod(n, len(rows))
    drawn = np.concatenate([np.tile(rows, whole), rng.choice(rows, rest, replace=False)])
    return rng.permutation(drawn)


def bandwidth(n: int, n_dims: int) -> float:
    """Return the width of the kernel around a cell in standard deviations of its neighbours.

    Scott's rule, n^(-1 / (d + 4)) (Scott, Multivariate Density Estimation, 1992, Eq. 6.42).
    """
    return float(n ** (-1 / (n_dims + 4)))


def smoothed(z: FloatArray, chosen: IntArray, rng: Generator, *, device: str = "cpu") -> FloatArray:
    """Return coordinates around chosen cells, `(n, d)`, that spread as the cells do (a smoothed bootstrap).

    With m the mean and S the covariance of a cell z and its 15 nearest among those given, and h of
    `bandwidth`, the coordinates are m + sqrt(1 - h^2) (z - m) + h e, e drawn from N(0, S): noise replaces
    as much of the spread around m as it brings (as in Silverman and Young, Biometrika 74:469, 1987), and
    stays in the directions in which neighbours differ.

    Args:
        z: Cells of one label, `(m, d)`.
        chosen: Rows of it, `(n,)`.
    """
    k = min(NEAREST, len(z) - 1)
    if k < 1:
        return z[chosen]
    h = bandwidth(len(z), z.shape[1])
    # a cell is among its own nearest
    neighbors = knn(z, z, k + 1, device=device)[1]
    out = np.empty((len(chosen), z.shape[1]), np.float32)
    for rows in chunks(len(chosen), _AT_ONCE):
        around = z[neighbors[chosen[rows]]]
        middle = around.mean(1)
        noise = rng.standard_normal(around.shape[:2], dtype=np.float32) / np.float32(np.sqrt(k))
        drawn = np.einsum("bk,bkd->bd", noise, around - middle[:, None])
        out[rows] = middle + np.sqrt(1 - h * h) * (z[chosen[rows]] - middle) + h * drawn
    return out


def about_the_mean(z: FloatArray, drawn: FloatArray, n: int, rng: Generator) -> FloatArray:
    """Return coordinates `(n, d)` from one normal distribution: the cells' mean, their mean deviation.

    scCross' own way (Yang et al. 2024, "multi-omics data simulation"). The standard deviation of a
    posterior is estimated from one draw each: the mean of |draw - mean| times sqrt(pi / 2).

    `z`, `drawn`: means of the posteriors of the label's cells, and a draw from each, `(m, d)`.
    """
    sd = np.abs(drawn - z).mean(0) * np.sqrt(np.pi / 2)
    noise = rng.standard_normal((n, z.shape[1]))
    return (z.mean(0) + sd * noise).astype(np.float32)


def variance_ratio(places: FloatArray, z: FloatArray) -> float:
    """Return the variance of simulated coordinates over that of the cells they follow; NaN if that is 0."""
    total = float(z.var(0).sum())
    return float(places.var(0).sum()) / total if total > 0 else float("nan")


def library_sizes(
    saved: SavedModel,
    plan: SimulationPlan,
    source: IntArray,
    group: IntArray,
    how: str | float,
    *,
    seed: int,
    warn: Callable[[str], None],
) -> dict[str, FloatArray]:
    """Return totals `(n,)` of modalities whose values are counts.

    Sampled ones are those of the training cell that a simulated one follows; a cell that was not measured
    in a modality takes that of another cell of its group. A modality that is missing in the result gets the
    model's median.
    """
    libraries = atlas_of(saved).library
    rng = np.random.default_rng([seed, 1_000_003])
    sizes: dict[str, FloatArray] = {}
    unknown = []
    for name in plan.modalities:
        if not is_counted(saved, name):
            continue
        if isinstance(how, float):
            sizes[name] = np.full(len(source), how, np.float32)
        elif name not in libraries:
            unknown.append(name)
        else:
            sizes[name] = _of_groups(libraries[name], plan, source, group, how, rng)
    if unknown:
        warn(
            f"the model was saved without sequencing depths for {' and '.join(unknown)}: every simulated "
            "cell gets the median depth of the training cells; a model trained with this version keeps them"
        )
    return sizes


def _of_groups(
    library: FloatArray, plan: SimulationPlan, source: IntArray, group: IntArray, how: str, rng: Generator
) -> FloatArray:
    out = library[source].copy()
    for position, one in enumerate(plan.groups):
        members = np.flatnonzero(group == position)
        measured = library[one.rows][np.isfinite(library[one.rows])]
        if not len(measured):
            # nobody of the group was measured in it
            measured = library[np.isfinite(library)]
        if how == "sampled":
            missing = members[~np.isfinite(out[members])]
            out[missing] = rng.choice(measured, len(missing))
        else:
            out[members] = np.median(measured) if how == "median" else measured.mean()
    return out
