"""What integration keeps and what it removes: scIB's metrics, and the features of each modality alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mocli.metrics.clusters import (
    ARI_BOUNDS,
    RESOLUTIONS,
    ari_best,
    graph_connectivity,
    label_widths,
    louvain,
    nmi_best,
    silhouette_batch,
    silhouette_label,
    silhouette_modality,
)
from mocli.metrics.embedding import MAX_NEIGHBORS, Embedding, neighbor_graph
from mocli.metrics.registry import Metric, Score, metric
from mocli.nn.neighbors import without_self
from mocli.types import DoubleArray, FloatArray, IntArray

BATCH, BIO = 0.4, 0.6

_OF_BATCH = (
    "graph connectivity, batch silhouette within labels and, where there are several modalities that share "
    "labels, modality silhouette within labels"
)
_OF_BIO = (
    "ARI and NMI of Louvain clusters at the best resolution, rescaled label silhouette and, where there are "
    "batches, silhouette of isolated labels"
)
_LOWEST = ARI_BOUNDS[0] / 3  # of the bio total, all else being 0

_WHICH = (
    "Isolated labels are those that occur in the fewest batches (all, if all occur in as many); cells of "
    "unknown batch count as a batch of their own. "
)


@metric(
    Embedding,
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches", "label"},
    aspect="labels",
    definition=_WHICH + "For each, (s + 1) / 2, s the mean label silhouette (ASW) of its cells; mean over "
    "isolated labels. The paper's form, the label against all other cells as one group, would be decided by "
    "these others. At most 20,000 cells, drawn at random.",
)
def silhouette_isolated(e: Embedding) -> Iterable[Score]:
    """Silhouette of isolated labels.

    Whether cell types that occur in few batches are compact and separate: 1 means so, 0.5 overlapping.

    Source: scIB, Nat Methods 2022, isolated label silhouette, as scib-metrics computes it; Multigrate,
    evaluation.
    """
    cells, widths = label_widths(e)
    label, isolated = e.joint_label[cells], isolated_labels(e)
    means = [float(widths[label == v].mean()) for v in isolated if widths is not None and v in label]
    yield Score((float(np.mean(means)) + 1) / 2 if means else math.nan, int(np.isin(label, isolated).sum()))


@metric(
    Embedding,
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches", "label"},
    aspect="labels",
    definition=_WHICH
    + "For each, the highest F1 = 2 common / (label + cluster) cells of any Louvain cluster "
    "at any resolution 0.1, 0.2 ... 2.0 (of the graph of the best-resolution ARI), among cells of known "
    "label; mean over isolated labels.",
)
def f1_isolated(e: Embedding) -> Iterable[Score]:
    """F1 of isolated labels.

    Whether cell types that occur in few batches form clusters of their own: 1 means exactly so.

    Source: scIB, Nat Methods 2022, isolated label F1.
    """
    cells, _ = neighbor_graph(e)
    label = e.joint_label[cells]
    labelled = label >= 0
    levels = np.unique(label[labelled])
    if len(levels) < 2:
        yield Score(math.nan, int(labelled.sum()))
        return
    place = np.searchsorted(levels, label[labelled])
    best = np.zeros(len(levels))
    for resolution in RESOLUTIONS:
        clusters = louvain(e, resolution)
        best = np.maximum(best, _f1(place, clusters[labelled], len(levels)).max(axis=1))
    used = best[np.isin(levels, isolated_labels(e))]
    yield Score(float(used.mean()) if len(used) else math.nan, int(labelled.sum()))


@metric(
    Embedding,
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches", "label"},
    headline=2,
    aspect="total",
    definition=f"Mean of {_OF_BATCH}. kBET and iLISI are not part of it.",
)
def scib_batch(e: Embedding) -> Iterable[Score]:
    """scIB batch total.

    How well batch effects are removed within each cell type, the mean of several metrics; 1 is best.

    Source: scIB, Nat Methods 2022; Multigrate, evaluation (its choice of metrics).
    """
    yield Score(_batch(e), _n(e))


@metric(
    Embedding,
    better="higher",
    bounds=(_LOWEST, 1.0),
    needs={"label"},
    headline=3,
    aspect="total",
    definition=f"Mean of {_OF_BIO}.",
)
def scib_bio(e: Embedding) -> Iterable[Score]:
    """scIB bio total.

    How well cell types are conserved, the mean of several metrics; 1 is best.

    Source: scIB, Nat Methods 2022; Multigrate, evaluation (its choice of metrics).
    """
    yield Score(_bio(e), _n(e))


@metric(
    Embedding,
    better="higher",
    bounds=(BIO * _LOWEST, 1.0),
    needs={"batches", "label"},
    headline=1,
    aspect="total",
)
def scib_total(e: Embedding) -> Iterable[Score]:
    """scIB total.

    Batch removal and conservation of cell types in one number; 1 is best. Use it to compare methods on the
    same data.

    0.4 scIB batch total + 0.6 scIB bio total. Batch: mean of graph connectivity, batch silhouette within
    labels and, where there are several modalities that share labels, modality silhouette within labels. Bio:
    mean of ARI and NMI of Louvain clusters at the best resolution, rescaled label silhouette and, where there
    are batches, silhouette of isolated labels.

    Source: scIB, Nat Methods 2022; Multigrate, evaluation (its choice of metrics).
    """
    yield Score(BATCH * _batch(e) + BIO * _bio(e), _n(e))


def _batch(e: Embedding) -> float:
    return _mean(e, [graph_connectivity, silhouette_batch], [silhouette_modality])


def _bio(e: Embedding) -> float:
    return _mean(e, [ari_best, nmi_best, silhouette_label], [silhouette_isolated])


def _mean(
    e: Embedding, required: Sequence[Metric[Embedding]], where_defined: Sequence[Metric[Embedding]]
) -> float:
    values = [m(e)[0].value for m in required]
    values += [v for m in where_defined if m.applies_to(e) and not math.isnan(v := m(e)[0].value)]
    return math.fsum(values) / len(values)


def _n(e: Embedding) -> int:
    return graph_connectivity(e)[0].n


def isolated_labels(e: Embedding) -> IntArray:
    """Return the codes of the labels that occur in the fewest batches, over all cells."""
    labelled = e.joint_label >= 0
    together = np.unique(np.stack([e.joint_label[labelled], e.joint_batch[labelled]]), axis=1)
    levels, n_batches = np.unique(together[0], return_counts=True)
    return levels[n_batches == n_batches.min(initial=len(together[0]))]


def _f1(label: IntArray, cluster: IntArray, n_labels: int) -> DoubleArray:
    """F1 of every label with every cluster, `(n_labels, n_clusters)`."""
    clusters = int(cluster.max(initial=0)) + 1
    common = np.bincount(label * clusters + cluster, minlength=n_labels * clusters).reshape(n_labels, -1)
    both = common.sum(axis=1, keepdims=True) + common.sum(axis=0, keepdims=True)
    return 2 * common / np.maximum(both, 1)


SHARE = 0.01
FEWEST = 15  # neighbours
MAX_ASKING = 2000  # cells whose neighbours are compared: a share is known to 0.01 by then


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"own"})
def neighbor_conservation(e: Embedding) -> Iterable[Score]:
    """Neighbour conservation.

    Share of a cell's neighbours by its own measured features that are still its neighbours after integration;
    1 keeps all, integration that removes batches or noise scores lower.

    Our reading. For a cell, the share of its k nearest cells of the same modality by that modality's own
    features (principal components) that are among its k nearest cells of that modality in the joint latent;
    k a hundredth of the cells, from 15 to 300; mean over cells, at most 2,000 cells, drawn at random, whose
    neighbours are searched among at most 20,000.

    Source: scCross, neighbor_conservation.
    """
    for name, rows, places in _own(e):
        n = len(rows)
        k = min(max(FEWEST, round(SHARE * n)), MAX_NEIGHBORS, n - 1)
        if k < 1:
            yield Score(math.nan, n, name)
            continue
        asking = np.arange(n)
        if n > MAX_ASKING:
            asking = np.random.default_rng(e.seed).choice(n, MAX_ASKING, replace=False)
        before, after = (
            without_self(e.search(x[asking], x, k + 1), asking) for x in (places, e.rows(name)[rows])
        )
        both = np.sort(np.concatenate([before, after], axis=1), axis=1)
        in_both = (both[:, 1:] == both[:, :-1]).sum(axis=1)  # within one list no cell occurs twice
        yield Score(float(in_both.mean()) / k, len(asking), name)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"own", "batches"})
def pcr_comparison(e: Embedding) -> Iterable[Score]:
    """PCR comparison.

    Part of the variation between batches that integration removed: 1 means all of it, 0 none (or more than
    before). Where batches hold different cell types, some variation must stay.

    Principal component regression over all components: the share of the total variance that lies between the
    means of the batches. (share by the modality's own features - share in the joint latent) / share by its
    own features, at least 0, of the cells of one modality; cells of unknown batch count as a batch of their
    own. At most 20,000 cells, drawn at random.

    Source: scIB, Nat Methods 2022, PCR comparison.
    """
    for name, rows, places in _own(e):
        batch = e.joint_batch[e.modality_codes == e.modalities.index(name)][rows]
        before, after = (between_share(x, batch) for x in (places, e.rows(name)[rows]))
        if len(np.unique(batch)) < 2:
            continue
        removed = (before - after) / before if before > 0 else math.nan
        yield Score(removed if math.isnan(removed) else max(0.0, removed), len(rows), name)


def between_share(x: FloatArray, group: IntArray) -> float:
    """Share of the variance of `(n, d)` that lies between groups `(n,)`; NaN where nothing varies."""
    x = x.astype(np.float64)
    x = x - x.mean(axis=0) if len(x) else x
    whole = float((x**2).sum())
    between = 0.0
    for level in np.unique(group):
        of_level = x[group == level]
        between += len(of_level) * float((of_level.mean(axis=0) ** 2).sum())
    return between / whole if whole > 0 else math.nan


def _own(e: Embedding) -> Iterator[tuple[str, IntArray, FloatArray]]:
    """Yield modality, rows and their own coordinates; at most `MAX_CELLS`."""
    for name, (rows, places) in (e.own or {}).items():
        drawn = e.draw(np.arange(len(rows)))
        yield name, np.asarray(rows)[drawn], np.asarray(places)[drawn]
