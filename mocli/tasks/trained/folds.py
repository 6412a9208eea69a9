"""Ways fitted with cells left out: ridge regressions, folds, and how much wider intervals must be.

Components are found anew in every fold. Their scores follow from the products of cells with each other alone
(the dual of principal components: Schoelkopf et al. 1998, doi:10.1162/089976698300017467), so that
the products are computed once and a fold costs one small eigenproblem a view.

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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mocli.data.batches import densify
from mocli.metrics import conformal
from mocli.nn.neighbors import drawn_rows
from mocli.tasks.trained.latent import (
    LEADING,
    N_COMPONENTS,
    NEAR_PLAIN,
    ROUNDING,
    CellCoordinates,
    Nearness,
    SourceCells,
    leading,
    over_explained,
    placed,
    strangeness,
)
from mocli.tasks.trained.stack import LinkedValues, Widening, times_of
from mocli.types import DoubleArray, FloatArray, IntArray


class Ridge:
    """Ridge regressions on one set of coordinates `(n, r)`, for any penalty and target.

    Args:
        orthogonal: The coordinates are centred and orthogonal, the largest first, as the scores of components
            are.
    """

    def __init__(self, phi: FloatArray, *, orthogonal: bool = False) -> None:
        x = np.asarray(phi, np.float64)
        self.mean = np.zeros(x.shape[1]) if orthogonal else x.mean(0)
        if orthogonal:
            s, vt = np.sqrt(np.square(x).sum(0)), np.eye(x.shape[1])
            u = x / s
        else:
            u, s, vt = np.linalg.svd(x - self.mean, full_matrices=False)
        keep = s > 1e-9 * max(s[0], 1e-300) if len(s) else np.zeros(0, bool)
        self.u, self.s, self.v = u[:, keep].astype(np.float32), s[keep], vt[keep].T
        self.unit = float(np.square(s[0])) if len(s) and s[0] > 0 else 1.0

    def shrinkage(self, penalty: float) -> FloatArray:
        """Return what directions of `u` are multiplied by, `(k,)`."""
        return np.asarray(self.s / (np.square(self.s) + penalty * self.unit), np.float32)

    def coefficients(self, y: FloatArray, penalty: float) -> FloatArray:
        """Return `(r, n_columns)` for centred targets `(n, n_columns)`."""
        shrunk = self.shrinkage(penalty)[:, None] * (self.u.T @ y)
        return np.asarray(self.v.astype(np.float32) @ shrunk)

    def whitening(self, penalty: float) -> DoubleArray:
        """Return `(r, k)`, from centred coordinates to directions in which squares sum to the leverage."""
        weights: DoubleArray = self.v / np.sqrt(np.square(self.s) + penalty * self.unit)
        return weights


@dataclass(frozen=True, eq=False)
class Sums:
    """Linked sums of the cells fitted on, `(n, n_links)`, and the sum of each feature, `(n_vars,)`."""

    values: FloatArray
    column: IntArray

    @classmethod
    def of(cls, linked: LinkedValues | None, cells: SourceCells, n_vars: int) -> Sums:
        """Sum the linked features, for all features of the target."""
        if linked is None:
            return cls(np.zeros((cells.n, 1), np.float32), np.full(n_vars, -1, np.int64))
        return cls(linked(cells), linked.column)

    def take(self, columns: IntArray) -> FloatArray:
        """Return what some features are linked to, `(n, n_columns)`; 0 without a link."""
        sum_column = self.column[columns]
        return np.where(sum_column >= 0, self.values[:, np.maximum(sum_column, 0)], np.float32(0))


@dataclass(frozen=True, eq=False)
class Products:
    """Products of cells with each other, of which components of any of them are made.

    Attributes:
        grams: Of plain and standardised values, `(n, n)` each.
        z: `(n, d)`, latent coordinates; None without a model.
    """

    grams: tuple[FloatArray, FloatArray]
    z: FloatArray | None

    @classmethod
    def of(cls, coordinates: CellCoordinates, cells: SourceCells) -> Products:
        """Multiply the features that the views of all cells have chosen."""
        grams = []
        for view in (coordinates.plain, coordinates.standardised):
            values = densify(view.values(cells))
            # products of large means would leave little of single precision to what cells differ in
            values -= values.mean(0)
            grams.append(values @ values.T)
        return cls((grams[0], grams[1]), cells.z)

    @property
    def n(self) -> int:
        """Number of cells."""
        return len(self.grams[0])

    def take(self, rows: IntArray) -> Products:
        """Return those of some of the cells."""
        first, second = (gram[np.ix_(rows, rows)] for gram in self.grams)
        return Products((first, second), None if self.z is None else self.z[rows])


@dataclass(frozen=True, eq=False)
class Fold:
    """Ways fitted to the rows `rest`, and the rows `out` that were left out.

    Attributes:
        along: Coordinates of the cells left out, in the directions `u` of each way's ridge, `(n_out, k)`
            each.
        near: Nearness in plain and standardised components.
        scores, unexplained: Of the cells left out: components of either kind, and deviation over what these
            explain of it.
    """

    out: IntArray
    rest: IntArray
    ridges: list[Ridge]
    along: list[FloatArray]
    near: list[Nearness]
    scores: list[FloatArray]
    unexplained: list[DoubleArray]

    @classmethod
    def fit(cls, products: Products, out: IntArray, *, seed: int) -> Fold:
        """Fit to all cells but some."""
        rest = np.setdiff1d(np.arange(products.n), out)
        components = [_components(gram, rest, out) for gram in products.grams]
        fitted, new = [f[0] for f in components], [f[1] for f in components]
        near = [Nearness.fit(scores[:, :LEADING], seed=seed) for scores in fitted]
        z = products.z
        z_fitted, z_new = (None, None) if z is None else (z[rest], z[out])
        latent = None if z_fitted is None else Nearness.fit(z_fitted, seed=seed)
        ridges = [Ridge(scores, orthogonal=True) for scores in fitted]
        ridges += [Ridge(phi) for phi in placed(fitted, near, latent, z_fitted)]
        phi = [*new, *placed(new, near, latent, z_new)]
        along = [
            ((p - ridge.mean) @ ridge.v).astype(np.float32) for p, ridge in zip(phi, ridges, strict=True)
        ]
        return cls(out, rest, ridges, along, near, new, [f[2] for f in components])

    def strangeness(self) -> DoubleArray:
        """Return how unlike the cells left out are to those fitted on, `(n_out, 2)`."""
        return strangeness(self.near, self.scores, self.unexplained)

    def predictions(self, k: int, y: FloatArray, penalties: Iterable[float]) -> list[FloatArray]:
        """Return way k's predictions of the cells left out about the mean of the others, for each penalty.

        Args:
            y: Targets of the rows `rest`, centred, `(n_rest, n_columns)`.
        """
        ridge = self.ridges[k]
        cross = ridge.u.T @ y
        return [self.along[k] @ (ridge.shrinkage(penalty)[:, None] * cross) for penalty in penalties]

    def leverage(self, k: int, penalty: float) -> DoubleArray:
        """Return the leverage of the cells left out in way k's regression, `(n_out,)`."""
        ridge = self.ridges[k]
        scale = 1 / (np.square(ridge.s) + penalty * ridge.unit)
        leverage: DoubleArray = np.square(self.along[k].astype(np.float64)) @ scale
        return leverage


def _components(
    gram: FloatArray, rest: IntArray, out: IntArray
) -> tuple[FloatArray, FloatArray, DoubleArray]:
    """Find components among the cells `rest`: scores of these and of `out`, `(n, k)`, as a `View` gives them.

    The third are squared deviations from the mean over what the components explain of them, `(n_out,)`.
    """
    inner, cross = gram[np.ix_(rest, rest)], gram[np.ix_(out, rest)]
    by_cell = inner.mean(0)
    mean, by_out = by_cell.mean(), cross.mean(1)
    inner -= by_cell
    inner -= (by_cell - mean)[:, None]
    cross -= by_cell
    cross -= (by_out - mean)[:, None]
    values, vectors = leading(inner, min(N_COMPONENTS, len(rest) - 1))
    kept = values > ROUNDING * max(values[0], 1e-12)
    size = np.sqrt(values[kept])
    # of variance 1, the first of them
    unit = np.sqrt(len(rest)) / size[:1]
    fitted = vectors[:, kept] * (size * unit)
    scores = cross @ (vectors[:, kept] * (unit / size))
    total = np.maximum(gram[out, out].astype(np.float64) - 2 * by_out + mean, 0)
    explained = np.square(scores.astype(np.float64) / unit).sum(1)
    return fitted, scores, over_explained(total, explained)


def left_out(
    folds: Sequence[Fold],
    penalties: Sequence[float],
    x: FloatArray,
    y: FloatArray,
    mean: FloatArray | None = None,
) -> FloatArray:
    """Return each way's prediction of every cell, fitted without it: `(n_ways, n, n_columns)`.

    Args:
        x, y: What features are linked to, and their values, `(n, n_columns)`.
        mean: About which all folds predict, `(n_columns,)`; None: that of the cells that each was fitted to.
    """
    predictions = np.empty((len(penalties) + 1, *y.shape), np.float32)
    for fold in folds:
        fitted = y[fold.rest]
        own_mean = fitted.mean(0)
        fitted -= own_mean
        about = own_mean if mean is None else mean
        for k, penalty in enumerate(penalties):
            (predicted,) = fold.predictions(k, fitted, [penalty])
            predictions[k, fold.out] = predicted + about
        slope, middle = slopes(x[fold.rest], fitted)
        predictions[-1, fold.out] = about + (x[fold.out] - middle) * slope
    return predictions


def slopes(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slope of centred targets in their linked sums, 0 without a link, and the mean of these sums."""
    center, slope = x.mean(0), np.zeros(y.shape[1], np.float32)
    linked = np.flatnonzero(x.any(0))
    away = x[:, linked] - center[linked]
    square = np.square(away).sum(0)
    slope[linked] = np.divide((away * y[:, linked]).sum(0), square, out=slope[linked], where=square > 1e-9)
    return slope, center


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
    total = np.zeros(said.shape[1:], np.float32)
    for way, weight in zip(said, weights.astype(np.float32).T, strict=True):
        total += way * weight
    total += rest.astype(np.float32)
    return total


def leverages(folds: Sequence[Fold], penalties: Sequence[float]) -> DoubleArray:
    """Return the leverage of every cell in the fit from which it was left out, `(n,)`.

    Leverage falls with the number of cells fitted, so that it is multiplied by that number.
    """
    leverage = np.empty(sum(len(fold.out) for fold in folds))
    for fold in folds:
        leverage[fold.out] = fold.leverage(NEAR_PLAIN, penalties[NEAR_PLAIN]) * len(fold.rest)
    return leverage


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
        with_batch = some.take(np.flatnonzero(batches >= 0))
        predicted, _ = with_batch.of(batches[batches >= 0], seed=seed)
        needed = np.quantile(_relative(predicted, with_batch.y, offsets), COVERAGE)
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
    relative: DoubleArray = np.maximum(error / upper, error / lower)
    return relative


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
