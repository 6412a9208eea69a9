"""Pictures of cells: a UMAP of coordinates, without compilation and in seconds; cells in the tissue.

Clusters of one modality against those of another are a picture too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.bundle import Codes, FeatureMatrix, MultiOmics
from mocli.data.files.inspect import is_spatial
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import open_obsm
from mocli.data.transforms.components import signs_of
from mocli.errors import InputError
from mocli.nn.nearby import nearby
from mocli.nn.neighbors import chunks, drawn_rows
from mocli.report import featureplots, scatter
from mocli.report.html import Drawn
from mocli.tasks.run.guard import return_freed_memory
from mocli.types import CSR, BoolArray, DoubleArray, FloatArray, RowNumbers

N_NEIGHBORS = 30
MIN_DIST = 0.3
CURVE = (0.99207, 1.11221)
"""a, b of 1 / (1 + a d^2b), fitted to exp(min_dist - d) beyond a minimal distance of 0.3 (spread 1)."""
MOST_COLUMNS = 50
"""Wider coordinates are replaced by this many of their principal components."""
MOST_PLACED = 50_000
"""Most cells that are laid out; further ones are put among their nearest neighbours."""
FEW = 15
"""With fewer cells, principal components are used instead of UMAP."""
EFFORT = ((5_000, 300, 20), (20_000, 200, 10), (MOST_PLACED, 120, 10))
"""Rounds, and repelling cells drawn, up to each number of cells."""
ROWS = 2_048  # cells whose edges are looked at at a time
N_NEGATIVE = 5  # repelling cells for each attracting one, as in the paper


def layout(z: FloatArray, *, seed: int, device: str = "cpu") -> FloatArray:
    """Lay cells out in two dimensions by UMAP (McInnes et al. 2018), `(n, 2)` float32.

    The settings are those of the scMODAL paper's figures: 30 neighbours, minimal distance 0.3,
    correlation distance. The graph and the cross-entropy that is minimised are the paper's; it starts
    from principal components instead of a spectral embedding, and all cells move at once, each step
    divided by a cell's number of neighbours, instead of one edge after another. So nothing has to be
    compiled, and the same seed gives the same picture.

    `z`: coordinates, `(n, d)`, finite.
    """
    z = np.asarray(z, np.float32)
    if z.shape[1] > 2 * MOST_COLUMNS:
        z = _components(z, MOST_COLUMNS, seed=seed)
    if len(z) < FEW or np.ptp(z, axis=0).max() == 0:
        return flat(z)
    points = z - z.mean(1, keepdims=True) if z.shape[1] > 2 else z
    metric: Any = "cosine" if z.shape[1] > 2 else "euclidean"
    if len(z) <= MOST_PLACED:
        return _arrange(points, z, metric, seed=seed, device=device)
    chosen = drawn_rows(len(z), MOST_PLACED, seed=seed)
    xy = np.empty((len(z), 2), np.float32)
    xy[chosen] = _arrange(points[chosen], z[chosen], metric, seed=seed, device=device)
    return_freed_memory()
    others = np.setdiff1d(np.arange(len(z)), chosen, assume_unique=True)
    distances, neighbors = nearby(points[others], points[chosen], FEW, metric=metric, device=device)
    weight = np.exp(-distances / np.maximum(distances.mean(1, keepdims=True), 1e-12))
    xy[others] = np.einsum("nk,nkd->nd", weight / weight.sum(1, keepdims=True), xy[chosen][neighbors])
    return xy


def _arrange(points: FloatArray, z: FloatArray, metric: Any, *, seed: int, device: str) -> FloatArray:
    k = min(N_NEIGHBORS, len(points) - 1)
    distances, neighbors = nearby(points, points, k + 1, metric=metric, device=device)
    return_freed_memory()
    graph = fuzzy_graph(neighbors, distances)
    start = flat(z).astype(np.float64)
    rng = np.random.default_rng(seed)
    start *= 10 / max(float(np.abs(start).max()), 1e-12)
    start += rng.normal(scale=1e-3, size=start.shape)
    # few cells get the most: there noise is seen, and rounds are cheap
    n_rounds, n_drawn = next(plan for most, *plan in EFFORT if len(points) <= most)
    return _descend(graph, start, n_rounds, n_drawn, rng)


def fuzzy_graph(neighbors: RowNumbers, distances: FloatArray) -> CSR:
    """Return UMAP's symmetric graph of memberships in (0, 1], `(n, n)`, of nearest cells `(n, k)`.

    A neighbour at distance d has exp(-(d - rho) / sigma), rho the distance to the nearest other cell and
    sigma such that a cell's memberships sum to log2 k; of both directions a + b - a b.
    """
    n, k = neighbors.shape
    membership = np.empty((n, k))
    # some cells at a time, as the dozen arrays beside these would be the peak of a run
    for rows in chunks(n, ROWS):
        d = distances[rows].astype(np.float64)
        membership[rows] = _memberships(d, neighbors[rows] == np.arange(n)[rows, None])
    ends, others = np.arange(n + 1, dtype=np.int32) * np.int32(k), neighbors.astype(np.int32).ravel()
    directed = sparse.csr_matrix((membership.ravel(), others, ends), shape=(n, n))
    directed.eliminate_zeros()
    directed.sort_indices()
    back = directed.T.tocsr()
    parts = []
    for rows in chunks(n, ROWS):
        there, again = directed[rows], back[rows]
        parts.append((there + again - there.multiply(again)).tocsr().astype(np.float32))
    graph: CSR = sparse.vstack(parts, format="csr")
    graph.sort_indices()
    return graph


def _memberships(d: DoubleArray, is_itself: BoolArray) -> DoubleArray:
    """Return the memberships of nearest cells at distances `(n, k)`, 0 of a cell in itself."""
    n, k = d.shape
    rho = np.where(d > 0, d, np.inf).min(1)
    rho[~np.isfinite(rho)] = 0.0
    beyond = np.where(is_itself, np.inf, np.maximum(d - rho[:, None], 0.0))
    low, high = np.zeros(n), np.full(n, np.inf)
    sigma = np.ones(n)
    for _ in range(40):
        total = np.exp(-beyond / sigma[:, None]).sum(1)
        above = total > np.log2(k)
        high, low = np.where(above, sigma, high), np.where(above, low, sigma)
        sigma = np.where(np.isinf(high), 2 * sigma, (low + high) / 2)
    sigma = np.maximum(sigma, 1e-3 * np.maximum(d.mean(1), 1e-12))
    return np.exp(-beyond / sigma[:, None])


def _descend(
    graph: CSR, xy: DoubleArray, n_rounds: int, n_drawn: int, rng: np.random.Generator
) -> FloatArray:
    """Minimise the cross-entropy between memberships and 1 / (1 + a d^2b).

    Of the cells that repel one, as many as `n_drawn` are drawn anew in every round.
    """
    a, b = np.float32(CURVE[0]), np.float32(CURVE[1])
    n = len(xy)
    degree = np.maximum(np.asarray(graph.sum(1)).ravel(), 1e-3).astype(np.float32)
    share = np.float32(N_NEGATIVE / n_drawn) * degree
    x, y = (xy[:, axis].astype(np.float32) for axis in (0, 1))
    for step in range(n_rounds):
        force_x, force_y = _pull(graph, x, y)
        for _ in range(n_drawn):
            far = rng.integers(0, n, n)
            dx, dy = x - x[far], y - y[far]
            square = dx * dx + dy * dy
            push = 2 * b / ((np.float32(0.001) + square) * (1 + a * np.power(square, b)))
            force_x += share * np.clip(push * dx, -4, 4)
            force_y += share * np.clip(push * dy, -4, 4)
        rate = np.float32(0.125 * (1.0 - step / n_rounds)) / degree
        x += rate * force_x
        y += rate * force_y
    return np.stack([x, y], 1)


def _pull(graph: CSR, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the force on every cell from those that it is joined to, some cells at a time."""
    a, b = np.float32(CURVE[0]), np.float32(CURVE[1])
    force_x, force_y = np.zeros_like(x), np.zeros_like(y)
    for rows in chunks(len(x), ROWS):
        ends = graph.indptr[rows.start : rows.stop + 1]
        edges, sizes = slice(ends[0], ends[-1]), np.diff(ends)
        other = graph.indices[edges]
        dx, dy = np.repeat(x[rows], sizes) - x[other], np.repeat(y[rows], sizes) - y[other]
        square = np.maximum(dx * dx + dy * dy, np.float32(1e-12))
        power = np.power(square, b)
        # both ends of an edge move, each for both of its directions
        pull = -4 * a * b * graph.data[edges] * power / (square * (1 + a * power))
        joined = np.flatnonzero(sizes)
        if len(joined):
            first = ends[joined] - ends[0]
            force_x[rows.start + joined] = np.add.reduceat(pull * dx, first)
            force_y[rows.start + joined] = np.add.reduceat(pull * dy, first)
    return force_x, force_y


def flat(z: FloatArray) -> FloatArray:
    """Return the first two principal components, zeros where there are fewer, `(n, 2)`."""
    flat = np.zeros((len(z), 2), dtype=np.float32)
    centred = (z - z.mean(0)).astype(np.float64)
    values, axes = np.linalg.eigh(centred.T @ centred)
    leading_axes = axes[:, np.argsort(-values, kind="stable")[:2]]
    flat[:, : leading_axes.shape[1]] = centred @ (leading_axes * signs_of(leading_axes))
    return flat


def _components(z: FloatArray, n: int, *, seed: int) -> FloatArray:
    from sklearn.decomposition import PCA

    model = PCA(min(n, len(z)), svd_solver="randomized", random_state=seed)
    return np.asarray(model.fit_transform(z), dtype=np.float32)


SPATIAL = "spatial"
MOST_LEVELS = 60
"""Most levels of a column that a picture can show."""


class ObsColumns(Protocol):
    """Columns that a run adds to the obs of a modality."""

    def of_modality(self, modality: str) -> Mapping[str, object]:
        """Return columns by name."""
        ...


def tissue_coordinates(file: ModalityFile) -> FloatArray | None:
    """Return the cells' coordinates in the tissue, `(n_obs, 2)`, y upwards; None without obsm['spatial']."""
    if not is_spatial(file):
        return None
    with open_obsm(file, SPATIAL) as part:
        x = part.read()
    if x.shape[1] < 2:
        return None
    names = tuple(map(str, range(x.shape[1])))
    xy = dense_rows(FeatureMatrix(x, names), np.arange(file.n_obs))[:, :2].astype(np.float32)
    return xy * np.array([1, -1], np.float32)  # images count rows downwards


def draw_tissue(
    files: Sequence[ModalityFile], columns: Sequence[ObsColumns], warn: Callable[[str], None]
) -> list[Drawn]:
    """Draw labels, clusters and other columns of cells in the tissue.

    Coordinates that cannot be read are warned of: what was made of the cells needs none.
    """
    drawn = []
    for file in files:
        try:
            xy = tissue_coordinates(file)
        except InputError as error:
            warn(f"cells of {file.name} are not drawn in the tissue: {error.message} ({error.field})")
            continue
        if xy is None:
            continue
        shown: dict[str, object] = {}
        for column in columns:
            shown |= dict(column.of_modality(file.name))
        for title, values in shown.items():
            picture = _coloured(xy, values, title)
            if picture is not None:
                drawn.append(
                    Drawn(
                        picture,
                        f"{file.name} in the tissue, by {title}",
                        "Cells at their coordinates in obsm['spatial'].",
                        wide=False,
                    )
                )
    return drawn


def _coloured(xy: FloatArray, values: Any, title: str) -> Any:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return scatter.by_value(xy, values, title) if values.ndim == 1 else None
    codes, levels = pd.factorize(pd.Series(values, dtype=object), sort=True)
    if not 0 < len(levels) <= MOST_LEVELS:
        return None
    return scatter.by_category(xy, scatter.Category(codes.astype(np.int64), [str(v) for v in levels]))


def cluster_correlations(
    bundle: MultiOmics, clusters: Codes, *, fewest: int = 5
) -> dict[tuple[str, str], tuple[DoubleArray, list[str], list[str]]]:
    """Correlate the clusters' mean linked features of one modality with those of another.

    Returns:
        By edge: Pearson correlation over linked features `(n_source, n_target)` of the clusters that have at
        least 5 cells in a modality, and their names.
    """
    by_edge = {}
    for link in bundle.links:
        if len(link.names) < 3:
            continue
        sides = []
        for name, features in link.sides.items():
            codes = clusters.codes[bundle.cells_of(name)]
            sizes = np.bincount(codes[codes >= 0], minlength=len(clusters.levels))
            large = np.flatnonzero(sizes >= fewest)
            means = np.stack(
                [dense_rows(features, np.flatnonzero(codes == k)).mean(0, dtype=np.float64) for k in large]
            ) if len(large) else np.zeros((0, len(link.names)))  # fmt: skip
            sides.append((means, [clusters.levels[k] for k in large]))
        (x, rows), (y, columns) = sides
        if min(len(x), len(y)) < 2:
            continue
        x, y = (v - v.mean(0) for v in (x, y))
        x, y = (v - v.mean(1, keepdims=True) for v in (x, y))
        size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
        r = np.divide(x @ y.T, size, out=np.full(size.shape, np.nan), where=size > 0)
        by_edge[link.edge] = (r, rows, columns)
    return by_edge


def draw_correlations(bundle: MultiOmics, clusters: Codes) -> list[Drawn]:
    """Draw `cluster_correlations`, a heat map an edge."""
    drawn = []
    for (a, b), (r, rows, columns) in cluster_correlations(bundle, clusters).items():
        picture = featureplots.heat_map(
            r, [f"{a} {row}" for row in rows], [f"{b} {column}" for column in columns], label="correlation"
        )
        caption = (
            f"Correlation, over linked features, of each cluster's mean in {a} (rows) with that in {b} "
            "(columns), each less the mean of all clusters: red where they agree. A strong diagonal says "
            "that clusters are the same cells in both."
        )
        drawn.append(Drawn(picture, f"Clusters of {a} against clusters of {b}", caption, wide=False))
    return drawn
