"""Take batches out of a few components: the same kinds of cells come to lie together, whatever their share.

Soft clusters by cosine in which batches are made equally frequent, and for each a shift of every batch by
ridge regression (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0).
"""

from __future__ import annotations

import numpy as np
import torch

from mocli.nn.kmeans import kmeans
from mocli.types import DoubleArray, FloatArray, IntArray

ROUNDS, INNER = 10, 5
CELLS_PER_CLUSTER, MOST_CLUSTERS = 30, 100
SHARPNESS, DIVERSITY, RIDGE = 0.1, 1.0, 1.0
FIT_CELLS = 20_000
"""Cells that clusters start from."""


def mix_batches(points: DoubleArray | FloatArray, batch: IntArray, *, seed: int) -> DoubleArray:
    """Return `(n, d)` points without what differs between batches of like cells.

    Parameters
    ----------
    batch
        Codes of any kind, `(n,)`; with one batch nothing changes.
    """
    levels = np.unique(batch, return_inverse=True)[1]
    n_levels = int(levels.max(initial=0)) + 1
    start = points.astype(np.float64)
    if n_levels < 2:
        return start
    member = np.eye(n_levels)[levels]
    share = member.mean(0)[:, None]
    centres = _first_centres(start, seed)
    moved, weight = start, None
    for _ in range(ROUNDS):
        directions = _unit(moved)
        for _ in range(INNER):
            away = 2 * (1 - directions @ centres.T)
            near = np.exp((away.min(1, keepdims=True) - away) / SHARPNESS)
            near /= near.sum(1, keepdims=True)
            weight = near if weight is None else weight
            seen, wanted = member.T @ weight, share * weight.sum(0)
            weight = near * (((wanted + 1) / (seen + 1)) ** DIVERSITY)[levels]
            weight /= weight.sum(1, keepdims=True)
            centres = _unit(weight.T @ directions)
        moved = start - sum(
            weight[:, [k]] * _shifts(start, levels, member, weight[:, k])[levels] for k in range(len(centres))
        )
    return moved


def _shifts(points: DoubleArray, levels: IntArray, member: DoubleArray, weight: DoubleArray) -> DoubleArray:
    """Return how far each batch lies from the cluster as a whole, `(L, d)`: ridge with a free intercept."""
    size = member.T @ weight
    sums = member.T @ (points * weight[:, None])
    # with shifts (sums - size * intercept) / (size + ridge) put in, what is left for the intercept
    keep = size * RIDGE / (size + RIDGE)
    intercept = (keep / np.maximum(size, 1e-12)) @ sums / max(float(keep.sum()), 1e-12)
    shifts: DoubleArray = (sums - size[:, None] * intercept) / (size + RIDGE)[:, None]
    return shifts


def _first_centres(points: DoubleArray, seed: int) -> DoubleArray:
    directions = _unit(points)
    if len(points) > FIT_CELLS:
        some = np.random.default_rng(seed).choice(len(points), FIT_CELLS, replace=False)
        directions = directions[np.sort(some)]
    k = int(np.clip(len(points) // CELLS_PER_CLUSTER, 2, MOST_CLUSTERS))
    generator = torch.Generator().manual_seed(seed)
    found = kmeans(torch.from_numpy(directions).float(), k, generator=generator, restarts=3)
    return _unit(found.centres.double().numpy())


def _unit(x: DoubleArray) -> DoubleArray:
    unit: DoubleArray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit
