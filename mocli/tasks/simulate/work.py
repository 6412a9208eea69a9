"""The steps of `mocli simulate`: latent coordinates of new cells, their batches and depths, their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from scipy import sparse

from mocli.data.files.modality import ModalityFile
from mocli.errors import UsageError, did_you_mean
from mocli.models.base import Clusters, Conditions, Draws, DrawsCoordinates, Samples
from mocli.models.registry import models_that
from mocli.nn.neighbors import chunks
from mocli.tasks.simulate.groups import (
    CellGroup,
    SimulationPlan,
    about_the_mean,
    atlas_of,
    component_shares,
    draw_sources,
    library_sizes,
    settle,
    smoothed,
    tell_groups,
    variance_ratio,
)
from mocli.tasks.simulate.options import AS_SOURCE, AVERAGE, SimulateOptions
from mocli.tasks.trained.saved import SavedModel
from mocli.train.predict import cluster_cells
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

VALUES = 2_000_000
"""Values sampled at a time.

A cell's random numbers follow from its block, so this never depends on anything else.
"""

MOST_CELLS = 1024


@dataclass(frozen=True, eq=False)
class SimulatedCells:
    """Cells before their values are drawn.

    Attributes:
        z: Latent coordinates, `(n, d)`.
        source: Training cell that each follows, a row of the atlas, `(n,)`.
        group: Group of each, `(n,)`.
        label: Code of the label, -1 for none, `(n,)`.
        batch: Code of the batch, -1 for the mean over batches, `(n,)`.
        component: Cluster of each by the model, or None.
        library: Total counts by modality, `(n,)`.
        ratios: Variance of the coordinates over that of the training cells, by group.
    """

    z: FloatArray
    source: IntArray
    group: IntArray
    label: IntArray
    batch: IntArray
    component: IntArray | None
    library: dict[str, FloatArray]
    ratios: dict[str, float]

    @property
    def n(self) -> int:
        """Number of cells."""
        return len(self.z)


@dataclass(frozen=True, eq=False)
class Simulated:
    """Simulated cells, with the model that they come from.

    `files`: input files to train on or to compare with; there may be none.
    """

    saved: SavedModel
    files: Sequence[ModalityFile]
    options: SimulateOptions
    plan: SimulationPlan
    cells: SimulatedCells


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Cells of one group: coordinates, the training cells they follow, components (-1: not drawn)."""

    z: FloatArray
    source: IntArray
    components: IntArray
    ratio: float


def place_cells(
    saved: SavedModel,
    options: SimulateOptions,
    *,
    seed: int,
    device: torch.device,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> tuple[SimulationPlan, SimulatedCells]:
    """Decide which cells to simulate, and give each its coordinates, batch and library size."""
    atlas, shares = atlas_of(saved), component_shares(saved, str(device))
    plan = settle(saved, options, shares)
    _check_batch(saved, options.batch)
    tell_groups(plan, say, warn)
    parts = []
    for position, group in enumerate(plan.groups):
        rng = np.random.default_rng([seed, position])
        if options.from_mixture:
            parts.append(_from_mixture(saved, group, shares, rng, device))
        else:
            parts.append(_from_cells(saved, group, rng, device, about_mean=options.about_mean))
    z, source = (np.concatenate([getattr(part, name) for part in parts]) for name in ("z", "source"))
    of_group = np.repeat(np.arange(len(parts)), [len(part.z) for part in parts])
    component = None
    if isinstance(saved.model, Clusters):
        components = np.concatenate([part.components for part in parts])
        component = np.where(components >= 0, components, cluster_cells(saved.model, z, device).argmax(1))
    batch = np.full(len(z), -1)
    if atlas.batch is not None and options.batch == AS_SOURCE:
        batch = atlas.batch.codes[source]
    elif atlas.batch is not None and options.batch != AVERAGE:
        batch = np.full(len(z), atlas.batch.levels.index(options.batch))
    cells = SimulatedCells(
        z=z,
        source=source,
        group=of_group,
        label=np.full(len(z), -1) if plan.labels is None else plan.labels.codes[source],
        batch=batch,
        component=component,
        library=library_sizes(saved, plan, source, of_group, options.library_size, seed=seed, warn=warn),
        ratios={group.name: part.ratio for group, part in zip(plan.groups, parts, strict=True)},
    )
    return plan, cells


def _from_cells(
    saved: SavedModel, group: CellGroup, rng: Generator, device: torch.device, *, about_mean: bool
) -> _Drawn:
    """Draw coordinates around training cells of the group, or about their mean."""
    atlas = atlas_of(saved)
    source = draw_sources(group.rows, group.n, rng)
    cloud = atlas.cloud
    if about_mean:
        if atlas.drawn is None:
            raise UsageError(
                f"{saved.description['model']} has no standard deviations of the cells' coordinates",
                field="--places",
                found="mean",
                hint="leave --places out"
                if not isinstance(saved.model, Draws)
                else "train it again with this version of mocli",
            )
        z, cloud = about_the_mean(atlas.z[group.rows], atlas.drawn[group.rows], group.n, rng), atlas.drawn
    else:
        z = smoothed(cloud[group.rows], np.searchsorted(group.rows, source), rng, device=str(device))
    return _Drawn(z, source, np.full(group.n, -1), variance_ratio(z, cloud[group.rows]))


def _from_mixture(
    saved: SavedModel, group: CellGroup, p: FloatArray | None, rng: Generator, device: torch.device
) -> _Drawn:
    """Draw components, then coordinates; all else is that of a training cell of the component."""
    model = saved.model
    if not isinstance(model, DrawsCoordinates) or p is None:
        raise UsageError(
            f"{saved.description['model']} has no mixture to draw coordinates from",
            field="--places",
            found="mixture",
            hint=f"leave --places out, or train {models_that(DrawsCoordinates)}",
        )
    shares = p[group.rows].astype(np.float64)
    if group.component is not None:
        components = np.full(group.n, group.component)
    else:
        weights = shares.mean(0)
        if group.label is None:
            weights = model.cluster_weights().detach().cpu().numpy().astype(np.float64)
        components = rng.choice(len(weights), group.n, p=weights / weights.sum())
    source = np.empty(group.n, np.int64)
    for k in np.unique(components):
        cells = np.flatnonzero(components == k)
        source[cells] = draw_sources(group.rows, len(cells), rng, _not_none(shares[:, k]))
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    with torch.inference_mode():
        drawn = model.draw_coordinates(torch.from_numpy(components).to(device), generator)
    z: FloatArray = drawn.float().cpu().numpy()
    return _Drawn(z, source, components, variance_ratio(z, atlas_of(saved).z[group.rows]))


def _check_batch(saved: SavedModel, name: str) -> None:
    batch = atlas_of(saved).batch
    if name in (AS_SOURCE, AVERAGE):
        return
    if batch is None:
        raise UsageError(
            "the model has no batches to simulate",
            field="--batch",
            found=name,
            hint="train it with --batch-key COLUMN, or leave --batch out",
        )
    if name not in batch.levels:
        raise UsageError(
            f"the model knows no batch '{name}'",
            field="--batch",
            found=name,
            expected=", ".join([AS_SOURCE, AVERAGE, *batch.levels]),
            hint=did_you_mean(name, batch.levels, "batches"),
        )


def _not_none(weights: DoubleArray) -> DoubleArray:
    """Weights, or equal ones where all are zero."""
    return weights if weights.sum() > 0 else np.ones_like(weights)


def draw_values(
    saved: SavedModel, cells: SimulatedCells, modality: str, *, seed: int, device: torch.device
) -> Iterator[CSR]:
    """Draw the values of all cells in a modality, a block of cells at a time, `(n, n_features)`."""
    if not isinstance(saved.model, Samples):
        raise TypeError(f"{saved.description['model']} declares simulate but cannot sample")
    n_vars = len(saved.recipes[modality].selected)
    size = min(MOST_CELLS, max(16, VALUES // max(n_vars, 1)))
    position = list(saved.modalities).index(modality)
    library = cells.library.get(modality)
    for number, rows in enumerate(chunks(cells.n, size)):
        state = np.random.SeedSequence([seed, position, number]).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))
        with torch.inference_mode():
            drawn = saved.model.sample(
                modality,
                torch.from_numpy(cells.z[rows]).to(device),
                _conditions(saved, cells, rows, device),
                None if library is None else torch.from_numpy(library[rows]).to(device),
                generator=generator,
            )
        yield sparse.csr_matrix(drawn.float().cpu().numpy())


def all_values(
    saved: SavedModel, cells: SimulatedCells, modality: str, *, seed: int, device: torch.device
) -> CSR:
    """Draw the values of all cells in a modality at once, `(n, n_features)`."""
    blocks = list(draw_values(saved, cells, modality, seed=seed, device=device))
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))


def _conditions(saved: SavedModel, cells: SimulatedCells, rows: slice, device: torch.device) -> Conditions:
    """Return the covariates of cells: the batch asked for, all else as in the cells they follow."""
    atlas = atlas_of(saved)
    codes = {}
    if atlas.batch is not None and (cells.batch >= 0).any():
        codes[atlas.batch.key] = torch.from_numpy(cells.batch[rows]).to(device)
    for covariate in atlas.covariates:
        codes[covariate.key] = torch.from_numpy(covariate.codes[cells.source[rows]]).to(device)
    numbers = None
    if atlas.continuous is not None:
        numbers = torch.from_numpy(atlas.continuous[cells.source[rows]]).to(device)
    return Conditions(codes, numbers)
