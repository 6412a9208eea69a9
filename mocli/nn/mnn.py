"""Mutual nearest neighbours, and the correction of one set of cells towards another that they give.

Haghverdi et al. 2018 (doi:10.1038/nbt.4091): pairs of cells that are among each other's k nearest say how
far apart the sets lie where both have such cells; a cell moves by the mean of the pairs' vectors, weighted
by a Gaussian of its distance to them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mocli.nn.neighbors import chunks, knn
from mocli.types import FloatArray, IntArray

ROWS = 2048


class Correction(NamedTuple):
    """Corrected rows `(n, d)`, and the number of mutual pairs they rest on."""

    values: FloatArray
    n_pairs: int


def mutual_pairs(a: FloatArray, b: FloatArray, k: int) -> tuple[IntArray, IntArray]:
    """Return rows of `a` and of `b`, `(n_pairs,)` each, that are among each other's k nearest by cosine.

    Rows of zeros take no part.
    """
    there = knn(a, b, k, metric="cosine")[1]
    back = knn(b, a, k, metric="cosine")[1]
    forth = np.repeat(np.arange(len(a)), there.shape[1]) * len(b) + there.ravel()
    home = back.ravel() * len(b) + np.repeat(np.arange(len(b)), back.shape[1])
    both = np.intersect1d(forth, home)
    i, j = both // max(len(b), 1), both % max(len(b), 1)
    usable = a[i].any(1) & b[j].any(1)
    return i[usable], j[usable]


def mnn_correct(
    reference: FloatArray, query: FloatArray, k: int, *, bandwidth: float = 1.0, rounds: int = 2
) -> Correction:
    """Move the query onto the reference by their mutual nearest neighbours.

    Pairs are those that face each other, so that one correction stops short: it is done again from where
    the first one ends.

    Parameters
    ----------
    reference, query
        `(n, d)` and `(m, d)`.
    bandwidth
        Of the Gaussian, in median distances of a query cell to the nearest cell with a partner.
    """
    n_pairs = 0
    for _ in range(rounds):
        i, j = mutual_pairs(reference, query, k)
        n_pairs = n_pairs or len(i)
        if len(i):
            query = _moved(query, reference, i, j, bandwidth)
    return Correction(query.copy(), n_pairs)


def _moved(
    query: FloatArray, reference: FloatArray, i: IntArray, j: IntArray, bandwidth: float
) -> FloatArray:
    anchors, where, n = np.unique(j, return_inverse=True, return_counts=True)
    vectors = np.zeros((len(anchors), query.shape[1]))
    np.add.at(vectors, where, reference[i].astype(np.float64) - query[j])
    vectors /= n[:, None]
    nearest = knn(query, query[anchors], 1)[0][:, 0]
    # cells with a partner lie at distance 0: the others say how wide the gaps are
    gaps = nearest[nearest > 0]
    sigma = bandwidth * max(float(np.median(gaps)) if len(gaps) else 1.0, 1e-6)
    corrected = np.empty_like(query)
    at = query[anchors].astype(np.float64)
    norm = np.square(at).sum(1)
    for rows in chunks(len(query), ROWS):
        x = query[rows].astype(np.float64)
        distance = np.square(x).sum(1)[:, None] + norm - 2 * x @ at.T
        # relative to the nearest, so that far cells move as the nearest pair does
        weight = np.exp(-(distance - distance.min(1, keepdims=True)) / (2 * sigma**2))
        corrected[rows] = x + weight @ vectors / weight.sum(1, keepdims=True)
    return corrected
