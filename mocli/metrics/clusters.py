"""Clusters and silhouettes: whether labels are separate, connected and found again by clustering."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

from mocli.metrics.embedding import Embedding, Nearest, coordinate_order, neighbor_graph
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks
from mocli.types import DoubleArray, FloatArray, IntArray

SIDE = 1024  # of the square of distances held at once
SAME = 1e-12  # squared distance, relative to the squared norm, that float32 coordinates cannot express


@metric(Embedding, better="higher", bounds=(-1.0, 1.0), needs={"label"})
def silhouette(e: Embedding) -> Iterable[Score]:
    """Label silhouette (ASW).

    How well cell types are separated: 1 means compact and separate, 0 overlapping, below 0 intermingled.

    Mean over cells of known label of (b - a) / max(a, b): a the mean Euclidean distance in the joint latent
    to the other cells of the label, b the smallest mean distance to the cells of another label; 0 for the
    only cell of a label; from -1 to 1, not rescaled. At most 20,000 cells, drawn at random.

    Source: scMODAL, Methods, ASW.
    """
    cells, widths = label_widths(e)
    yield Score(math.nan if widths is None else float(widths.mean()), len(cells))


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"})
def silhouette_label(e: Embedding) -> Iterable[Score]:
    """Label silhouette, rescaled.

    The label silhouette from 0 to 1: 1 means compact and separate, 0.5 overlapping.

    (s + 1) / 2, s the label silhouette (ASW).

    Source: scIB, Nat Methods 2022, label ASW; Multigrate, evaluation; scCross, avg_silhouette_width.
    """
    (raw,) = silhouette(e)
    yield Score((raw.value + 1) / 2, raw.n)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"modalities", "label"})
def silhouette_modality(e: Embedding) -> Iterable[Score]:
    """Modality silhouette within labels.

    How well the modalities overlap within each cell type: 1 means fully mixed, 0 separate.

    Within each label that several modalities have, mean over its cells of 1 - |s|, where s is the silhouette
    of the cell's modality among the cells of that label in the joint latent; mean over those labels. At most
    20,000 cells, drawn at random.

    Source: scIB, Nat Methods 2022, batch ASW, with modalities as batches.
    """
    yield _overlap(e, e.modality_codes)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"batches", "label"})
def silhouette_batch(e: Embedding) -> Iterable[Score]:
    """Batch silhouette within labels.

    How well the batches overlap within each cell type: 1 means fully mixed, 0 separate.

    As the modality silhouette within labels, of batches instead of modalities; cells of unknown batch count
    as a batch of their own.

    Source: scIB, Nat Methods 2022, batch ASW.
    """
    yield _overlap(e, e.joint_batch)


@metric(Embedding, better="higher", bounds=(0.0, 2.0), needs={"batches"})
def silhouette_batch_raw(e: Embedding) -> Iterable[Score]:
    """1 - batch silhouette over all cells.

    How well the batches overlap whatever the cell types: 1 means overlapping, 0 separate; needs no labels.

    1 - mean over cells of the silhouette of their batch in the joint latent, not rescaled: above 1 where
    batches are intermingled. Cells of unknown batch count as a batch of their own. At most 20,000 cells,
    drawn at random.

    Source: multiDGD, Methods, 1 - ASW of batches.
    """
    cells = e.draw(np.arange(len(e.joint)))
    widths = silhouette_widths(e.joint[cells], e.joint_batch[cells])
    yield Score(math.nan if widths is None else 1 - float(widths.mean()), len(cells))


def label_widths(e: Embedding) -> tuple[IntArray, DoubleArray | None]:
    """Cells of known label `(m,)` (`MAX_CELLS` drawn), and the silhouette of each; None if undefined."""
    cells = e.draw(np.flatnonzero(e.joint_label >= 0))
    return cells, e.share("label widths", lambda: silhouette_widths(e.joint[cells], e.joint_label[cells]))


def _overlap(e: Embedding, codes: IntArray) -> Score:
    cells = e.draw(np.flatnonzero(e.joint_label >= 0))
    label, group = e.joint_label[cells], codes[cells]
    means, used = [], 0
    for level in np.unique(label):
        of_level = label == level
        widths = silhouette_widths(e.joint[cells[of_level]], group[of_level])
        if widths is not None:
            means.append(float(np.mean(1 - np.abs(widths))))
            used += len(widths)
    return Score(float(np.mean(means)) if means else math.nan, used)


def silhouette_widths(x: FloatArray, groups: IntArray) -> DoubleArray | None:
    """Return the silhouette of every cell (Rousseeuw 1987), from -1 to 1.

    (b - a) / max(a, b): a the mean Euclidean distance to the other cells of its group, b the smallest
    mean distance to the cells of another; 0 for the only cell of a group.

    Args:
        x: Coordinates, `(n, d)`.
        groups: Group of each cell, `(n,)`.

    Returns:
        `(n,)`; None where it is undefined: a single group, or every cell a group of its own.
    """
    levels, group = np.unique(groups, return_inverse=True)
    if not 2 <= len(levels) < len(groups):
        return None
    size = np.bincount(group)
    total = _total_distances(x, group, len(levels))
    rows = np.arange(len(x))
    within = total[rows, group] / np.maximum(size[group] - 1, 1)
    total /= size
    total[rows, group] = np.inf
    nearest = total.min(axis=1)
    larger = np.maximum(within, nearest)
    widths: DoubleArray = np.divide(nearest - within, larger, out=np.zeros(len(x)), where=larger > 0)
    widths[size[group] == 1] = 0.0
    return widths


def _total_distances(x: FloatArray, group: IntArray, n_groups: int) -> DoubleArray:
    """Sum of the distances of each row to the rows of each group, `(n, n_groups)`.

    A distance serves both of its ends. Sums are made in float32 of at most 1,024 distances at a time.
    """
    import torch

    z = torch.as_tensor(x).double()
    z = z - z.mean(0)
    square = z.square().sum(1)
    member = torch.nn.functional.one_hot(torch.as_tensor(group), n_groups).float()
    total = torch.zeros(len(x), n_groups, dtype=torch.float64)
    for rows in chunks(len(x), SIDE):
        row_square = square[rows, None]
        for columns in chunks(rows.stop, SIDE):
            d = torch.addmm(square[columns], z[rows], z[columns].T, alpha=-2.0).add_(row_square)
            d = d.masked_fill_(d <= SAME * row_square, 0.0).float().sqrt_()
            total[rows] += d @ member[columns]
            if columns.start < rows.start:
                total[columns] += d.T @ member[rows]
    return total.numpy()


RESOLUTIONS = tuple(round(0.1 * i, 1) for i in range(1, 21))
FIRST_RESOLUTIONS = (*RESOLUTIONS[:1], *RESOLUTIONS[1::2])
EVERY_RESOLUTION = 5_000
"""Cells up to which all resolutions are tried for the best one; of more only the first ones are, and then
those beside the best of them."""
STARTS, LEAST_STARTS, STARTED_CELLS = 30, 4, 150_000
"""Most and least starts of k-means, between them as many as have so many cells together: of few cells the
best of few starts is a matter of chance."""

ARI_BOUNDS = (-0.5, 1.0)

_LOUVAIN = (
    "Louvain clusters (modularity, resolution {}) of the graph in which two cells are joined, with weight 1, "
    "if either is among the 15 nearest other cells of the other in the joint latent; cells of known label "
    "are compared. Above 20,000 cells the graph is of 20,000 drawn at random. "
)
_BEST = _LOUVAIN.format(
    "0.1, 0.2 ... 2.0, the one whose NMI with the labels is highest, the lowest if equal; above "
    f"{EVERY_RESOLUTION:,} cells the best of 0.1, 0.2, 0.4 ... 2.0 and of the two beside that one"
)
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
    yield _score(e, lambda: louvain(e, 1.0), ari)


@metric(
    Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"}, definition=_LOUVAIN.format("1") + _NMI
)
def nmi_louvain(e: Embedding) -> Iterable[Score]:
    """NMI, Louvain clusters.

    How well Louvain clusters at the usual resolution agree with the cell types: 1 means the same groups of
    cells, 0 nothing in common.

    Source: scCross, Methods, NMI.
    """
    yield _score(e, lambda: louvain(e, 1.0), nmi)


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


def louvain(e: Embedding, resolution: float) -> IntArray:
    """Return the clusters `(m,)` of the cells of `neighbor_graph` at a resolution."""

    def find() -> IntArray:
        cells, graph = neighbor_graph(e)
        if graph.nnz == 0:
            return np.arange(len(cells))
        from sknetwork.clustering import Louvain

        # in the order of the graph, whatever the file's. The library's Leiden refines clusters by the
        # C library's rand(), which no seed of ours reaches: the same latent would get other scores
        return np.asarray(Louvain(resolution=resolution, modularity="newman").fit_predict(graph), np.int64)

    return e.share(("louvain", resolution), find)


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

        @cache
        def agreement(resolution: float) -> tuple[float, float]:
            # rounded, so that noise in the last digit does not choose
            return round(nmi(label[labelled], louvain(e, resolution)[labelled]), 9), -resolution

        if len(cells) <= EVERY_RESOLUTION:
            return max(RESOLUTIONS, key=agreement)
        at = RESOLUTIONS.index(max(FIRST_RESOLUTIONS, key=agreement))
        return max(RESOLUTIONS[max(at - 1, 0) : at + 2], key=agreement)

    return louvain(e, e.share("best resolution", choose))


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
