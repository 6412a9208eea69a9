"""The graph of nearest cells, and graph connectivity: whether a cell type hangs together in it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.embedding import Embedding, without_self
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mocli.types import CSR, BoolArray, IntArray

NEIGHBORS = 15


@metric(
    name="graph_connectivity",
    title="Graph connectivity",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"label"},
    sentence="Whether the cells of a type hang together: 1 if one can walk from each to each over near "
    "cells of that type, low if batches or modalities break the type into islands.",
    definition="Graph in which two cells are joined if either is among the 15 nearest other cells (of all "
    "modalities, joint latent) of the other. For each label, cells in the largest connected component of "
    "the graph of its cells alone, divided by its cells; mean over labels. Above 20,000 cells the graph is "
    "of 20,000 drawn at random.",
    section="scIB, Nat Methods 2022; Multigrate, evaluation; scCross, graph_connectivity",
)
def graph_connectivity(e: Embedding) -> Iterable[Score]:
    """Score all labelled cells together."""
    from scipy.sparse.csgraph import connected_components

    cells, graph = neighbor_graph(e)
    label = e.joint_label[cells]
    shares = []
    for level in np.unique(label[label >= 0]):
        members = np.flatnonzero(label == level)
        component = connected_components(graph[members][:, members], directed=False)[1]
        shares.append(np.bincount(component).max() / len(members))
    yield Score(float(np.mean(shares)) if shares else math.nan, int((label >= 0).sum()))


def neighbor_graph(e: Embedding) -> tuple[IntArray, CSR]:
    """Return cells (all, or `MAX_CELLS` drawn) and which of them are near each other.

    Returns
    -------
    Rows of the joint latent, `(m,)`, in an order that depends on the coordinates alone (as what
    follows may depend on it), and the symmetric graph of 0 and 1, `(m, m)`.
    """

    def build() -> tuple[IntArray, CSR]:
        cells, lists = e.neighbors
        members = np.zeros(len(e.joint), bool)
        members[cells] = True
        near = lists[:, :NEIGHBORS].astype(np.int64)
        if len(cells) < len(e.joint):
            near = nearest_among(e, np.arange(len(cells)), members, NEIGHBORS)
        order = coordinate_order(e, cells)
        place = np.empty(len(e.joint), np.int64)
        place[cells[order]] = np.arange(len(cells))
        return cells[order], joined(place[near[order]])

    return e.share("neighbor graph", build)


def joined(near: IntArray) -> CSR:
    """Return the symmetric graph of 0 and 1 in which each of m is joined to those it lists, `(m, k)`."""
    from scipy.sparse import csr_matrix

    m, k = near.shape
    ends = np.arange(m + 1) * k
    directed = csr_matrix((np.ones(near.size), near.ravel(), ends), shape=(m, m))
    graph = directed.maximum(directed.T).tocsr()
    graph.sort_indices()
    return graph


def coordinate_order(e: Embedding, cells: IntArray) -> IntArray:
    """Positions that sort rows of the joint latent by coordinate, so that file order does not matter."""
    order: IntArray = np.lexsort(e.joint[cells].T[::-1]) if e.joint.shape[1] else np.arange(len(cells))
    return order


def nearest_among(e: Embedding, asking: IntArray, members: BoolArray, k: int) -> IntArray:
    """Nearest other members of every asking cell, from the shared neighbours where these suffice.

    Parameters
    ----------
    asking
        `(m,)` positions in the cells of `e.neighbors`; each is a member itself.
    members
        `(n,)` over the joint latent.
    k
        At most 300, or the other members if fewer.

    Returns
    -------
    Rows of the joint latent, `(m, k)`, nearest first.
    """
    cells, lists = e.neighbors
    candidates = np.flatnonzero(members)
    k = max(0, min(k, len(candidates) - 1))
    found = np.empty((len(asking), k), np.int64)
    for rows in chunks(len(asking), 2048):
        own = asking[rows]
        hits = members[lists[own]]
        first = np.argsort(~hits, axis=1, kind="stable")[:, :k]
        found[rows] = np.take_along_axis(lists[own], first, axis=1)
        short = np.flatnonzero(hits.sum(axis=1) < k)
        if len(short):
            asked = cells[own[short]]
            places = e.search(e.joint[asked], e.joint[candidates], k + 1)
            found[rows.start + short] = without_self(candidates[places], asked)
    return found
