"""Plots of cells in the latent: UMAP coordinates, the k-NN graph, the picture of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse

from mocli.data.bundle import Codes, MultiOmics
from mocli.metrics.embedding import Nearest
from mocli.models.base import HasCovariateSpaces, Model
from mocli.nn.neighbors import drawn_rows
from mocli.report import scatter
from mocli.report.html import Drawn, Layout
from mocli.tasks.integrate.carried import UNKNOWN, CarriedPoints
from mocli.tasks.score.cellcolumns import cells_of_files
from mocli.tasks.score.describe import depth_of
from mocli.tasks.score.picture import flat, fuzzy_graph, layout
from mocli.tasks.trained.latent import Latent
from mocli.train.predict import place_covariates
from mocli.types import CSR, FloatArray

MAX_PICTURE = 10_000
"""Cells drawn in the picture; more would only overlap."""


def neighbor_graph(z: FloatArray, nearest: Nearest | None = None, *, device: str = "cpu") -> tuple[CSR, CSR]:
    """Return distances to the 15 nearest cells, and UMAP's memberships of these edges, `(n, n)` each.

    Cells without coordinates (NaN) have no neighbours.

    `nearest`: neighbours of these coordinates in any order, if they were searched before.
    """
    n, finite = len(z), np.flatnonzero(np.isfinite(z).all(1))
    if len(finite) < 2:
        empty: CSR = sparse.csr_matrix((n, n), dtype=np.float32)
        return empty, empty.copy()
    lists = (nearest and nearest.among(z[finite])) or Nearest.of(z[finite], device=device)
    where = finite[lists.order]
    rows = np.repeat(np.arange(len(finite)), lists.neighbors.shape[1])
    others = rows != lists.neighbors.ravel()
    pairs = where[rows[others]], where[lists.neighbors.ravel()[others]]
    distances = sparse.csr_matrix((lists.distances.ravel()[others].astype(np.float32), pairs), shape=(n, n))
    graph = fuzzy_graph(lists.neighbors, lists.distances).tocoo()
    joined = (where[graph.row], where[graph.col])
    return distances, sparse.csr_matrix((graph.data.astype(np.float32), joined), shape=(n, n))


def lay_out(
    latent: Latent, bundle: MultiOmics, around: FloatArray | None = None, *, seed: int, device: str = "cpu"
) -> FloatArray:
    """Return UMAP coordinates of every point in the order of the latent's groups, after those of `around`.

    `around`: further coordinates that are laid out with them, `(m, d)`.
    """
    z = latent.points(bundle).z
    return layout(z if around is None else np.concatenate([around, z]), seed=seed, device=device)


def split_points(
    xy: FloatArray, latent: Latent, bundle: MultiOmics, names: Mapping[str, str]
) -> dict[str, FloatArray]:
    """Give every row of a modality its coordinates, `(n_obs, 2)` by the file's name of the modality."""
    if latent.joint is None:
        ends = np.cumsum([len(z) for z in latent.by_modality.values()])
        parts = zip(latent.by_modality, np.split(xy, ends[:-1]), strict=True)
        return {names[name]: part for name, part in parts}
    whole = np.full((bundle.n_cells, 2), np.nan, np.float32)
    whole[latent.points(bundle).cells] = xy
    return {file_name: whole[rows] for file_name, rows in cells_of_files(bundle, names).items()}


def draw_covariates(model: Model, bundle: MultiOmics, device: torch.device, *, seed: int) -> list[Drawn]:
    """Draw where cells lie in the space of each covariate, coloured by its levels, where a model has such.

    A cell of a level that the model does not know lies where its counts are described best.
    """
    if not isinstance(model, HasCovariateSpaces):
        return []
    rows = drawn_rows(bundle.n_cells, MAX_PICTURE, seed=seed)
    spaces = place_covariates(model, bundle, device)
    return [
        Drawn(
            scatter.by_category(
                flat(c[rows]) if c.shape[1] > 2 else c[rows],
                scatter.Category(codes.codes[rows], codes.levels),
                seed=seed,
            ),
            f"Cells in the space of {codes.key}",
            "The part of a cell's coordinates that is the covariate's own"
            + (", its first two principal components." if c.shape[1] > 2 else ", both dimensions."),
            wide=False,
        )
        for codes in bundle.categorical
        if (c := spaces.get(codes.key)) is not None and c.shape[1] > 1
    ]


def draw_cells(
    bundle: MultiOmics,
    latent: Latent,
    clusters: Codes | None = None,
    xy: FloatArray | None = None,
    carried: Sequence[CarriedPoints] = (),
    *,
    seed: int,
    device: str = "cpu",
) -> Layout:
    """Return the picture of an integration.

    Args:
        xy: Coordinates of all points, where they are known.
        carried: Labels that points got from others, or had.
    """
    groups = latent.groups(bundle)
    z, cells = latent.points(bundle)
    group_of_point, n = np.repeat(np.arange(len(groups)), [len(g.cells) for g in groups.values()]), len(z)
    chosen = drawn_rows(n, MAX_PICTURE, seed=seed)
    categories: dict[str, Any] = {}
    if len(groups) > 1 or latent.joint is None:
        categories["modality"] = (group_of_point[chosen], tuple(groups))
    for title, codes in (("label", bundle.label), ("batch", bundle.batch), ("cluster", clusters)):
        if codes is not None:
            categories[title] = (codes.codes[cells[chosen]], codes.levels)
    values: dict[str, FloatArray] = {}
    for got in carried:
        codes_of = np.where(got.codes < 0, len(got.levels), got.codes)
        categories[f"label ({got.name}, transferred)"] = (codes_of[chosen], (*got.levels, UNKNOWN))
        values[f"confidence, {got.name}"] = got.confidence[chosen]
        values[f"mapping score, {got.name}"] = got.mapping[chosen]
    for name, m in bundle.modalities.items():
        depth = depth_of(m)
        if depth is not None:
            of_cells = np.full(bundle.n_cells, np.nan, np.float32)
            of_cells[bundle.cells_of(name)] = depth
            of_modality = (
                np.ones(len(chosen), bool)
                if latent.joint is not None
                else group_of_point[chosen] == list(groups).index(name)
            )
            values[f"counts of {name}, log10"] = np.where(of_modality, of_cells[cells[chosen]], np.nan)
    xy = layout(z[chosen], seed=seed, device=device) if xy is None else xy[chosen]
    title = "UMAP of the latent" + ("" if len(chosen) == n else f", {len(chosen):,} of {n:,} cells")
    if latent.joint is not None:
        return Layout(
            title, xy, categories, values, points="One point for each cell, whatever was measured in it"
        )
    return Layout(title, xy, categories, values)
