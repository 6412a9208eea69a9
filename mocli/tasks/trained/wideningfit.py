"""How much wider the interval of a cell must be than those of ordinary cells that were left out.

Errors of cells left out at random tell nothing of a type or a batch that training lacks. So clusters of
cells, and batches, are left out in turn. A cell's errors grow with its leverage in the regression on its
nearness to landmarks: how little the fitted cells say of a place like its own. Over cells left out at random
and those of left-out clusters, the logarithm of the error that intervals must hold is fitted by a line in
that of the leverage (locally weighted conformal prediction: Lei et al. 2018,
doi:10.1080/01621459.2017.1307116). A batch moves values in ways that no leverage shows: its cells have at
least the width that left-out batches would have needed (conformal prediction over groups: Dunn et al. 2023,
doi:10.1080/01621459.2022.2060112). Where training has one batch, it is the square root of what left-out
clusters would have needed, a rule found on the sets of tests/benchmarks/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mocli.metrics import conformal
from mocli.nn.neighbors import drawn_rows
from mocli.tasks.trained.coordinates import NEAR_PLAIN
from mocli.tasks.trained.folds import Fold, Products, Ridge, left_out
from mocli.tasks.trained.widening import Widening, times_of
from mocli.types import DoubleArray, FloatArray, IntArray

MOST_CELLS = 400
"""Cells among which groups are left out; of more, so many drawn at random."""
CLUSTERS, MOST_BATCHES, FEWEST_OF_BATCH = 6, 5, 20
COVERAGE = 0.9
"""Share of values that an interval shall hold, for which widths are compared."""
BINS = 10


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Cells whose errors are compared.

    Attributes:
        y, linked: Values of some features, and what these are linked to, `(n, p)`.
        weights: Of the ways, `(p, n_ways)`.
        penalties: Of the ridge regression of each way but the linked feature.
        batches: Codes `(n,)`, -1 for none; None without batches.
    """

    products: Products
    y: FloatArray
    linked: FloatArray
    weights: DoubleArray
    penalties: Sequence[float]
    batches: IntArray | None

    def take(self, rows: IntArray) -> LeftOut:
        """Return some of the cells."""
        batches = None if self.batches is None else self.batches[rows]
        return replace(
            self, products=self.products.take(rows), y=self.y[rows], linked=self.linked[rows], batches=batches
        )

    def of(self, groups: IntArray, *, seed: int) -> tuple[FloatArray, DoubleArray]:
        """Leave out each group in turn: predicted values `(n, p)`, and the leverage of every cell `(n,)`."""
        folds = [Fold.fit(self.products, np.flatnonzero(groups == g), seed=seed) for g in np.unique(groups)]
        said = left_out(folds, self.penalties, self.linked, self.y)
        return self.blended(said), leverages(folds, self.penalties)

    def blended(self, said: FloatArray) -> FloatArray:
        """Return what the ways `(n_ways, n, p)` say together, `(n, p)`."""
        return blended(said, self.weights, self.y.mean(0))


def blended(said: FloatArray, weights: DoubleArray, mean: FloatArray) -> FloatArray:
    """Return what the ways `(n_ways, n, p)` say together, weighed `(p, n_ways)`, about the mean `(p,)`."""
    rest = mean * (1 - weights.sum(1))
    found = np.zeros(said.shape[1:], np.float32)
    for way, weight in zip(said, weights.astype(np.float32).T, strict=True):
        found += way * weight
    found += rest.astype(np.float32)
    return found


def leverages(folds: Sequence[Fold], penalties: Sequence[float]) -> DoubleArray:
    """Return the leverage of every cell in the fit from which it was left out, `(n,)`.

    Leverage falls with the number of cells fitted, so that it is multiplied by that number.
    """
    found = np.empty(sum(len(fold.out) for fold in folds))
    for fold in folds:
        found[fold.out] = fold.leverage(NEAR_PLAIN, penalties[NEAR_PLAIN]) * len(fold.rest)
    return found


def fit_widening(
    cells: LeftOut,
    folds: Sequence[Fold],
    said: FloatArray,
    ridge: Ridge,
    clusters_of: FloatArray,
    *,
    seed: int,
) -> tuple[Widening, FloatArray]:
    """Leave groups of cells out, and see how much wider intervals they need.

    Args:
        folds, said: Of all cells, left out at random, and what each way says of them, `(n_ways, n, p)`.
        ridge: Of the nearness to landmarks, fitted to all cells.
        clusters_of: Coordinates in which clusters are found, `(n, d)`.

    Returns:
        The widening, and its times for every cell while it was left out of its fold, `(n,)`.
    """
    from sklearn.cluster import KMeans

    n, every = cells.products.n, leverages(folds, cells.penalties)
    rows = drawn_rows(n, MOST_CELLS, seed=seed)
    some, at_random, usual = cells, cells.blended(said), every
    if len(rows) < n:
        some = cells.take(rows)
        by_chance = np.random.default_rng(seed).permutation(len(rows)) % 5
        at_random, usual = some.of(by_chance, seed=seed)
    offsets = conformal.fit(at_random, some.y, coverage=COVERAGE)
    n_clusters = max(2, min(CLUSTERS, len(rows) // 15))
    nearest = KMeans(n_clusters, n_init=5, random_state=seed).fit_predict(clusters_of[rows])
    in_cluster, odd = some.of(nearest, seed=seed)
    errors = [_relative(predicted, some.y, offsets) for predicted in (at_random, in_cluster)]
    level, slope = _line(np.concatenate([usual, odd]) / np.median(usual), np.concatenate(errors))
    wide = times_of(usual / np.median(usual), level, slope)
    kept = float(np.quantile(errors[0] / wide[:, None], COVERAGE))
    batches = _largest(some.batches)
    if batches is None:
        needed = np.sqrt(np.quantile(errors[1], COVERAGE))
    else:
        known = some.take(np.flatnonzero(batches >= 0))
        predicted, _ = known.of(batches[batches >= 0], seed=seed)
        needed = np.quantile(_relative(predicted, known.y, offsets), COVERAGE)
    root = np.sqrt(len(ridge.u))
    widening = Widening(
        mean=ridge.mean.astype(np.float32),
        projection=(root * ridge.whitening(cells.penalties[NEAR_PLAIN])).astype(np.float32),
        usual=float(np.median(every)) or 1.0,
        level=level,
        slope=slope,
        new_batch=max(1.0, float(needed) / max(kept, 1e-6)),
    )
    return widening, times_of(every / widening.usual, level, slope)


def _relative(predicted: FloatArray, y: FloatArray, offsets: conformal.Conformal) -> DoubleArray:
    """Return errors over the ends of the interval on their side, `(n, p)`: up to 1 is inside."""
    error = y - predicted
    upper, lower = np.maximum(offsets.upper, 1e-6), np.minimum(offsets.lower, -1e-6)
    found: DoubleArray = np.maximum(error / upper, error / lower)
    return found


def _line(leverage: DoubleArray, errors: DoubleArray) -> tuple[float, float]:
    """Fit the logarithm of the error that intervals must hold by a line in that of leverage `(n,)`.

    Errors are `(n, p)`; level and slope are 0 where they do not grow with it.
    """
    bins = np.array_split(np.argsort(leverage, kind="stable"), BINS)
    x = np.log(np.maximum([np.median(leverage[rows]) for rows in bins], 1e-12))
    y = np.log(np.maximum([np.quantile(errors[rows], COVERAGE) for rows in bins], 1e-3))
    spread = np.square(x - x.mean()).sum()
    slope = float(((x - x.mean()) * y).sum() / spread) if spread > 0 else 0.0
    return (float(y.mean() - slope * x.mean()), slope) if slope > 0 else (0.0, 0.0)


def _largest(batches: IntArray | None) -> IntArray | None:
    """Keep the largest batches, -1 for others; None where there are not two that are large enough."""
    if batches is None:
        return None
    levels, counts = np.unique(batches[batches >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_BATCHES]
    large = levels[order[counts[order] >= FEWEST_OF_BATCH]]
    return np.where(np.isin(batches, large), batches, -1) if len(large) > 1 else None
