"""Exact nearest neighbours and matched distances, block by block: nothing n x n is held.

Distances are formed in float64 around the mean of the reference and rounded to
float32. The rounding makes equal distances compare equal whatever the order of
summation, so that ties can be settled by index. torch is imported by the
functions that compute, so that importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray, RowNumbers

if TYPE_CHECKING:
    from torch import Tensor  # heavy

Metric = Literal["euclidean", "cosine"]
Rows = TypeVar("Rows", FloatArray, DoubleArray)
Block: TypeAlias = "tuple[slice | IntArray, FloatArray, IntArray]"
"""Some query rows `(m,)`, the distances to their neighbours and the numbers of these, `(m, k)` each."""

# distances held at once, in float64: on the CPU 8 MB, which stay in cache and are reused from the heap
_TILE = {"cpu": 2**20, "cuda": 2**27}
_LONG = 2**17  # rows of a reference above which it is searched piece by piece
_PIECE, _ROWS = 2**14, 2**9


@dataclass(frozen=True, eq=False)
class MatchedDistances:
    """Distances between partners, compared with the distances to all other cells.

    With `d[i, j]` the distance of row i of `a` to row j of `b`, each `(n,)`:

    Attributes:
        own: `d[i, i]`.
        closer_in_b, closer_in_a: Number of j with `d[i, j] < d[i, i]`, and with `d[j, i] < d[i, i]`; other j
            at exactly that distance count one half.
        mean_to_b, mean_to_a: Mean over all j, the partner included, of `d[i, j]` and of `d[j, i]`.
    """

    own: FloatArray
    closer_in_b: DoubleArray
    closer_in_a: DoubleArray
    mean_to_b: DoubleArray
    mean_to_a: DoubleArray


def unit_rows(x: Rows) -> Rows:
    """Scale rows (along the last axis) to length 1; rows of 0 stay as they are."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def chunks(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` rows that cover `range(n)` in order."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def drawn_rows(rows: int | IntArray, most: int, *, seed: int | np.random.Generator) -> IntArray:
    """Return rows, or all of so many, in order; of more than `most` rows as many are drawn at random."""
    every = np.arange(rows) if isinstance(rows, (int, np.integer)) else rows
    if len(every) <= most:
        return every
    return np.sort(np.random.default_rng(seed).choice(every, most, replace=False))


def without_self(neighbors: RowNumbers, cells: IntArray) -> RowNumbers:
    """Drop the querying cell `(m,)` from its neighbours `(m, k + 1)`: `(m, k)`, as `others_than` says."""
    return neighbors[others_than(neighbors, cells)].reshape(len(neighbors), neighbors.shape[1] - 1)


def others_than(neighbors: RowNumbers, cells: IntArray) -> BoolArray:
    """Whether a neighbour, `(m, k + 1)`, is not the querying cell `(m,)`: true for all but one of every row.

    Duplicates can crowd a cell out of its own list; then the last neighbour is dropped.
    """
    is_itself: BoolArray = neighbors == cells[:, None]
    is_itself[~is_itself.any(1), -1] = True
    return ~is_itself


def knn(
    query: NDArray[Any],
    reference: NDArray[Any],
    k: int,
    *,
    metric: Metric = "euclidean",
    exclude_self: bool = False,
    block: int | None = None,
    device: str = "cpu",
) -> tuple[FloatArray, IntArray]:
    """Find the k nearest reference rows of every query row, exactly.

    Args:
        query, reference: `(n_query, d)` and `(n_reference, d)`, finite.
        k: Neighbours wanted; capped at the rows there are (one fewer with `exclude_self`).
        metric: `"cosine"` is 1 - cos; a row of zeros has cosine 0 with every row, itself included.
        exclude_self: The query is the reference: leave out row i for query row i. Other rows with the same
            values stay.
        block: Query rows per tile; None chooses a tile of 64 MB (1 GB on CUDA).
        device: Torch device that computes.

    Returns:
        Distances and row numbers, both `(n_query, k)`, nearest first; equal distances are ordered by row
        number, and the lowest row numbers are taken at the k-th.

    Raises:
        ValueError: Shapes that do not fit, or values that are not finite.
    """
    k = max(0, min(k, len(reference) - int(exclude_self)))
    blocks = knn_blocks(
        query, reference, k, metric=metric, exclude_self=exclude_self, block=block, device=device
    )
    return assembled(blocks, len(query), k)


def assembled(blocks: Iterator[Block], n: int, k: int) -> tuple[FloatArray, IntArray]:
    """Return distances and row numbers of all n query rows, `(n, k)` each, from blocks in any order."""
    distances, indices = np.zeros((n, k), np.float32), np.zeros((n, k), np.int64)
    for rows, near, at in blocks:
        distances[rows], indices[rows] = near, at
    return distances, indices


def knn_blocks(
    query: NDArray[Any],
    reference: NDArray[Any],
    k: int,
    *,
    metric: Metric = "euclidean",
    exclude_self: bool = False,
    block: int | None = None,
    device: str = "cpu",
) -> Iterator[Block]:
    """Yield what `knn` returns for some query rows at a time."""
    import torch

    from mocli.nn.screening import Points, nearest_points

    check_rows(query, reference)
    if exclude_self and len(query) != len(reference):
        raise ValueError(f"exclude_self needs one set of rows, got {len(query)} and {len(reference)}")
    if k == 0:
        return
    q, r = Points.of(*as_points(query, reference, metric=metric, device=device))
    long = block is None and len(reference) > _LONG
    for rows in chunks(len(query), block or (_ROWS if long else rows_per_tile(r.exact))):
        own_row = torch.arange(rows.start, rows.stop, device=q.exact.device) if exclude_self else None
        if long:
            values, index = _nearest_of_many(q.exact[rows], r.exact, k, own_row)
        else:
            values, index = nearest_points(q.take(rows), r, k, own_row)
        yield rows, in_metric(values, metric), index.cpu().numpy()


def matched_distances(
    a: NDArray[Any], b: NDArray[Any], *, block: int | None = None, device: str = "cpu"
) -> MatchedDistances:
    """Compare the distance of partners (row i of both) with all other distances.

    Args:
        a, b: `(n, d)` each, finite; row i of one is the partner of row i of the other.
        block, device: As for `knn`.

    Raises:
        ValueError: Shapes that do not fit, or values that are not finite.
    """
    import torch

    from mocli.nn.screening import distances_between

    check_rows(a, b)
    if len(a) != len(b):
        raise ValueError(f"partners come in pairs, got {len(a)} and {len(b)} rows")
    n = len(a)
    x, y = as_points(a, b, metric="euclidean", device=device)
    partner = (x - y).square().sum(1).sqrt().float()
    # of itself a partner is neither closer nor farther: the half that it counts as its equal is taken off
    closer_b, closer_a = (torch.full((n,), -0.5, dtype=torch.float64, device=x.device) for _ in range(2))
    sum_b, sum_a = (torch.zeros(n, dtype=torch.float64, device=x.device) for _ in range(2))
    for rows in chunks(n, block or rows_per_tile(y)):
        d = distances_between(x[rows], y)
        # partners take their distance from `own`, so that none is closer than itself by rounding
        diagonal = torch.arange(rows.start, rows.stop, device=d.device)
        d[diagonal - rows.start, diagonal] = partner[rows]
        sum_b[rows] = d.sum(1).double()
        sum_a += d.sum(0).double()
        # the sign is 1 for those closer, 0 for those as far; sums of so few are exact
        beside = partner[rows, None]
        closer_b[rows] += 0.5 * (len(y) + (beside - d).sign_().sum(1))
        closer_a += 0.5 * (len(d) + (partner - d).sign_().sum(0))
    counts = (closer_b.cpu().numpy(), closer_a.cpu().numpy())
    return MatchedDistances(
        partner.cpu().numpy(), *counts, (sum_b / max(n, 1)).cpu().numpy(), (sum_a / max(n, 1)).cpu().numpy()
    )


def neighbor_mean(values: NDArray[Any], neighbors: IntArray) -> NDArray[Any]:
    """Mean of `values` over the neighbours of each row.

    Args:
        values: `(n_reference, s)`.
        neighbors: `(n_query, k)` rows of `values`, k >= 1.

    Returns:
        `(n_query, s)`, of the floating type of `values`.
    """
    if neighbors.shape[1] == 0:
        raise ValueError("the mean of no neighbours is not defined")
    total = np.zeros((len(neighbors), values.shape[1]), np.result_type(values.dtype, np.float32))
    for column in neighbors.T:  # k passes, so that (n_query, k, s) never exists
        total += values[column]
    total /= neighbors.shape[1]
    return total


def smooth(values: NDArray[Any], neighbors: IntArray, weight: float) -> NDArray[Any]:
    """Blend each row with the mean of its neighbours: `(1 - weight) * x + weight * mean`.

    Args:
        values: `(n, s)`.
        neighbors: `(n, k)` row numbers, as `knn` returns them; k = 0 leaves the values as they are.
        weight: From 0 (untouched) to 1 (neighbours only).
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight must be from 0 to 1, got {weight}")
    if neighbors.shape[1] == 0:
        return values.copy()
    blended = neighbor_mean(values, neighbors)
    blended *= weight
    for rows in chunks(len(values), 4096):
        blended[rows] += (1.0 - weight) * values[rows]
    return blended


def check_rows(query: NDArray[Any], reference: NDArray[Any]) -> None:
    """Raise a `ValueError` for rows of different lengths and for values that are not finite."""
    if query.ndim != 2 or reference.ndim != 2 or query.shape[1] != reference.shape[1]:
        raise ValueError(f"expected rows of one length, got shapes {query.shape} and {reference.shape}")
    if not (np.isfinite(query).all() and np.isfinite(reference).all()):
        raise ValueError("distances need finite values")


def as_points(
    query: NDArray[Any], reference: NDArray[Any], *, metric: Metric, device: str
) -> tuple[Tensor, Tensor]:
    """Return both as float64 tensors whose Euclidean distances give the metric."""
    import torch

    q, r = (torch.as_tensor(x).to(device, torch.float64, copy=True) for x in (query, reference))
    if metric == "cosine":
        return _unit(q, axis=0), _unit(r, axis=1)
    if len(r):  # less cancellation; distances do not change
        centre = r.mean(0)
        q.sub_(centre)
        r.sub_(centre)
    return q, r


def _unit(x: Tensor, *, axis: int) -> Tensor:
    """Scale rows to norm 1, so that |q - r|^2 / 2 = 1 - cos.

    Two columns are appended, one for zero rows of the query and one for those of
    the reference: a zero row becomes a unit vector orthogonal to everything.
    """
    import torch

    peak = x.abs().amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)
    zero = peak == 0
    scaled = x / peak.masked_fill(zero, 1.0)  # first by the peak: squares of tiny values vanish
    scaled = scaled / scaled.square().sum(1, keepdim=True).sqrt().masked_fill(zero, 1.0)
    extra = x.new_zeros(len(x), 2)
    extra[:, axis] = zero[:, 0].double()
    return torch.cat([scaled, extra], 1)


def in_metric(distances: Tensor, metric: Metric) -> FloatArray:
    """Turn Euclidean distances into those of the metric, on the CPU: |q - r|^2 / 2 is 1 - cos."""
    near: FloatArray = distances.cpu().numpy()
    return near * (near / np.float32(2)) if metric == "cosine" else near


def rows_per_tile(reference: Tensor) -> int:
    """Return how many query rows' distances to the whole reference are held at once."""
    return max(1, _TILE.get(reference.device.type, 2**23) // max(1, len(reference)))


def _nearest_of_many(q: Tensor, r: Tensor, k: int, own_row: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the k smallest distances of each row, as `smallest`, where the reference is long.

    It works piece by piece; of later pieces it looks only at what is nearer than the k nearest so far, by
    squared distances with some slack. `own_row` are reference rows to leave out, one for each row.
    """
    import torch

    from mocli.nn.screening import SAME, SLACK, distances_between, smallest

    size = q.square().sum(1, keepdim=True)
    first = distances_between(q, r[: max(_PIECE, k + 1)])
    if own_row is not None:
        inside = (own_row < first.shape[1]).nonzero()[:, 0]
        first[inside, own_row[inside]] = torch.inf
    values, index = smallest(first, k)
    for piece in chunks(len(r) - first.shape[1], _PIECE):
        start = first.shape[1] + piece.start
        some = r[start : start + piece.stop - piece.start]
        d = torch.addmm(some.square().sum(1), q, some.T, alpha=-2.0).add_(size)
        most = values[:, -1:].double().square() * SLACK + SAME * size
        row, column = (d <= most).nonzero(as_tuple=True)
        if own_row is not None:
            other = start + column != own_row[row]
            row, column = row[other], column[other]
        if not len(row):
            continue
        distances = d[row, column]
        distances.masked_fill_(distances <= SAME * size[row, 0], 0.0)
        distances = distances.sqrt_().float()
        # side by side with the nearest so far, which come first: they have the lower row numbers
        times = torch.bincount(row, minlength=len(q))
        place = k + torch.arange(len(row), device=row.device) - (times.cumsum(0) - times)[row]
        width = k + int(times.max())
        beside = torch.full((len(q), width), torch.inf, device=q.device)
        columns_beside = torch.zeros((len(q), width), dtype=torch.int64, device=q.device)
        beside[:, :k], columns_beside[:, :k] = values, index
        beside[row, place], columns_beside[row, place] = distances, start + column
        values, chosen = smallest(beside, k)
        index = columns_beside.gather(1, chosen)
    return values, index
