"""Ways to place cells that need no model: linked features, principal components, weighted nearest neighbours.

Baselines of every integration: two use the linked features, standardised per column and scaled to unit
length, so that Euclidean neighbours are cosine neighbours; one, for cells with one set of coordinates,
principal components.

Weighted nearest neighbours (Hao et al. 2021, doi:10.1016/j.cell.2021.04.048) make one graph of several
modalities. A modality counts for a cell by how much better the cell's neighbours in that modality predict it
than its neighbours in the others do; similarities of two cells are the weighted sum over modalities.
Coordinates are the leading eigenvectors of the graph, so that metrics of coordinates apply to it. Simpler
than the published code in one place: the bandwidth of a cell is its distance to its last candidate, not to
cells that share the fewest neighbours with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.bundle import LinkedFeatures, MultiOmics
from mocli.data.transforms.components import signs_of
from mocli.nn.neighbors import chunks, knn, neighbor_mean, smooth, unit_rows
from mocli.tasks.prepare.smoothing import N_COMPONENTS, N_NEIGHBORS, own_coordinates, own_neighbors
from mocli.tasks.trained.latent import measured_together
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

SMOOTHING = 0.9
MAX_CELLS = 10_000
MAX_VALUES = 2**24
"""Most values of one modality's coordinates, cells x links: 64 MB, of which a dozen copies may exist."""
MAX_COLUMNS = 100
"""Wider coordinates are replaced by this many of their principal components."""
NARROWED = f", by the first {MAX_COLUMNS} principal components of both modalities"
DRAWN = f"at most {MAX_CELLS:,} cells of each modality (fewer above {MAX_VALUES // MAX_CELLS:,} links)"


@dataclass(frozen=True)
class Baseline:
    """Coordinates of cells that need no model.

    Attributes:
        z: By modality, or by group of cells measured in the same ones.
        joint: Coordinates of all cells in their order, where a cell has one set of them.
    """

    name: str
    title: str
    definition: str
    z: Mapping[str, FloatArray]
    joint: FloatArray | None = None


def link_baselines(
    bundle: MultiOmics,
    link: LinkedFeatures,
    rows: Mapping[str, IntArray],
    seed: int,
    places: Mapping[str, FloatArray] | None = None,
    device: str = "cpu",
) -> Iterator[Baseline]:
    """Yield link features alone, then smoothed over each modality's own neighbours, one at a time.

    Args:
        rows: Rows of each modality to place (all, or a sample where there are many).
        places: Coordinates of these cells from their own features, if they are known already.
        device: Where their neighbours are searched.
    """
    raw = {name: dense_rows(features, rows[name]) for name, features in link.sides.items()}
    narrowed = "" if len(link.names) <= MAX_COLUMNS else NARROWED
    yield Baseline(
        "link_features",
        "linked features alone",
        f"cells placed by their standardised linked features, cosine{narrowed}; {DRAWN}",
        narrow({name: unit_rows(values) for name, values in raw.items()}, seed=seed),
    )
    smoothed = {}
    for name in list(raw):
        x = (
            own_coordinates(bundle.modalities[name], rows[name], seed=seed)
            if places is None
            else places[name]
        )
        smoothed[name] = unit_rows(smooth(raw.pop(name), own_neighbors(x, device=device), SMOOTHING))
    yield Baseline(
        "smoothed_link_features",
        "linked features, smoothed",
        f"linked features averaged over the {N_NEIGHBORS} nearest cells of the same modality "
        f"(weight {SMOOTHING}), cosine{narrowed}; {DRAWN}",
        narrow(smoothed, seed=seed),
    )


def narrow(z: Mapping[str, FloatArray], *, seed: int) -> dict[str, FloatArray]:
    """Return coordinates `(n, d)` of modalities unchanged, or 100 components of more than 100 columns.

    The principal components of all modalities together: distances between them hardly change, and
    cost a tenth.
    """
    width = next(iter(z.values())).shape[1]
    joint = np.concatenate([*z.values()])
    if width <= MAX_COLUMNS or len(joint) <= MAX_COLUMNS:
        return dict(z)
    from sklearn.decomposition import PCA

    reduced = PCA(MAX_COLUMNS, svd_solver="randomized", iterated_power=3, random_state=seed).fit_transform(
        joint
    )
    parts = np.split(reduced.astype(np.float32), np.cumsum([len(x) for x in z.values()])[:-1])
    return dict(zip(z, parts, strict=True))


def component_baseline(
    bundle: MultiOmics, cells: IntArray, seed: int
) -> tuple[Baseline, dict[str, IntArray]]:
    """Place cells by the principal components of their modalities side by side, without any correction.

    Every modality has the same total variance; a cell without it gets its mean.

    Returns:
        The baseline, and the cells of each of its groups.
    """
    blocks = []
    for position, m in enumerate(bundle.modalities.values()):
        rows = bundle.rows[cells, position]
        measured = np.flatnonzero(rows >= 0)
        # standardised, hundreds of features that hardly vary would drown the others
        scores = own_coordinates(m, rows[measured], seed=seed, standardise=False)
        spread = float(np.sqrt(scores.var(0).sum())) or 1.0
        block = np.zeros((len(cells), scores.shape[1]), dtype=np.float32)
        block[measured] = scores / spread
        blocks.append(block)
    z = np.concatenate(blocks, axis=1)
    cells_of = {name: np.intersect1d(own_rows, cells) for name, own_rows in measured_together(bundle).items()}
    cells_of = {name: own_rows for name, own_rows in cells_of.items() if len(own_rows)}
    drawn = "" if len(cells) == bundle.n_cells else f"; {len(cells):,} cells drawn at random"
    base = Baseline(
        "principal_components",
        "principal components, uncorrected",
        f"at most {N_COMPONENTS} principal components of each modality, after its usual transform (counts "
        "of genes log-normalised, of proteins CLR, of peaks TF-IDF and LSI), scaled to the same total "
        f"variance, side by side; a modality that was not measured is at its mean{drawn}",
        {name: z[np.searchsorted(cells, own_rows)] for name, own_rows in cells_of.items()},
        z,
    )
    return base, cells_of


N_WEIGHTED = 20
N_CANDIDATES = 100
"""Nearest cells in each modality among which a cell finds its neighbours in all of them."""
N_DIMENSIONS = 30
PAIRS = 2**14
"""Pairs of cells whose coordinates are held at once."""
_LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class WeightedNeighbors:
    """A graph of cells.

    Attributes:
        weights: Weight of each modality for a cell, `(n, n_modalities)`; rows sum to 1.
        neighbors, similarity: Nearest cells of each cell, the nearest first, and how similar they are, `(n,
            k)`.
    """

    weights: DoubleArray
    neighbors: IntArray
    similarity: DoubleArray


def weighted_neighbors(
    points: Sequence[FloatArray],
    *,
    n_neighbors: int = N_WEIGHTED,
    n_candidates: int = N_CANDIDATES,
    device: str = "cpu",
) -> WeightedNeighbors:
    """Find the neighbours of cells by all modalities.

    `points`: for each modality `(n, d_m)`, the same cells in the same order, such as principal components.
    `device`: where neighbours within a modality are searched.
    Raises `ValueError`: the modalities have different cells, or fewer than three.
    """
    n = len(points[0])
    if n < 3 or any(len(x) != n for x in points):
        raise ValueError("weighted neighbours need the same three cells or more in every modality")
    k = min(n_neighbors, n - 1)
    doubles = (np.asarray(x, np.float64) for x in points)
    scaled = [unit_rows(x - x.mean(0)) for x in doubles]
    lists = [knn(x, x, min(max(k, n_candidates), n - 1), exclude_self=True, device=device) for x in scaled]
    nearest = [d[:, 0].astype(np.float64) for d, _ in lists]
    width = [np.maximum(d[:, -1] - d[:, 0], 1e-12).astype(np.float64) for d, _ in lists]

    def kernel(m: int, distance: DoubleArray, cells: IntArray | slice) -> DoubleArray:
        return np.exp(-np.maximum(distance - nearest[m][cells], 0) / width[m][cells])

    scores = np.empty((n, len(points)))
    near = [rows for _, rows in lists]
    for m, x in enumerate(scaled):
        affinities = [
            kernel(m, np.linalg.norm(x - neighbor_mean(x, rows[:, :k]), axis=1), slice(None)) for rows in near
        ]
        others = np.mean([value for other, value in enumerate(affinities) if other != m], axis=0)
        scores[:, m] = affinities[m] / (others + _LEAST)
    # as in the paper a softmax; bounded, so that no cell lives by one modality for a rounding error
    weights = np.exp(np.minimum(scores, 20) - np.minimum(scores, 20).max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    candidates = np.concatenate(near, axis=1)
    pairs = np.unique((np.arange(n)[:, None] * n + candidates).ravel())
    rows, columns = pairs // n, pairs % n
    similarity = np.zeros(len(pairs))
    for m, x in enumerate(scaled):
        similarity += weights[rows, m] * kernel(m, _apart(x, rows, columns), rows)
    order = np.lexsort((columns, -similarity, rows))
    starts = np.searchsorted(rows, np.arange(n))
    chosen = order[starts[:, None] + np.arange(k)]
    return WeightedNeighbors(weights, columns[chosen], similarity[chosen])


def graph_coordinates(graph: WeightedNeighbors, n_dimensions: int = N_DIMENSIONS) -> FloatArray:
    """Leading eigenvectors of the symmetric normalised graph, scaled by their eigenvalues, `(n, <= d)`.

    The first one, which is constant but for the cells' degrees, is left out.
    """
    from scipy.sparse.linalg import eigsh

    n, k = graph.neighbors.shape
    edges = (graph.similarity.ravel(), (np.repeat(np.arange(n), k), graph.neighbors.ravel()))
    directed: CSR = sparse.csr_matrix(edges, shape=(n, n))
    symmetric = (directed + directed.T) / 2
    degree = np.maximum(np.asarray(symmetric.sum(axis=1)).ravel(), 1e-12)
    half = sparse.diags(1 / np.sqrt(degree))
    d = min(n_dimensions + 1, n - 1)
    values, vectors = eigsh(half @ symmetric @ half, k=d, v0=np.sqrt(degree), which="LA")
    order = np.argsort(-values, kind="stable")[1:]
    vectors = vectors[:, order] / np.sqrt(degree)[:, None]
    vectors /= np.maximum(np.sqrt(np.square(vectors).mean(0)), 1e-12)
    return (vectors * signs_of(vectors) * np.maximum(values[order], 0)).astype(np.float32)


def _apart(x: DoubleArray, rows: IntArray, columns: IntArray) -> DoubleArray:
    """Return the distance of every pair of points of `(n, d)`, `(n_pairs,)`."""
    distance = np.empty(len(rows))
    for some in chunks(len(rows), PAIRS):
        distance[some] = np.sqrt(np.maximum(np.square(x[rows[some]] - x[columns[some]]).sum(1), 0))
    return distance
