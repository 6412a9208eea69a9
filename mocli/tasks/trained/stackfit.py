"""Fit the ways of a stack, and weigh them feature by feature by how well they predict cells left out.

    cells = SourceCells(values, z)                                     # their own values, their latent
    stack = fit_stack(cells, {"log": measured}, n_vars=..., seed=0)    # from cells measured in both

The weights come from what each way predicts of cells left out (stacked generalization: Wolpert 1992,
doi:10.1016/S0893-6080(05)80023-1; weights that are not negative: Breiman 1996, doi:10.1007/BF00117832).
Components overfit the cells they were found in, so they are found anew in every fold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mocli.nn.neighbors import chunks
from mocli.nn.readout import non_negative
from mocli.tasks.trained.coordinates import CellCoordinates, SourceCells, strangeness
from mocli.tasks.trained.stack import LINKED, WAYS, LinkedValues, Stack, Weighed
from mocli.types import DoubleArray, FloatArray, IntArray

PENALTIES = 10.0 ** np.arange(-5.0, 1.5, 0.5)
"""Ridge penalties tried, times the number of cells and the largest variance of a coordinate."""
POOLED = 300.0
"""Cells' worth of what all features say together, to which the weights of one feature are drawn."""
SEEN = 0.97
"""What is left of the agreement of left-out cells with a latent that was fitted to them among others."""
LEAST_WEIGHT = 0.2
"""Least sum of a feature's weights, so that predictions vary even where no way is reliable."""
N_PROBES = 200
"""Features on which penalties are chosen."""
BLOCK = 20_000_000
"""Values of left-out cells in memory at a time, over all ways."""

Measured = Callable[[IntArray], FloatArray]
"""Given columns of the target, the cells' measured values `(n, n_columns)`."""

See = Callable[[str, IntArray, FloatArray, FloatArray], None]
"""Called with a scale, columns, and values `(n, n_columns)` of cells left out: predicted, and measured."""


class _Ridge:
    """Ridge regressions on one set of coordinates, for any penalty and target."""

    def __init__(self, phi: FloatArray) -> None:
        x = np.asarray(phi, np.float64)
        self.mean = x.mean(0)
        u, s, vt = np.linalg.svd(x - self.mean, full_matrices=False)
        keep = s > 1e-9 * max(s[0], 1e-300) if len(s) else np.zeros(0, bool)
        self.u, self.s, self.v = u[:, keep], s[keep], vt[keep].T
        self.unit = float(np.square(s[0])) if len(s) and s[0] > 0 else 1.0

    def coefficients(self, y: DoubleArray, penalty: float) -> DoubleArray:
        """Return `(r, n_columns)` for centred targets `(n, n_columns)`."""
        shrink = self.s / (np.square(self.s) + penalty * self.unit)
        coefficients: DoubleArray = self.v @ (shrink[:, None] * (self.u.T @ y))
        return coefficients


def fit_stack(
    cells: SourceCells,
    measured: Mapping[str, Measured],
    *,
    n_vars: int,
    linked: LinkedValues | None = None,
    seed: int,
    see: See | None = None,
) -> Stack:
    """Fit the ways to cells measured in both, and weigh them by how well they predict cells left out.

    Parameters
    ----------
    cells
        50 or more; if there are very many, the caller draws some.
    measured
        By scale, `log` among them.
    see
        Called with the stack's predictions of the cells left out, some features at a time.
    """
    rng = np.random.default_rng(seed)
    folds = [
        _Fold.fit(cells, out, seed=seed)
        for out in np.array_split(rng.permutation(cells.n), 5 if cells.n <= 2_000 else 3)
    ]
    probes = np.sort(rng.choice(n_vars, min(n_vars, N_PROBES), replace=False))
    coordinates = CellCoordinates.fit(cells, seed=seed)
    ridges = [_Ridge(phi) for phi in coordinates(cells)]
    sums = _Sums.of(linked, cells, n_vars)
    by_scale = {
        scale: _weigh_all(values, folds, ridges, sums, probes, None if see is None else partial(see, scale))
        for scale, values in measured.items()
    }
    left_out = np.concatenate([fold.strangeness for fold in folds])
    far, odd = np.quantile(left_out, 0.99, axis=0)
    return Stack(coordinates, linked, by_scale, (float(far) or 1.0, float(odd) or 1.0), cells.n)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Linked sums of the cells fitted on, `(n, n_links)`, and the sum of each feature, `(n_vars,)`."""

    values: FloatArray
    column: IntArray

    @classmethod
    def of(cls, linked: LinkedValues | None, cells: SourceCells, n_vars: int) -> _Sums:
        if linked is None:
            return cls(np.zeros((cells.n, 1), np.float32), np.full(n_vars, -1, np.int64))
        return cls(linked(cells), linked.column)

    def take(self, columns: IntArray) -> DoubleArray:
        """Return what some features are linked to, `(n, n_columns)`; 0 without a link."""
        sum_column = self.column[columns]
        sums: DoubleArray = np.where(sum_column >= 0, self.values[:, np.maximum(sum_column, 0)], 0).astype(
            np.float64
        )
        return sums


def _weigh_all(
    measured: Measured,
    folds: Sequence[_Fold],
    ridges: Sequence[_Ridge],
    sums: _Sums,
    probes: IntArray,
    see: Callable[[IntArray, FloatArray, FloatArray], None] | None,
) -> Weighed:
    """Weigh the ways of every feature, some features at a time."""
    y = np.asarray(measured(probes), np.float64)
    penalties = _penalties(folds, y)
    gram, cross = _moments(_left_out(folds, penalties, sums.take(probes), y), y)
    joined = sums.column[probes] >= 0
    pooled = gram.mean(0), cross.mean(0)
    pooled_joined = (gram[joined].mean(0), cross[joined].mean(0)) if joined.any() else pooled
    n, n_vars, n_ways = len(y), len(sums.column), len(ridges) + 1
    coefficients = np.empty((sum(len(r.v) for r in ridges), n_vars), np.float32)
    intercept, slope = np.empty(n_vars, np.float32), np.zeros(n_vars, np.float32)
    weights = np.zeros((len(WAYS), n_vars), np.float32)
    where = [*range(len(ridges)), WAYS.index(LINKED)]
    for span in chunks(n_vars, max(16, BLOCK // (n * n_ways))):
        columns = np.arange(span.start, span.stop)
        y = np.asarray(measured(columns), np.float64)
        x = sums.take(columns)
        predictions = _left_out(folds, penalties, x, y)
        gram, cross = _moments(predictions, y)
        weight = np.zeros_like(cross)
        joined = sums.column[columns] >= 0
        weight[joined] = weigh(gram[joined], cross[joined], pooled_joined, n=n)
        # features without a link have one way less
        alone = ~joined
        weight[alone, :-1] = weigh(
            gram[alone, :-1, :-1], cross[alone, :-1], (pooled[0][:-1, :-1], pooled[1][:-1]), n=n
        )
        if see is not None:
            see(
                columns, np.einsum("anf,fa->nf", predictions, weight).astype(np.float32), y.astype(np.float32)
            )
        mean = y.mean(0)
        y -= mean
        parts = [
            ridge.coefficients(y, penalty) * weight[:, k]
            for k, (ridge, penalty) in enumerate(zip(ridges, penalties, strict=True))
        ]
        coefficients[:, span] = np.concatenate(parts)
        by_link, center = _slopes(x, y)
        slope[span] = by_link * weight[:, -1]
        shift = sum(ridge.mean @ part for ridge, part in zip(ridges, parts, strict=True))
        intercept[span] = mean - shift - center * slope[span]
        weights[where, span] = weight.T
    return Weighed(coefficients, intercept, slope, weights)


@dataclass(frozen=True, eq=False)
class _Fold:
    """Ways fitted to the rows `rest`, and the coordinates of the rows `out` that were left out."""

    out: IntArray
    rest: IntArray
    ridges: list[_Ridge]
    phi: list[FloatArray]
    strangeness: DoubleArray

    @classmethod
    def fit(cls, cells: SourceCells, out: IntArray, *, seed: int) -> _Fold:
        rest = np.setdiff1d(np.arange(cells.n), out)
        training, new = cells.take(rest), cells.take(out)
        coordinates = CellCoordinates.fit(training, seed=seed)
        ridges = [_Ridge(phi) for phi in coordinates(training)]
        return cls(out, rest, ridges, coordinates(new), strangeness(coordinates, new))

    def predict(self, k: int, y: DoubleArray, penalty: float) -> DoubleArray:
        """Return way k's predictions of the cells left out, given targets `(n, n_columns)` of all cells."""
        mean, ridge = y[self.rest].mean(0), self.ridges[k]
        predicted: DoubleArray = mean + (self.phi[k] - ridge.mean) @ ridge.coefficients(
            y[self.rest] - mean, penalty
        )
        return predicted


def _penalties(folds: Sequence[_Fold], y: DoubleArray) -> list[float]:
    """Choose one penalty for each way, by its error on cells left out over features of equal variance."""
    variance = y.var(0)
    scale = np.where(variance > 0, variance, 1)
    chosen = []
    for k in range(len(folds[0].ridges)):
        errors = np.zeros(len(PENALTIES))
        for fold in folds:
            for a, penalty in enumerate(PENALTIES):
                error = np.square(fold.predict(k, y, penalty) - y[fold.out]) / scale
                errors[a] += error.sum()
        chosen.append(float(PENALTIES[int(errors.argmin())]))
    return chosen


def _left_out(
    folds: Sequence[_Fold], penalties: Sequence[float], x: DoubleArray, y: DoubleArray
) -> FloatArray:
    """Return each way's prediction of every cell, fitted without it: `(n_ways, n, n_columns)`.

    Parameters
    ----------
    x, y
        What features are linked to, and their values, `(n, n_columns)`.
    """
    predictions = np.empty((len(penalties) + 1, *y.shape), np.float32)
    for fold in folds:
        for k, penalty in enumerate(penalties):
            predictions[k, fold.out] = fold.predict(k, y, penalty)
        center = y[fold.rest].mean(0)
        slope, middle = _slopes(x[fold.rest], y[fold.rest] - center)
        predictions[-1, fold.out] = center + (x[fold.out] - middle) * slope
    return predictions


def _moments(predictions: FloatArray, y: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Mean products of the ways' predictions with each other, and with the truth, by feature.

    Parameters
    ----------
    said, y
        As `_left_out` returns and takes them.

    Returns
    -------
    `(n_columns, n_ways, n_ways)` and `(n_columns, n_ways)`, of values standardised by the truth's moments.
    """
    n_ways = len(predictions)
    mean, deviation = y.mean(0), y.std(0)
    deviation = np.where(deviation > 0, deviation, 1)
    gram, cross = np.zeros((y.shape[1], n_ways, n_ways)), np.zeros((y.shape[1], n_ways))
    for rows in chunks(len(y), 1024):
        stacked = (predictions[:, rows] - mean) / deviation
        gram += np.einsum("anf,bnf->fab", stacked, stacked)
        cross += np.einsum("anf,nf->fa", stacked, (y[rows] - mean) / deviation)
    if n_ways > WAYS.index("latent") + 1:
        # a model has seen these very cells, and knows them better than others
        cross[:, WAYS.index("latent")] *= SEEN
    return gram / len(y), cross / len(y)


def _slopes(x: DoubleArray, y: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Slope of centred targets in their linked sums, 0 without a link, and the mean of these sums."""
    center = x.mean(0)
    square = np.square(x - center).sum(0)
    slope = np.divide(((x - center) * y).sum(0), square, out=np.zeros(y.shape[1]), where=square > 1e-9)
    return slope, center


def weigh(
    gram: DoubleArray, cross: DoubleArray, pooled: tuple[DoubleArray, DoubleArray], *, n: int
) -> DoubleArray:
    """Return the weights of each feature, `(n_columns, n_ways)`, none negative.

    Parameters
    ----------
    gram, cross
        As `_moments` gives them; `pooled` their means over features.
    n
        Cells behind them.
    """
    share = POOLED / (POOLED + n)
    n_ways = cross.shape[1]
    weights = np.empty_like(cross)
    for j in range(len(cross)):
        a = (1 - share) * gram[j] + share * pooled[0]
        b = (1 - share) * cross[j] + share * pooled[1]
        weights[j] = non_negative(a, b)
    lacking = np.maximum(LEAST_WEIGHT - weights.sum(1), 0)
    weights += lacking[:, None] / n_ways
    return weights
