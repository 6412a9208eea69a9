"""Clusters against labels: whether grouping the cells by their places alone finds the cell types."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.embedding import Embedding
from mocli.metrics.graph import NEIGHBORS, coordinate_order, joined, neighbor_graph
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mocli.types import FloatArray, IntArray

RESOLUTIONS = tuple(round(0.1 * i, 1) for i in range(1, 21))
STARTS = 4
ARI_BOUNDS = (-0.5, 1.0)

_LOUVAIN = (
    "Louvain clusters (modularity, resolution {}) of the graph in which two cells are joined, with weight 1, "
    "if either is among the 15 nearest other cells of the other in the joint latent; cells of known label "
    "are compared. Above 20,000 cells the graph is of 20,000 drawn at random. "
)
_BEST = _LOUVAIN.format("0.1, 0.2 ... 2.0, the one whose NMI with the labels is highest, the lowest if equal")
_KMEANS = (
    "k-means with as many clusters as labels, best of 4 starts, on the cells of known label in the joint "
    "latent; at most 20,000 cells, drawn at random. "
)
_ARI = "Adjusted Rand index of clusters and labels (Hubert and Arabie)."
_NMI = "Mutual information of clusters and labels, divided by the mean of their entropies."
_ARI_WORDS = "1 is the same groups of cells, 0 is chance."
_NMI_WORDS = "1 is the same groups of cells, 0 is none in common."


@metric(
    name="ari_louvain",
    title="ARI, Louvain clusters",
    better="higher",
    bounds=ARI_BOUNDS,
    needs={"label"},
    sentence=f"Whether clusters at the usual resolution are the cell types. {_ARI_WORDS}",
    definition=_LOUVAIN.format("1") + _ARI,
    section="scCross, Methods, ARI",
)
def ari_louvain(e: Embedding) -> Iterable[Score]:
    """Score the clusters at resolution 1."""
    yield _score(e, lambda: louvain(e)[1.0], ari)


@metric(
    name="nmi_louvain",
    title="NMI, Louvain clusters",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"label"},
    sentence=f"Whether clusters at the usual resolution are the cell types. {_NMI_WORDS}",
    definition=_LOUVAIN.format("1") + _NMI,
    section="scCross, Methods, NMI",
)
def nmi_louvain(e: Embedding) -> Iterable[Score]:
    """Score the clusters at resolution 1."""
    yield _score(e, lambda: louvain(e)[1.0], nmi)


@metric(
    name="ari_best",
    title="ARI, best Louvain clusters",
    better="higher",
    bounds=ARI_BOUNDS,
    needs={"label"},
    sentence=f"Whether some resolution of clustering finds the cell types. {_ARI_WORDS}",
    definition=_BEST + _ARI,
    section="scIB, Nat Methods 2022; Multigrate, evaluation",
)
def ari_best(e: Embedding) -> Iterable[Score]:
    """Score the clusters at the resolution of the best NMI."""
    yield _score(e, lambda: _best(e), ari)


@metric(
    name="nmi_best",
    title="NMI, best Louvain clusters",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"label"},
    sentence=f"Whether some resolution of clustering finds the cell types. {_NMI_WORDS}",
    definition=_BEST + _NMI,
    section="scIB, Nat Methods 2022; Multigrate, evaluation; scCross, normalized_mutual_info",
)
def nmi_best(e: Embedding) -> Iterable[Score]:
    """Score the clusters at the resolution of the best NMI."""
    yield _score(e, lambda: _best(e), nmi)


@metric(
    name="ari_kmeans",
    title="ARI, k-means clusters",
    better="higher",
    bounds=ARI_BOUNDS,
    needs={"label"},
    sentence=f"Whether as many round clusters as there are cell types are these types. {_ARI_WORDS}",
    definition=_KMEANS + _ARI,
    section="scIB-metrics, nmi_ari_cluster_labels_kmeans",
)
def ari_kmeans(e: Embedding) -> Iterable[Score]:
    """Score k-means clusters."""
    yield _kmeans_score(e, ari)


@metric(
    name="nmi_kmeans",
    title="NMI, k-means clusters",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"label"},
    sentence=f"Whether as many round clusters as there are cell types are these types. {_NMI_WORDS}",
    definition=_KMEANS + _NMI,
    section="scIB-metrics, nmi_ari_cluster_labels_kmeans",
)
def nmi_kmeans(e: Embedding) -> Iterable[Score]:
    """Score k-means clusters."""
    yield _kmeans_score(e, nmi)


def louvain(e: Embedding) -> dict[float, IntArray]:
    """Clusters `(m,)` of the cells of `neighbor_graph`, by resolution."""

    def find() -> dict[float, IntArray]:
        cells, graph = neighbor_graph(e)
        if graph.nnz == 0:
            return dict.fromkeys(RESOLUTIONS, np.arange(len(cells)))
        from sknetwork.clustering import Louvain

        # in the order of the graph, whatever the file's. The library's Leiden refines clusters by the
        # C library's rand(), which no seed of ours reaches: the same latent would get other scores
        return {
            r: np.asarray(Louvain(resolution=r, modularity="newman").fit_predict(graph), np.int64)
            for r in RESOLUTIONS
        }

    return e.share("louvain", find)


def louvain_of(z: FloatArray, resolution: float, *, device: str = "cpu") -> IntArray:
    """Cluster places `(n, d)`, all of them, as `louvain` does: codes `(n,)`, 0 the largest cluster.

    The same places get the same clusters, whatever their order.
    """
    e = Embedding({"cells": z}, device=device)
    order = coordinate_order(e, np.arange(len(z)))
    x = e.joint[order]
    graph = joined(knn(x, x, NEIGHBORS, exclude_self=True, device=device)[1])
    found = np.zeros(len(z), np.int64)
    if graph.nnz:
        from sknetwork.clustering import Louvain

        found = np.asarray(Louvain(resolution=resolution, modularity="newman").fit_predict(graph), np.int64)
    _, first, codes, sizes = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    clusters = np.empty(len(z), np.int64)
    clusters[order] = rank[codes]
    return clusters


def ari(label: IntArray, cluster: IntArray) -> float:
    """Return the adjusted Rand index."""
    from sklearn.metrics import adjusted_rand_score

    return float(np.clip(adjusted_rand_score(label, cluster), *ARI_BOUNDS))


def nmi(label: IntArray, cluster: IntArray) -> float:
    """Return the normalised mutual information, by the arithmetic mean of the entropies."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(np.clip(normalized_mutual_info_score(label, cluster), 0.0, 1.0))


def _best(e: Embedding) -> IntArray:
    def choose() -> float:
        cells, _ = neighbor_graph(e)
        label = e.joint_label[cells]
        known = label >= 0
        # rounded, so that noise in the last digit does not choose
        return max(RESOLUTIONS, key=lambda r: (round(nmi(label[known], louvain(e)[r][known]), 9), -r))

    return louvain(e)[e.share("best resolution", choose)]


def _score(
    e: Embedding, clusters: Callable[[], IntArray], compare: Callable[[IntArray, IntArray], float]
) -> Score:
    cells, _ = neighbor_graph(e)
    label = e.joint_label[cells]
    known = label >= 0
    # one label is found by any single cluster: no agreement to speak of
    if len(np.unique(label[known])) < 2:
        return Score(math.nan, int(known.sum()))
    return Score(compare(label[known], clusters()[known]), int(known.sum()))


def _kmeans_score(e: Embedding, compare: Callable[[IntArray, IntArray], float]) -> Score:
    cells = e.draw(np.flatnonzero(e.joint_label >= 0))
    cells = cells[coordinate_order(e, cells)]
    label = e.joint_label[cells]
    if len(np.unique(label)) < 2:
        return Score(math.nan, len(cells))

    def find() -> IntArray:
        from sklearn.cluster import KMeans

        x = e.joint[cells]
        k = min(len(np.unique(label)), len(np.unique(x, axis=0)))
        return np.asarray(KMeans(k, n_init=STARTS, random_state=e.seed).fit_predict(x), np.int64)

    return Score(compare(label, e.share("k-means", find)), len(cells))
