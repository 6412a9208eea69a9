"""Isolated labels: whether a cell type that few batches have keeps a place of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.clusters import louvain
from mocli.metrics.graph import neighbor_graph
from mocli.metrics.registry import Score, metric
from mocli.metrics.silhouette import label_widths

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mocli.metrics.embedding import Embedding
    from mocli.types import DoubleArray, IntArray

_WHICH = (
    "Isolated labels are those that occur in the fewest batches (all, if all occur in as many); cells of "
    "unknown batch count as a batch of their own. "
)


@metric(
    name="silhouette_isolated",
    title="Silhouette of isolated labels",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches", "label"},
    aspect="labels",
    sentence="Whether cell types that few batches have are compact and apart: 1 is so, 0.5 is overlapping.",
    definition=_WHICH + "For each, (s + 1) / 2, s the mean label silhouette (ASW) of its cells; mean over "
    "isolated labels. The paper's form, the label against all other cells as one group, would be decided by "
    "these others. At most 20,000 cells, drawn at random.",
    section="scIB, Nat Methods 2022, isolated label silhouette, as scib-metrics computes it; Multigrate, "
    "evaluation",
)
def silhouette_isolated(e: Embedding) -> Iterable[Score]:
    """Score the labels of the fewest batches together."""
    cells, widths = label_widths(e)
    label, isolated = e.joint_label[cells], isolated_labels(e)
    means = [float(widths[label == v].mean()) for v in isolated if widths is not None and v in label]
    yield Score((float(np.mean(means)) + 1) / 2 if means else math.nan, int(np.isin(label, isolated).sum()))


@metric(
    name="f1_isolated",
    title="F1 of isolated labels",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches", "label"},
    aspect="labels",
    sentence="Whether cell types that few batches have come out as clusters of their own: 1 is exactly so.",
    definition=_WHICH
    + "For each, the highest F1 = 2 common / (label + cluster) cells of any Louvain cluster "
    "at any resolution 0.1, 0.2 ... 2.0 (of the graph of the best-resolution ARI), among cells of known "
    "label; mean over isolated labels.",
    section="scIB, Nat Methods 2022, isolated label F1",
)
def f1_isolated(e: Embedding) -> Iterable[Score]:
    """Score the labels of the fewest batches together."""
    cells, _ = neighbor_graph(e)
    label = e.joint_label[cells]
    known = label >= 0
    levels = np.unique(label[known])
    if len(levels) < 2:
        yield Score(math.nan, int(known.sum()))
        return
    place = np.searchsorted(levels, label[known])
    best = np.zeros(len(levels))
    for clusters in louvain(e).values():
        best = np.maximum(best, _f1(place, clusters[known], len(levels)).max(axis=1))
    used = best[np.isin(levels, isolated_labels(e))]
    yield Score(float(used.mean()) if len(used) else math.nan, int(known.sum()))


def isolated_labels(e: Embedding) -> IntArray:
    """Codes of the labels that occur in the fewest batches, of all cells."""
    known = e.joint_label >= 0
    together = np.unique(np.stack([e.joint_label[known], e.joint_batch[known]]), axis=1)
    levels, n_batches = np.unique(together[0], return_counts=True)
    fewest: IntArray = levels[n_batches == n_batches.min(initial=len(together[0]))]
    return fewest


def _f1(label: IntArray, cluster: IntArray, n_labels: int) -> DoubleArray:
    """F1 of every label with every cluster, `(n_labels, n_clusters)`."""
    clusters = int(cluster.max(initial=0)) + 1
    common = np.bincount(label * clusters + cluster, minlength=n_labels * clusters).reshape(n_labels, -1)
    both = common.sum(axis=1, keepdims=True) + common.sum(axis=0, keepdims=True)
    f1: DoubleArray = 2 * common / np.maximum(both, 1)
    return f1
