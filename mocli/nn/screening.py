"""The k nearest of many points: candidates are chosen in float32, and their distances found in float64.

What float32 may get wrong is bounded for every row; where the bound does not separate the candidates from
all others, the row is searched in float64, so that the result is that of float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mocli.types import IntArray

SAME = 1e-12
"""Squared distance, relative to the squared norm, that float32 input cannot express."""
SLACK = 1.0 + 1e-6
"""More than rounding to float32 can move a square."""
ROUNDING = 2.0**-24
"""Relative error of a float32 operation."""
_ROWS = 2**16  # that are rounded at a time
_GATHERED = 2**19  # coordinates of candidates held at once


@dataclass(frozen=True, eq=False)
class Points:
    """Points of which the nearest are looked for, `(n, d)`.

    Attributes:
        exact: In float64.
        rounded, squares: Times `scale`, in float32, and their squared norms `(n,)`.
        scale: A power of two, of queries and reference alike, so that squares neither overflow nor vanish.
    """

    exact: Tensor
    rounded: Tensor
    squares: Tensor
    scale: float

    @classmethod
    def of(cls, q: Tensor, r: Tensor) -> tuple[Points, Points]:
        """Make queries and reference of float64 rows."""
        # without copies of all, as there may be very many
        peak = max((float(torch.maximum(x.max(), -x.min())) for x in (q, r) if x.numel()), default=0.0)
        scale = 2.0 ** -max(-1000, min(1000, math.frexp(peak)[1]))

        def points(x: Tensor) -> Points:
            rounded = torch.empty(x.shape, dtype=torch.float32, device=x.device)
            squares = rounded.new_empty(len(x))
            for start in range(0, len(x), _ROWS):
                rows = slice(start, start + _ROWS)
                rounded[rows] = x[rows] * scale
                squares[rows] = rounded[rows].square().sum(1)
            return cls(x, rounded, squares, scale)

        return points(q), points(r)

    def reorder(self, rows: Tensor) -> None:
        """Put them in another order in place, a column at a time."""
        for values in (self.exact.T, self.rounded.T, self.squares[None]):
            for column in values:
                column.copy_(column[rows])

    def take(self, rows: slice | Tensor) -> Points:
        """Return some of them."""
        return Points(self.exact[rows], self.rounded[rows], self.squares[rows], self.scale)


def nearest_points(
    q: Points, r: Points, k: int, own_row: Tensor | None = None, among: Sequence[slice] | None = None
) -> tuple[Tensor, Tensor]:
    """Return distances to the k nearest reference points of each query in float32, and their positions.

    Both are `(n_q, k)`, nearest first; equal distances are ordered by position.

    Args:
        own_row: A reference point to leave out for each query, `(n_q,)`.
        among: Spans of the reference to look at; None for all of it.
    """
    if among is None:
        places, rounded, squares = None, r.rounded, r.squares
    else:
        rounded, squares = (torch.cat([x[span] for span in among]) for x in (r.rounded, r.squares))
        places = torch.cat([torch.arange(span.start, span.stop, device=squares.device) for span in among])
    m = k + max(16, k // 8)
    if r.exact.device.type != "cpu" or 4 * m > len(squares):
        return _searched(q.exact, r.exact, k, own_row, places)
    # of one query alone its own norm changes no order
    screen = torch.addmm(squares, q.rounded, rounded.T, alpha=-2.0)
    if own_row is not None:
        screen[torch.arange(len(screen)), own_row] = torch.inf
    last, columns = _least(screen.numpy(), m)
    edge, chosen = torch.from_numpy(last).double() + q.squares, torch.from_numpy(columns)
    error = 2 * (q.exact.shape[1] + 5) * ROUNDING * (q.squares + squares.max()).double()
    chosen = chosen if places is None else places[chosen].sort(1).values
    values, order = _exact(q.exact, r.exact, chosen).sort(stable=True, dim=1)
    values, index = values[:, :k], chosen.gather(1, order[:, :k])
    # every other point is at least as far as the last candidate
    unsure = (values[:, -1].double() * q.scale).square() * SLACK >= edge - error
    if bool(unsure.any()):
        rest = unsure.nonzero()[:, 0]
        rest_row = None if own_row is None else own_row[rest]
        values[rest], index[rest] = _searched(q.exact[rest], r.exact, k, rest_row, places)
    return values, index


def _least(screen: NDArray[np.float32], m: int) -> tuple[NDArray[np.float32], IntArray]:
    """Return the m-th smallest value of each row `(n,)`, and the columns of m values up to it, in order.

    The values are partitioned, not their positions, which costs three times as much.
    """
    last = np.partition(screen, m - 1, axis=1)[:, m - 1]
    flat = np.flatnonzero(screen <= last[:, None])
    if len(flat) == m * len(screen):
        return last, flat.reshape(len(screen), m) - screen.shape[1] * np.arange(len(screen))[:, None]
    # of values equal to the m-th any will do
    return last, np.sort(np.argpartition(screen, m - 1, axis=1)[:, :m], axis=1)


def _searched(
    q: Tensor, r: Tensor, k: int, own_row: Tensor | None, places: Tensor | None
) -> tuple[Tensor, Tensor]:
    d = distances_between(q, r if places is None else r[places])
    if own_row is not None:
        d[torch.arange(len(d), device=d.device), own_row] = torch.inf
    values, index = smallest(d, k)
    return values, index if places is None else places[index]


def _exact(q: Tensor, r: Tensor, chosen: Tensor) -> Tensor:
    """Distances of each query to the reference points chosen for it `(n_q, m)`, in float32."""
    d = torch.empty(chosen.shape, dtype=torch.float64)
    step = max(1, _GATHERED // max(1, chosen.shape[1] * q.shape[1]))
    for start in range(0, len(q), step):
        rows = slice(start, start + step)
        d[rows] = (r[chosen[rows]] - q[rows, None]).square_().sum(2)
    return d.masked_fill_(d <= SAME * q.square().sum(1, keepdim=True), 0.0).sqrt_().float()


def distances_between(q: Tensor, r: Tensor) -> Tensor:
    """Euclidean distances in float32, `(len(q), len(r))`, of float64 rows."""
    size = q.square().sum(1, keepdim=True)
    d = torch.addmm(r.square().sum(1), q, r.T, alpha=-2.0).add_(size)
    d.masked_fill_(d <= SAME * size, 0.0)
    return d.sqrt_().float()


def smallest(d: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest of each row, ordered by value, then by column."""
    values, index = torch.topk(d, k, dim=1, largest=False, sorted=False)
    last = values.amax(1, keepdim=True)
    crowded = ((d <= last).sum(1) > k).nonzero()[:, 0]  # topk chose among equals at the k-th position
    if len(crowded):
        index[crowded] = _first_columns(d[crowded], last[crowded], k)
    index = index.sort(1).values
    values = d.gather(1, index)
    order = values.argsort(dim=1, stable=True)
    return values.gather(1, order), index.gather(1, order)


def _first_columns(d: Tensor, last: Tensor, k: int) -> Tensor:
    """Columns of all values below the k-th smallest, then the first of those equal to it."""
    below, equal = d < last, d == last
    room = k - below.sum(1, keepdim=True)
    chosen = below | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(-1, k)
