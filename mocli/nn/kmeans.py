"""k-means with careful seeding and restarts: the same seed gives the same centres."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mocli.nn.losses import squared_distances
from mocli.nn.neighbors import chunks, rows_per_tile

STEPS = 100


class Partition(NamedTuple):
    """Centres `(k, d)`, the nearest centre of every point `(n,)`, and the mean squared distance to it."""

    centres: Tensor
    nearest: Tensor
    spread: float


def kmeans(x: Tensor, k: int, *, generator: torch.Generator, restarts: int = 10) -> Partition:
    """Return the best of several runs from k-means++ seeds (Arthur and Vassilvitskii 2007).

    Args:
        x: `(n, d)`; there may be fewer points than centres, some centres are equal then.
        generator: On the device of `x`.
    """
    runs = [lloyd(x, _seeds(x, k, generator)) for _ in range(restarts)]
    return min(runs, key=lambda run: run.spread)


def _seeds(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw points, each with a chance that grows with its squared distance to those before."""
    chosen = [x[torch.randint(len(x), (1,), generator=generator, device=x.device)]]
    distance = squared_distances(x, chosen[0]).squeeze(1)
    while len(chosen) < k:
        # where every point is chosen already, any will do
        chance = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        # `multinomial` takes at most 2^24 points
        edge = torch.rand((1,), generator=generator, device=x.device, dtype=torch.float64)
        total = chance.double().cumsum(0)
        row = torch.searchsorted(total, edge * total[-1]).clamp_max(len(x) - 1)
        chosen.append(x[row])
        distance = torch.minimum(distance, squared_distances(x, chosen[-1]).squeeze(1))
    return torch.cat(chosen)


def nearest_centres(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return each point's squared distance to its nearest centre, and that centre's number, `(n,)` each."""
    least, nearest = x.new_empty(len(x)), torch.empty(len(x), dtype=torch.int64, device=x.device)
    # results have a place of their own: kept between tiles, they would leave holes in memory
    for rows in chunks(len(x), rows_per_tile(centres)):
        least[rows], nearest[rows] = squared_distances(x[rows], centres).min(1)
    return least, nearest


def lloyd(x: Tensor, centres: Tensor, steps: int = STEPS) -> Partition:
    """Move centres to the means of their points until no point changes its centre; an empty one stays."""
    nearest = torch.full((len(x),), -1, device=x.device)
    for _ in range(steps):
        before = nearest
        least, nearest = nearest_centres(x, centres)
        if torch.equal(before, nearest):
            break
        size = torch.bincount(nearest, minlength=len(centres)).unsqueeze(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = torch.where(size > 0, sums / size.clamp_min(1), centres)
    return Partition(centres, nearest, float(least.mean()))
