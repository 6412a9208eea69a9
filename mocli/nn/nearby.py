"""Approximate nearest neighbours in far less than n x n work: the cells of a Voronoi partition are searched.

k-means of a sample makes some 2 sqrt(n) cells; a query looks at all rows of the cells nearest to its own.
How many cells are enough is measured for the data at hand, on queries that are also searched exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mocli.nn.neighbors import SAME, Metric, as_points, check_rows, chunks, knn, rows_per_tile
from mocli.types import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor  # heavy

EXACT = 20_000
"""Rows of a reference up to which all of them are looked at."""
RECALL = 0.96
CHECKED = 200
"""Queries that are searched exactly, to know the recall."""
ROUNDS, PER_CELL = 5, 50
"""Rounds of k-means, and rows for each cell in the sample that it sees."""


def nearby(
    query: NDArray[Any],
    reference: NDArray[Any],
    k: int,
    *,
    metric: Metric = "euclidean",
    device: str = "cpu",
) -> tuple[FloatArray, IntArray]:
    """Find nearly all of the k nearest reference rows of every query row.

    Up to 20,000 reference rows this is `knn`. Above, a query looks at as many cells as 200 queries need to
    find 96 of 100 neighbours on average. A row that is query and reference finds itself. Arguments, results
    and errors are those of `knn`.
    """
    if len(reference) <= EXACT or not 0 < k < len(reference) // 10 or not len(query):
        return knn(query, reference, k, metric=metric, device=device)
    check_rows(query, reference)
    rng = np.random.default_rng(0)
    q, r = as_points(query, reference, metric=metric, device=device)
    index = _Index.of(r, rng)
    asked_in = index.nearest_cell(q)
    sample = np.sort(rng.choice(len(q), min(CHECKED, len(q)), replace=False))
    truth = knn(query[sample], reference, k, metric=metric, device=device)[0][:, -1:]
    # of equal rows any will do
    limit = (np.sqrt(2 * truth) if metric == "cosine" else truth) * np.float32(1.00001)
    n_cells = 4
    while n_cells < len(index.around):
        recall = (index.search(q[sample], asked_in[sample], k, n_cells)[0] <= limit).mean()
        if recall >= RECALL:
            break
        n_cells = 2 * n_cells if recall < RECALL - 0.1 else n_cells + max(1, n_cells // 4)
    distances, indices = index.search(q, asked_in, k, min(n_cells, len(index.around)))
    if metric == "cosine":
        distances *= distances / np.float32(2)
    return distances, indices


def mutual_pairs(
    a: FloatArray, b: FloatArray, k: int, *, metric: Metric = "cosine", device: str = "cpu"
) -> tuple[IntArray, IntArray]:
    """Return rows of `a` and of `b`, `(n_pairs,)` each, that are among each other's k nearest.

    With cosine, rows of zeros have no direction and are ignored.
    """
    nearest_in_b = nearby(a, b, k, metric=metric, device=device)[1]
    nearest_in_a = nearby(b, a, k, metric=metric, device=device)[1]
    from_a = np.repeat(np.arange(len(a)), nearest_in_b.shape[1]) * len(b) + nearest_in_b.ravel()
    from_b = nearest_in_a.ravel() * len(b) + np.repeat(np.arange(len(b)), nearest_in_a.shape[1])
    i, j = np.divmod(np.intersect1d(from_a, from_b), max(len(b), 1))
    usable = a[i].any(1) & b[j].any(1) if metric == "cosine" else np.ones(len(i), bool)
    return i[usable], j[usable]


@dataclass(frozen=True, eq=False)
class _Index:
    """Rows of a reference, those of a cell together.

    Attributes:
        centres: `(n_cells, d)`.
        points, squares: Rows `(n, d)` float64, cell after cell, and their squared norms `(n,)`.
        numbers: Which rows of the reference these are, `(n,)`; within a cell they increase.
        ends: Start of each cell and, at the end, the end of the last one, `(n_cells + 1,)`.
        around: For every cell, all cells sorted from nearest to farthest, `(n_cells, n_cells)`.
    """

    centres: Tensor
    points: Tensor
    squares: Tensor
    numbers: IntArray
    ends: IntArray
    around: IntArray

    @classmethod
    def of(cls, r: Tensor, rng: np.random.Generator) -> _Index:
        """Make round(2 sqrt(n)) cells."""
        import torch

        from mocli.nn.kmeans import nearest_centres

        centres = _k_means(r, round(2 * len(r) ** 0.5), rng)
        cell_of = nearest_centres(r, centres)[1].cpu().numpy()
        numbers = np.argsort(cell_of, kind="stable")
        ends = np.searchsorted(cell_of[numbers], np.arange(len(centres) + 1))
        points = r[torch.from_numpy(numbers).to(r.device)]
        distances = torch.cdist(centres, centres)
        around = distances.argsort(dim=1, stable=True).cpu().numpy()
        return cls(centres, points, points.square().sum(1), numbers, ends, around)

    def nearest_cell(self, q: Tensor) -> IntArray:
        """Return the cell of each query, `(n_query,)`."""
        from mocli.nn.kmeans import nearest_centres

        return nearest_centres(q, self.centres)[1].cpu().numpy()

    def search(self, q: Tensor, asked_in: IntArray, k: int, n_cells: int) -> tuple[FloatArray, IntArray]:
        """Return Euclidean distances and row numbers among the `n_cells` cells nearest to a query's own.

        More cells are searched where these hold fewer than k rows. Both `(n_query, k)`, in `knn`'s order.
        """
        import torch

        distances = np.empty((len(q), k), np.float32)
        indices = np.empty((len(q), k), np.int64)
        by_cell = np.argsort(asked_in, kind="stable")
        cells, first = np.unique(asked_in[by_cell], return_index=True)
        sizes = np.diff(self.ends)
        for cell, group in zip(cells, np.split(by_cell, first[1:]), strict=True):
            enough = int(np.searchsorted(sizes[self.around[cell]].cumsum(), k)) + 1
            looked_at = self.around[cell][: max(n_cells, enough)]
            spans = [slice(self.ends[c], self.ends[c + 1]) for c in looked_at]
            r, square = (torch.cat([x[span] for span in spans]) for x in (self.points, self.squares))
            numbers = np.concatenate([self.numbers[span] for span in spans])
            for some in chunks(len(group), rows_per_tile(r)):
                rows = group[some]
                near, positions = _nearest_of(q[rows], r, square, k)
                at = numbers[positions]
                # a few rows at a time, as a copy of all would be the most memory that a run takes
                order = np.lexsort((at, near), axis=1)
                distances[rows] = np.take_along_axis(near, order, 1)
                indices[rows] = np.take_along_axis(at, order, 1)
        return distances, indices


def _nearest_of(q: Tensor, r: Tensor, square: Tensor, k: int) -> tuple[FloatArray, IntArray]:
    """Distances to the k nearest of `r` and their positions, `(len(q), k)`, in no order."""
    import torch

    size = q.square().sum(1, keepdim=True)
    d = torch.addmm(square, q, r.T, alpha=-2.0).add_(size)
    if d.device.type == "cpu":  # several times quicker than topk there
        positions = torch.from_numpy(np.argpartition(d.numpy(), k - 1, axis=1)[:, :k])
    else:
        positions = torch.topk(d, k, dim=1, largest=False, sorted=False).indices
    distances = d.gather(1, positions)
    distances = distances.masked_fill_(distances <= SAME * size, 0.0).sqrt_().float()
    return distances.cpu().numpy(), positions.cpu().numpy()


def _k_means(r: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """Five rounds of k-means on a sample of 50 rows a centre, `(n, d)`; a centre without rows stays."""
    import torch

    from mocli.nn.kmeans import lloyd

    rows = np.sort(rng.choice(len(r), min(len(r), PER_CELL * n), replace=False))
    sample = r[torch.from_numpy(rows).to(r.device)]
    starts = np.sort(rng.choice(len(sample), n, replace=False))
    centres = sample[torch.from_numpy(starts).to(r.device)]
    return lloyd(sample, centres, ROUNDS).centres
