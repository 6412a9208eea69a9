"""Agreement of clusters with labels, and connectivity of labels in the k-NN graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from mocli.metrics.embedding import Embedding, Nearest, coordinate_order, neighbor_graph
from mocli.metrics.registry import Score, metric
from mocli.types import IntArray

RESOLUTIONS = tuple(round(0.1 * i, 1) for i in range(1, 21))
STARTS, LEAST_STARTS, STARTED_CELLS = 30, 4, 150_000
"""Most and least starts of k-means, between them as many as have so many cells together: of few cells the
best of few starts is a matter of chance."""

ARI_BOUNDS = (-0.5, 1.0)

_LOUVAIN = (
    "Louvain clusters (modularity, resolution {}) of the graph in which two cells are joined, with weight 1, "
    "if either is among the 15 nearest other cells of the other in the joint latent; cells of known label "
    "are compared. Above 20,000 cells the graph is of 20,000 drawn at random. "
)
_BEST = _LOUVAIN.format("0.1, 0.2 ... 2.0, the one whose NMI with the labels is highest, the lowest if equal")
_KMEANS = (
    "k-means with as many clusters as labels, best of 30 starts (4 to 30 above 5,000 cells), on the "
    "cells of known label in the joint latent; at most 20,000 cells, drawn at random. "
)
_ARI = "Adjusted Rand index of clusters and labels (Hubert and Arabie)."
_NMI = "Mutual information of clusters and labels, divided by the mean of their entropies."


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"})
def graph_connectivity(e: Embedding) -> Iterable[Score]:
    """Graph connectivity.

    Whether the cells of a type are connected in the k-NN graph: 1 if every cell reaches every other through
    neighbours of that type, low if batches or modalities split the type into islands.

    Graph in which two cells are joined if either is among the 15 nearest other cells (of all modalities,
    joint latent) of the other. For each label, cells in the largest connected component of the graph of its
    cells alone, divided by its cells; mean over labels. Above 20,000 cells the graph is of 20,000 drawn at
    random.

    Source: scIB, Nat Methods 2022; Multigrate, evaluation; scCross, graph_connectivity.
    """
    from scipy.sparse.csgraph import connected_components

    cells, graph = neighbor_graph(e)
    label = e.joint_label[cells]
    shares = []
    for level in np.unique(label[label >= 0]):
        members = np.flatnonzero(label == level)
        component = connected_components(graph[members][:, members], directed=False)[1]
        shares.append(np.bincount(component).max() / len(members))
    yield Score(float(np.mean(shares)) if shares else math.nan, int((label >= 0).sum()))


@metric(
    Embedding, better="higher", bounds=ARI_BOUNDS, needs={"label"}, definition=_LOUVAIN.format("1") + _ARI
)
def ari_louvain(e: Embedding) -> Iterable[Score]:
    """ARI, Louvain clusters.

    How well Louvain clusters at the usual resolution agree with the cell types: 1 means the same groups of
    cells, 0 chance.

    Source: scCross, Methods, ARI.
    """
    yield _score(e, lambda: louvain(e)[1.0], ari)


@metric(
    Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"}, definition=_LOUVAIN.format("1") + _NMI
)
def nmi_louvain(e: Embedding) -> Iterable[Score]:
    """NMI, Louvain clusters.

    How well Louvain clusters at the usual resolution agree with the cell types: 1 means the same groups of
    cells, 0 nothing in common.

    Source: scCross, Methods, NMI.
    """
    yield _score(e, lambda: louvain(e)[1.0], nmi)


@metric(Embedding, better="higher", bounds=ARI_BOUNDS, needs={"label"}, definition=_BEST + _ARI)
def ari_best(e: Embedding) -> Iterable[Score]:
    """ARI, best Louvain clusters.

    How well Louvain clusters at the best resolution agree with the cell types: 1 means the same groups of
    cells, 0 chance.

    Source: scIB, Nat Methods 2022; Multigrate, evaluation.
    """
    yield _score(e, lambda: _best(e), ari)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"}, definition=_BEST + _NMI)
def nmi_best(e: Embedding) -> Iterable[Score]:
    """NMI, best Louvain clusters.

    How well Louvain clusters at the best resolution agree with the cell types: 1 means the same groups of
    cells, 0 nothing in common.

    Source: scIB, Nat Methods 2022; Multigrate, evaluation; scCross, normalized_mutual_info.
    """
    yield _score(e, lambda: _best(e), nmi)


@metric(Embedding, better="higher", bounds=ARI_BOUNDS, needs={"label"}, definition=_KMEANS + _ARI)
def ari_kmeans(e: Embedding) -> Iterable[Score]:
    """ARI, k-means clusters.

    How well k-means clusters, as many as there are cell types, agree with these types: 1 means the same
    groups of cells, 0 chance.

    Source: scIB-metrics, nmi_ari_cluster_labels_kmeans.
    """
    yield _kmeans_score(e, ari)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"}, definition=_KMEANS + _NMI)
def nmi_kmeans(e: Embedding) -> Iterable[Score]:
    """NMI, k-means clusters.

    How well k-means clusters, as many as there are cell types, agree with these types: 1 means the same
    groups of cells, 0 nothing in common.

    Source: scIB-metrics, nmi_ari_cluster_labels_kmeans.
    """
    yield _kmeans_score(e, nmi)


def louvain(e: Embedding) -> dict[float, IntArray]:
    """Return the clusters `(m,)` of the cells of `neighbor_graph`, by resolution."""

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


def louvain_of(nearest: Nearest, resolution: float) -> IntArray:
    """Cluster all cells by their coordinates, as `louvain` does: codes `(n,)`, 0 the largest cluster.

    The same coordinates get the same clusters, whatever their order.
    """
    graph = nearest.joined()
    codes_found = np.zeros(len(nearest.order), np.int64)
    if graph.nnz:
        from sknetwork.clustering import Louvain

        codes_found = np.asarray(
            Louvain(resolution=resolution, modularity="newman").fit_predict(graph), np.int64
        )
    _, first, codes, sizes = np.unique(
        codes_found, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(sizes), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    clusters = np.empty(len(codes_found), np.int64)
    clusters[nearest.order] = rank[codes]
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
        labelled = label >= 0
        # rounded, so that noise in the last digit does not choose
        return max(RESOLUTIONS, key=lambda r: (round(nmi(label[labelled], louvain(e)[r][labelled]), 9), -r))

    return louvain(e)[e.share("best resolution", choose)]


def _score(
    e: Embedding, clusters: Callable[[], IntArray], compare: Callable[[IntArray, IntArray], float]
) -> Score:
    cells, _ = neighbor_graph(e)
    label = e.joint_label[cells]
    labelled = label >= 0
    # one label is found by any single cluster: no agreement to speak of
    if len(np.unique(label[labelled])) < 2:
        return Score(math.nan, int(labelled.sum()))
    return Score(compare(label[labelled], clusters()[labelled]), int(labelled.sum()))


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
        starts = max(LEAST_STARTS, min(STARTS, STARTED_CELLS // len(x)))
        return np.asarray(KMeans(k, n_init=starts, random_state=e.seed).fit_predict(x), np.int64)

    return Score(compare(label, e.share("k-means", find)), len(cells))
