"""Weighted nearest neighbours: one graph of several modalities, and how informative each is for a cell.

Hao et al. 2021 (doi:10.1016/j.cell.2021.04.048). A modality counts for a cell by how much better the cell's
neighbours in that modality predict it than its neighbours in the others do; similarities of two cells are
the weighted sum over modalities. Coordinates are the leading eigenvectors of the graph, so that metrics of
coordinates apply to it. Simpler than the published code in one place: the bandwidth of a cell is its
distance to its last candidate, not to cells that share the fewest neighbours with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mocli.data.transforms.components import signs_of
from mocli.nn.neighbors import chunks, knn, neighbor_mean, unit_rows
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

N_NEIGHBORS = 20
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
    n_neighbors: int = N_NEIGHBORS,
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
