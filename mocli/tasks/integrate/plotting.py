"""What people plot of cells in a latent: UMAP coordinates, the k-NN graph, the picture of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from mocli.data.bundle import Codes, MultiOmics
from mocli.nn.neighbors import nearby
from mocli.report.html import Layout
from mocli.tasks.score.describe import depth_of
from mocli.tasks.score.picture import fuzzy_graph, layout
from mocli.tasks.trained.latent import Latent
from mocli.types import CSR, FloatArray

MAX_PICTURE = 10_000
"""Cells drawn in the picture; more would only overlap."""

N_NEIGHBORS = 15


def neighbor_graph(z: FloatArray, *, device: str = "cpu") -> tuple[CSR, CSR]:
    """Return distances to the 15 nearest cells, and UMAP's memberships of cells so joined, `(n, n)` each.

    Cells without coordinates (NaN) have no neighbours.
    """
    n = len(z)
    known = np.flatnonzero(np.isfinite(z).all(1))
    k = min(N_NEIGHBORS, len(known) - 1)
    if k < 1:
        empty: CSR = sparse.csr_matrix((n, n), dtype=np.float32)
        return empty, empty.copy()
    apart, near = nearby(z[known], z[known], k + 1, device=device)
    rows = np.repeat(np.arange(len(known)), k + 1)
    others = rows != near.ravel()
    placed = known[rows[others]], known[near.ravel()[others]]
    distances = sparse.csr_matrix((apart.ravel()[others].astype(np.float32), placed), shape=(n, n))
    graph = fuzzy_graph(near, apart).tocoo()
    joined = (known[graph.row], known[graph.col])
    return distances, sparse.csr_matrix((graph.data.astype(np.float32), joined), shape=(n, n))


def lay_out(latent: Latent, bundle: MultiOmics, *, seed: int) -> FloatArray:
    """Return UMAP coordinates of every point, `(n, 2)`, in the order of the latent's groups."""
    return layout(np.concatenate([group.z for group in latent.groups(bundle).values()]), seed=seed)


def split_points(
    xy: FloatArray, latent: Latent, bundle: MultiOmics, names: Mapping[str, str]
) -> dict[str, FloatArray]:
    """Give every row of a modality its coordinates, `(n_obs, 2)` by the file's name of the modality."""
    groups = latent.groups(bundle)
    ends = np.cumsum([len(group.z) for group in groups.values()])
    parts = dict(zip(groups, np.split(xy, ends[:-1]), strict=True))
    if latent.joint is None:
        return {names[name]: part for name, part in parts.items()}
    whole = np.full((bundle.n_cells, 2), np.nan, np.float32)
    for name, part in parts.items():
        whole[groups[name].cells] = part
    return {own: whole[bundle.cells_of(name)] for name, own in names.items()}


def draw_cells(
    bundle: MultiOmics,
    latent: Latent,
    clusters: Codes | None = None,
    xy: FloatArray | None = None,
    *,
    seed: int,
) -> Layout:
    """Return the picture of an integration; `xy` are the coordinates of all points where they are known."""
    groups = latent.groups(bundle)
    sizes = [len(group.cells) for group in groups.values()]
    which, cells = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([g.cells for g in groups.values()])
    n = sum(sizes)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(n, MAX_PICTURE, replace=False)) if n > MAX_PICTURE else np.arange(n)
    categories: dict[str, Any] = {}
    if len(groups) > 1 or latent.joint is None:
        categories["modality"] = (which[chosen], tuple(groups))
    for title, codes in (("label", bundle.label), ("batch", bundle.batch), ("cluster", clusters)):
        if codes is not None:
            categories[title] = (codes.codes[cells[chosen]], codes.levels)
    values: dict[str, FloatArray] = {}
    for name, m in bundle.modalities.items():
        depth = depth_of(m)
        if depth is not None:
            of_cells = np.full(bundle.n_cells, np.nan, np.float32)
            of_cells[bundle.cells_of(name)] = depth
            mine = (
                np.ones(len(chosen), bool)
                if latent.joint is not None
                else which[chosen] == list(groups).index(name)
            )
            values[f"counts of {name}, log10"] = np.where(mine, of_cells[cells[chosen]], np.nan)
    if xy is None:
        xy = layout(np.concatenate([g.z for g in groups.values()])[chosen], seed=seed)
    else:
        xy = xy[chosen]
    title = "UMAP of the latent" + ("" if len(chosen) == n else f", {len(chosen):,} of {n:,} cells")
    if latent.joint is not None:
        return Layout(title, xy, categories, values, points="One point a cell, whatever was measured of it")
    return Layout(title, xy, categories, values)
