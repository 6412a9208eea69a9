"""Correct differences between sets of cells (modalities, or batches of one) in a few components.

Mutual nearest neighbours (Haghverdi et al. 2018, doi:10.1038/nbt.4091): pairs of cells that are among each
other's k nearest measure the offset between two sets where both have such cells; a cell moves by the mean
of the pairs' vectors, weighted by a Gaussian of its distance to them.

Mixed clusters (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0): soft clusters by cosine in which
batches are made equally frequent, and for each a shift of every batch by ridge regression.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mocli.nn.kmeans import kmeans
from mocli.nn.nearby import mutual_pairs
from mocli.nn.neighbors import chunks, knn, unit_rows
from mocli.nn.threads import column_means, one_thread
from mocli.types import DoubleArray, FloatArray, IntArray

ROWS = 2048
ROUNDS, INNER = 10, 5
CELLS_PER_CLUSTER, MOST_CLUSTERS = 30, 100
SHARPNESS, DIVERSITY, RIDGE = 0.1, 1.0, 1.0
FIT_CELLS = 20_000
"""Cells that clusters start from."""


def mnn_correct(
    reference: FloatArray, query: FloatArray, k: int, *, bandwidth: float = 1.0, rounds: int = 2
) -> FloatArray:
    """Return the query moved onto the reference by their mutual nearest neighbours, `(m, d)`.

    Mutual pairs lie at the edges that face each other, so one correction is too short: it is repeated on
    the corrected cells.

    Args:
        reference, query: `(n, d)` and `(m, d)`.
        bandwidth: Bandwidth of the Gaussian, in units of the median distance of a query cell to the nearest
            cell with a partner.
    """
    for _ in range(rounds):
        i, j = mutual_pairs(reference, query, k)
        if len(i):
            query = _moved(query, reference, i, j, bandwidth)
    return query.copy()


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
    anchor_points = query[anchors].astype(np.float64)
    norm = np.square(anchor_points).sum(1)
    for rows in chunks(len(query), ROWS):
        x = query[rows].astype(np.float64)
        distance = np.square(x).sum(1)[:, None] + norm - 2 * x @ anchor_points.T
        # relative to the nearest, so that far cells move as the nearest pair does
        weight = np.exp(-(distance - distance.min(1, keepdims=True)) / (2 * sigma**2))
        corrected[rows] = x + weight @ vectors / weight.sum(1, keepdims=True)
    return corrected


def level_offsets(x: Tensor, codes: Tensor, values: Sequence[Tensor], k: int) -> list[Tensor]:
    """Estimate offsets of groups of cells, such as batches, from their mutual nearest neighbours.

    So a group is not moved because it lacks a kind of cell (Haghverdi et al. 2018, doi:10.1038/nbt.4091).
    The offsets of all groups are the least squares of the mean differences of every two, weighted by pairs.

    Args:
        x: Coordinates in which neighbours are searched by cosine, `(n, p)`.
        codes: The group of each cell from 0, `(n,)`; -1 for none.
        values: Matrices whose offsets are estimated, `(n, d)` each.

    Returns:
        `(n_groups, d)` for each of the values, with a mean of 0.
    """
    n_groups = int(codes.max()) + 1 if len(codes) else 0
    members = [np.flatnonzero(codes.cpu().numpy() == level) for level in range(n_groups)]
    laplacian = x.new_zeros(n_groups, n_groups, dtype=torch.float64)
    sums = [x.new_zeros(n_groups, v.shape[1], dtype=torch.float64) for v in values]
    centred = (x - column_means(x)).cpu().numpy()
    for i in range(n_groups):
        for j in range(i + 1, n_groups):
            if not len(members[i]) or not len(members[j]):
                continue
            first, second = mutual_pairs(centred[members[i]], centred[members[j]], k, device=str(x.device))
            weight = float(len(first))
            laplacian[i, i] += weight
            laplacian[j, j] += weight
            laplacian[i, j] -= weight
            laplacian[j, i] -= weight
            for total, v in zip(sums, values, strict=True):
                difference = (v[members[i][first]] - v[members[j][second]]).double().sum(0)
                total[i] += difference
                total[j] -= difference
    with one_thread():
        inverse = torch.linalg.pinv(laplacian, hermitian=True)
    return [(inverse @ total).to(x.dtype) for total in sums]


def mix_batches(points: DoubleArray | FloatArray, batch: IntArray, *, seed: int) -> DoubleArray:
    """Return `(n, d)` points without the differences between batches of similar cells.

    `batch`: codes of any kind, `(n,)`; with one batch nothing changes.
    """
    levels = np.unique(batch, return_inverse=True)[1]
    n_levels = int(levels.max(initial=0)) + 1
    start = points.astype(np.float64)
    if n_levels < 2:
        return start
    member = np.eye(n_levels)[levels]
    share = member.mean(0)[:, None]
    centres = _first_centres(start, seed)
    moved = start
    weight = _near(unit_rows(start), centres)
    for _ in range(ROUNDS):
        directions = unit_rows(moved)
        for _ in range(INNER):
            seen, wanted = member.T @ weight, share * weight.sum(0)
            weight = _near(directions, centres) * (((wanted + 1) / (seen + 1)) ** DIVERSITY)[levels]
            weight /= weight.sum(1, keepdims=True)
            centres = unit_rows(weight.T @ directions)
        moved = start.copy()
        for of_cluster in weight.T:
            moved -= of_cluster[:, None] * _shifts(start, member, of_cluster)[levels]
    return moved


def _near(directions: DoubleArray, centres: DoubleArray) -> DoubleArray:
    """Soft cluster membership of cells by cosine, `(n, K)`."""
    away = 2 * (1 - directions @ centres.T)
    closeness = np.exp((away.min(1, keepdims=True) - away) / SHARPNESS)
    return closeness / closeness.sum(1, keepdims=True)


def _shifts(points: DoubleArray, member: DoubleArray, weight: DoubleArray) -> DoubleArray:
    """Return how far each batch lies from the cluster as a whole, `(L, d)`: ridge with a free intercept."""
    size = member.T @ weight
    sums = member.T @ (points * weight[:, None])
    # with shifts (sums - size * intercept) / (size + ridge) put in, what is left for the intercept
    keep = size * RIDGE / (size + RIDGE)
    intercept = (keep / np.maximum(size, 1e-12)) @ sums / max(float(keep.sum()), 1e-12)
    return (sums - size[:, None] * intercept) / (size + RIDGE)[:, None]


def _first_centres(points: DoubleArray, seed: int) -> DoubleArray:
    directions = unit_rows(points)
    if len(points) > FIT_CELLS:
        some = np.random.default_rng(seed).choice(len(points), FIT_CELLS, replace=False)
        directions = directions[np.sort(some)]
    k = int(np.clip(len(points) // CELLS_PER_CLUSTER, 2, MOST_CLUSTERS))
    generator = torch.Generator().manual_seed(seed)
    partition = kmeans(torch.from_numpy(directions).float(), k, generator=generator, restarts=3)
    return unit_rows(partition.centres.double().numpy())
