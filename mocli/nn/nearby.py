"""Approximate nearest neighbours in far less than n x n work: the cells of a Voronoi partition are searched.

k-means of a sample makes some 2 sqrt(n) cells; a query looks at all rows of the cells nearest to its own.
How many cells are enough is measured for the data at hand, on queries that are also searched exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mocli.nn.neighbors import (
    Block,
    Metric,
    as_points,
    assembled,
    check_rows,
    chunks,
    in_metric,
    knn,
    knn_blocks,
)
from mocli.types import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor  # heavy

    from mocli.nn.screening import Points


EXACT = 20_000
"""Rows of a reference up to which all of them are looked at."""
RECALL = 0.96
CHECKED = 200
"""Queries that are searched exactly, to know the recall."""
TILE = 2**20
"""Distances held at once."""
ROUNDS, PER_CELL = 5, 50
"""Rounds of k-means, and rows for each cell in the sample that it sees."""


def nearby(
    query: NDArray[Any], reference: NDArray[Any], k: int, *, metric: Metric = "euclidean", device: str = "cpu"
) -> tuple[FloatArray, IntArray]:
    """Find nearly all of the k nearest reference rows of every query row.

    Up to 20,000 reference rows this is `knn`. Above, a query looks at as many cells as 200 queries need to
    find 96 of 100 neighbours on average. A row that is query and reference finds itself. Arguments, results
    and errors are those of `knn`.
    """
    k = max(0, min(k, len(reference)))
    return assembled(nearby_blocks(query, reference, k, metric=metric, device=device), len(query), k)


def nearby_blocks(
    query: NDArray[Any], reference: NDArray[Any], k: int, *, metric: Metric = "euclidean", device: str = "cpu"
) -> Iterator[Block]:
    """Yield what `nearby` returns for some query rows at a time, in any order."""
    if len(reference) <= EXACT or not 0 < k < len(reference) // 10 or not len(query):
        yield from knn_blocks(query, reference, k, metric=metric, device=device)
        return
    import torch

    from mocli.nn.screening import Points

    check_rows(query, reference)
    rng = np.random.default_rng(0)
    q, r = Points.of(*as_points(query, reference, metric=metric, device=device))
    index = _Index.of(r, rng)
    asked_in = index.nearest_cell(q)
    sample = np.sort(rng.choice(len(query), min(CHECKED, len(query)), replace=False))
    truth = knn(query[sample], reference, k, metric=metric, device=device)[0][:, -1]
    # of equal rows any will do
    limit = (np.sqrt(2 * truth) if metric == "cosine" else truth) * np.float32(1.00001)
    some, n_cells = q.take(torch.from_numpy(sample).to(r.exact.device)), 4
    while n_cells < len(index.around):
        within = [
            near.cpu().numpy() <= limit[rows, None]
            for rows, near, _ in index.search(some, asked_in[sample], k, n_cells)
        ]
        recall = np.concatenate(within).mean()
        if recall >= RECALL:
            break
        n_cells = 2 * n_cells if recall < RECALL - 0.1 else n_cells + max(1, n_cells // 4)
    for rows, near, at in index.search(q, asked_in, k, min(n_cells, len(index.around))):
        yield rows, in_metric(near, metric), at.cpu().numpy()


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
        centres: `(n_cells, d)`, as the rounded points.
        points: Rows `(n, d)`, cell after cell.
        numbers: Which rows of the reference these are, `(n,)`; within a cell they increase.
        ends: Start of each cell and, at the end, the end of the last one, `(n_cells + 1,)`.
        around: For every cell, all cells sorted from nearest to farthest, `(n_cells, n_cells)`.
    """

    centres: Tensor
    points: Points
    numbers: Tensor
    ends: IntArray
    around: IntArray

    @classmethod
    def of(cls, r: Points, rng: np.random.Generator) -> _Index:
        """Make round(2 sqrt(n)) cells of rows, which are put in their order."""
        import torch

        from mocli.nn.kmeans import nearest_centres

        centres = _k_means(r.rounded, round(2 * len(r.rounded) ** 0.5), rng)
        cell_of = nearest_centres(r.rounded, centres)[1]
        cell_of, numbers = cell_of.sort(stable=True)
        ends = np.searchsorted(cell_of.cpu().numpy(), np.arange(len(centres) + 1))
        around = torch.cdist(centres, centres).argsort(dim=1, stable=True).cpu().numpy()
        r.reorder(numbers)
        return cls(centres, r, numbers, ends, around)

    def nearest_cell(self, q: Points) -> IntArray:
        """Return the cell of each query, `(n_query,)`."""
        from mocli.nn.kmeans import nearest_centres

        return nearest_centres(q.rounded, self.centres)[1].cpu().numpy()

    def search(
        self, q: Points, asked_in: IntArray, k: int, n_cells: int
    ) -> Iterator[tuple[IntArray, Tensor, Tensor]]:
        """Yield the k nearest rows in Euclidean distance among the `n_cells` cells nearest to a query's own.

        More cells are searched where these hold fewer than k rows. Rows at equal distances are in no order.
        """
        import torch

        from mocli.nn.screening import nearest_points

        by_cell = np.argsort(asked_in, kind="stable")
        cells, first = np.unique(asked_in[by_cell], return_index=True)
        sizes = np.diff(self.ends)
        for cell, group in zip(cells, np.split(by_cell, first[1:]), strict=True):
            enough = int(np.searchsorted(sizes[self.around[cell]].cumsum(), k)) + 1
            looked_at = self.around[cell][: max(n_cells, enough)]
            spans = [slice(int(self.ends[c]), int(self.ends[c + 1])) for c in looked_at]
            for some in chunks(len(group), max(1, TILE // int(sizes[looked_at].sum()))):
                rows = group[some]
                queries = q.take(torch.from_numpy(rows).to(self.numbers.device))
                near, at = nearest_points(queries, self.points, k, among=spans)
                yield rows, near, self.numbers[at]


def _k_means(r: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """Five rounds of k-means on a sample of 50 rows a centre, `(n, d)`; a centre without rows stays."""
    import torch

    from mocli.nn.kmeans import lloyd

    rows = np.sort(rng.choice(len(r), min(len(r), PER_CELL * n), replace=False))
    sample = r[torch.from_numpy(rows).to(r.device)]
    starts = np.sort(rng.choice(len(sample), n, replace=False))
    centres = sample[torch.from_numpy(starts).to(r.device)]
    return lloyd(sample, centres, ROUNDS).centres
