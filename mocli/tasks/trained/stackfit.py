"""Fit the ways of a stack, and weigh them feature by feature by how well they predict cells left out.

    cells = SourceCells(values, z)                                     # their own values, their latent
    stack = fit_stack(cells, {"log": measured}, n_vars=..., seed=0)    # from cells measured in both

The weights come from what each way predicts of cells left out (stacked generalization: Wolpert 1992,
doi:10.1016/S0893-6080(05)80023-1; weights that are not negative: Breiman 1996, doi:10.1007/BF00117832).
Components overfit the cells they were found in, so they are found anew in every fold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mocli.nn.neighbors import chunks, drawn_rows
from mocli.nn.readout import non_negative
from mocli.tasks.trained.coordinates import FIRST, NEAR_PLAIN, CellCoordinates, SourceCells
from mocli.tasks.trained.folds import Fold, Products, Ridge, Sums, left_out, slopes
from mocli.tasks.trained.stack import LINKED, WAYS, LinkedValues, Stack, Weighed
from mocli.tasks.trained.wideningfit import LeftOut, blended, fit_widening
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray

PENALTIES = 10.0 ** np.arange(-5.0, 1.5, 0.5)
"""Ridge penalties tried, times the number of cells and the largest variance of a coordinate."""
POOLED = 300.0
"""Cells' worth of what all features say together, to which the weights of one feature are drawn."""
SEEN = 0.97
"""What is left of the agreement of left-out cells with a latent that was fitted to them among others."""
LEAST_WEIGHT = 0.2
"""Least sum of a feature's weights, so that predictions vary even where no way is reliable."""
MOST_LEFT_OUT = 1_500
"""Cells that are left out in turn; of more, so many drawn at random. All are fitted to in the end."""
FIVE_FOLDS = 1_000
"""Up to this many cells, a fifth is left out at a time; of more, a third."""
N_PROBES = 200
"""Features on which penalties are chosen."""
BLOCK = 20_000_000
"""Values of left-out cells in memory at a time, over all ways."""

Measured = Callable[[IntArray], FloatArray]
"""Given columns of the target, the cells' measured values `(n, n_columns)`."""

See = Callable[[str, FloatArray, IntArray, FloatArray, FloatArray], None]
"""Called with a scale, the widening of every cell's interval `(n,)`, columns, and values `(n, n_columns)` of
cells left out: predicted, and measured."""


def fit_stack(
    cells: SourceCells,
    measured: Mapping[str, Measured],
    *,
    n_vars: int,
    linked: LinkedValues | None = None,
    batches: IntArray | None = None,
    seed: int,
    see: See | None = None,
) -> Stack:
    """Fit the ways to cells measured in both, and weigh them by how well they predict cells left out.

    Args:
        cells: 50 or more; if there are very many, the caller draws some.
        measured: By scale, `log` among them.
        batches: Codes of the cells' batches, `(n,)`, -1 for none; None without batches.
        see: Called with the stack's predictions of the cells left out, some features at a time.
    """
    rng = np.random.default_rng(seed)
    rows = drawn_rows(cells.n, MOST_LEFT_OUT, seed=seed)
    n = len(rows)
    coordinates = CellCoordinates.fit(cells, seed=seed)
    ridges = [Ridge(phi) for phi in coordinates(cells)]
    some = cells.take(rows)
    products = Products.of(coordinates, some)
    folds = [
        Fold.fit(products, out, seed=seed)
        for out in np.array_split(rng.permutation(n), 5 if n <= FIVE_FOLDS else 3)
    ]
    probes = np.sort(rng.choice(n_vars, min(n_vars, N_PROBES), replace=False))
    sums = Sums.of(linked, cells, n_vars)
    of_some = replace(sums, values=sums.values[rows])
    pools = {
        scale: _Pool.of(folds, values(probes)[rows], of_some, probes) for scale, values in measured.items()
    }
    penalties, y, x = pools["log"].penalties, measured["log"](probes)[rows], of_some.take(probes)
    said = left_out(folds, penalties, x, y)
    weights = pools["log"].weights(said, y, sums.column[probes] >= 0)
    widening, times = fit_widening(
        LeftOut(products, y, x, weights, penalties, None if batches is None else batches[rows]),
        folds,
        said,
        ridges[NEAR_PLAIN],
        coordinates.plain(some)[:, :FIRST],
        seed=seed,
    )
    by_scale = {}
    for scale, values in measured.items():
        seen = None if see is None else partial(see, scale, times)
        by_scale[scale] = _weigh_all(values, rows, folds, ridges, sums, pools[scale], seen)
    far, odd = np.quantile(np.concatenate([fold.strangeness() for fold in folds]), 0.99, axis=0)
    return Stack(coordinates, linked, by_scale, (float(far) or 1.0, float(odd) or 1.0), cells.n, widening)


@dataclass(frozen=True, eq=False)
class _Pool:
    """What some features say together of the ways on one scale.

    Attributes:
        penalties: Of each way but the linked feature.
        alone, joined: Moments of the ways as `_moments` gives them, means over features without and with a
            link.
    """

    penalties: list[float]
    alone: tuple[DoubleArray, DoubleArray]
    joined: tuple[DoubleArray, DoubleArray]

    @classmethod
    def of(cls, folds: Sequence[Fold], y: FloatArray, sums: Sums, probes: IntArray) -> _Pool:
        """Pool features `probes`, whose values are `(n, n_probes)`."""
        penalties = _penalties(folds, y)
        gram, cross = _moments(left_out(folds, penalties, sums.take(probes), y), y)
        every = gram.mean(0), cross.mean(0)
        linked = sums.column[probes] >= 0
        joined = (gram[linked].mean(0), cross[linked].mean(0)) if linked.any() else every
        # features without a link have one way less
        return cls(penalties, (every[0][:-1, :-1], every[1][:-1]), joined)

    def weights(self, predictions: FloatArray, y: FloatArray, linked: BoolArray) -> DoubleArray:
        """Weigh the ways by their predictions of cells left out, `(n_columns, n_ways)`."""
        gram, cross = _moments(predictions, y)
        found = np.zeros_like(cross)
        found[linked] = weigh(gram[linked], cross[linked], self.joined, n=len(y))
        found[~linked, :-1] = weigh(gram[~linked, :-1, :-1], cross[~linked, :-1], self.alone, n=len(y))
        return found


def _weigh_all(
    measured: Measured,
    rows: IntArray,
    folds: Sequence[Fold],
    ridges: Sequence[Ridge],
    sums: Sums,
    pool: _Pool,
    see: Callable[[IntArray, FloatArray, FloatArray], None] | None,
) -> Weighed:
    """Weigh the ways of every feature by how they predict the cells `rows`, some features at a time."""
    n_vars, n_ways = len(sums.column), len(ridges) + 1
    coefficients = np.empty((sum(len(r.v) for r in ridges), n_vars), np.float32)
    intercept, slope = np.empty(n_vars, np.float32), np.zeros(n_vars, np.float32)
    weights = np.zeros((len(WAYS), n_vars), np.float32)
    where = [*range(len(ridges)), WAYS.index(LINKED)]
    for span in chunks(n_vars, max(16, BLOCK // (len(rows) * n_ways))):
        columns = np.arange(span.start, span.stop)
        every, sum_of_every = measured(columns), sums.take(columns)
        y, x = every[rows], sum_of_every[rows]
        mean = every.mean(0)
        predictions = left_out(folds, pool.penalties, x, y, mean)
        weight = pool.weights(predictions, y, sums.column[columns] >= 0)
        if see is not None:
            # about the mean of all cells, as new ones will be: that of some would shift every rare value
            see(columns, blended(predictions, weight, mean), y)
        every -= mean
        parts = [
            ridge.coefficients(every, penalty) * weight[:, k]
            for k, (ridge, penalty) in enumerate(zip(ridges, pool.penalties, strict=True))
        ]
        coefficients[:, span] = np.concatenate(parts)
        by_link, center = slopes(sum_of_every, every)
        slope[span] = by_link * weight[:, -1]
        shift = sum(ridge.mean @ part for ridge, part in zip(ridges, parts, strict=True))
        intercept[span] = mean - shift - center * slope[span]
        weights[where, span] = weight.T
    return Weighed(coefficients, intercept, slope, weights)


def _penalties(folds: Sequence[Fold], y: FloatArray) -> list[float]:
    """Choose one penalty for each way, by its error on cells left out over features of equal variance."""
    variance = y.var(0)
    scale = np.where(variance > 0, variance, 1)
    errors = np.zeros((len(folds[0].ridges), len(PENALTIES)))
    for fold in folds:
        mean = y[fold.rest].mean(0)
        known, new = y[fold.rest] - mean, y[fold.out] - mean
        for k in range(len(errors)):
            for a, predicted in enumerate(fold.predictions(k, known, PENALTIES)):
                errors[k, a] += (np.square(predicted - new).sum(0) / scale).sum()
    return [float(PENALTIES[a]) for a in errors.argmin(1)]


def _moments(predictions: FloatArray, y: FloatArray) -> tuple[DoubleArray, DoubleArray]:
    """Mean products of the ways' predictions with each other, and with the truth, by feature.

    Args:
        said, y: As `left_out` returns and takes them.

    Returns:
        `(n_columns, n_ways, n_ways)` and `(n_columns, n_ways)`, of values standardised by the truth's
        moments.
    """
    n_ways = len(predictions)
    mean, deviation = y.mean(0), y.std(0)
    deviation = np.where(deviation > 0, deviation, 1)
    gram, cross = np.zeros((y.shape[1], n_ways, n_ways)), np.zeros((y.shape[1], n_ways))
    for rows in chunks(len(y), 1024):
        stacked = (predictions[:, rows] - mean) / deviation
        truth = (y[rows] - mean) / deviation
        for a in range(n_ways):
            cross[:, a] += np.einsum("nf,nf->f", stacked[a], truth)
            for b in range(a + 1):
                gram[:, a, b] += np.einsum("nf,nf->f", stacked[a], stacked[b])
                gram[:, b, a] = gram[:, a, b]
    if n_ways > WAYS.index("latent") + 1:
        # a model has seen these very cells, and knows them better than others
        cross[:, WAYS.index("latent")] *= SEEN
    return gram / len(y), cross / len(y)


def weigh(
    gram: DoubleArray, cross: DoubleArray, pooled: tuple[DoubleArray, DoubleArray], *, n: int
) -> DoubleArray:
    """Return the weights of each feature, `(n_columns, n_ways)`, none negative.

    Args:
        gram, cross: As `_moments` gives them; `pooled` their means over features.
        n: Cells behind them.
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
