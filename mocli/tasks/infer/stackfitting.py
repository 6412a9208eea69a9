"""Fit the ways of a stack to cells measured in both modalities, weigh them, keep them.

    cells = SourceCells(values, z)                                     # their own values, their latent
    stack = fit_stack(cells, {"log": measured}, n_vars=..., seed=0)    # from cells measured in both

The weights come from what each way predicts of cells left out (stacked generalization: Wolpert 1992,
doi:10.1016/S0893-6080(05)80023-1; weights that are not negative: Breiman 1996, doi:10.1007/BF00117832).
Components overfit the cells they were found in, so they are found anew in every fold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from scipy import sparse

from mocli.data.features.index import features_of
from mocli.data.links.edges import EdgeLinks
from mocli.log import logger
from mocli.metrics import conformal, imputation
from mocli.nn.neighbors import chunks, drawn_rows
from mocli.nn.readout import non_negative
from mocli.tasks.infer.predictor import StackPredictor, link_columns, training_pairs
from mocli.tasks.prepare.plan import FEWEST_PAIRS, MOST_FEATURES, MOST_PAIRS, find_links
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.calibration import Calibration, Key, save_calibrations
from mocli.tasks.trained.folds import (
    Fold,
    LeftOut,
    Products,
    Ridge,
    Sums,
    blended,
    fit_widening,
    left_out,
    slopes,
)
from mocli.tasks.trained.latent import FIRST, NEAR_PLAIN, CellCoordinates, SourceCells
from mocli.tasks.trained.saved import SavedModel, load_model, write_stacks
from mocli.tasks.trained.stack import LINKED, WAYS, LinkedValues, Stack, Weighed
from mocli.tasks.trained.train import Trained
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray, Pairing

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
        weights = np.zeros_like(cross)
        weights[linked] = weigh(gram[linked], cross[linked], self.joined, n=len(y))
        weights[~linked, :-1] = weigh(gram[~linked, :-1, :-1], cross[~linked, :-1], self.alone, n=len(y))
        return weights


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
        fitted, new = y[fold.rest] - mean, y[fold.out] - mean
        for k in range(len(errors)):
            for a, predicted in enumerate(fold.predictions(k, fitted, PENALTIES)):
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


COVERAGE = 0.9
"""Share of measured values inside the intervals that an integration keeps."""


@dataclass(frozen=True, eq=False)
class FittedStack:
    """A stack, and how well it predicted training cells that were left out.

    Attributes:
        calibrations: By scale.
    """

    stack: Stack
    calibrations: Mapping[str, Calibration]


@dataclass(eq=False)
class _LeftOut:
    """Errors on cells left out, some features at a time; `floor` is the least value there can be."""

    floor: float | None
    coverage: float
    intervals: list[conformal.Conformal] = field(default_factory=list)
    accuracy: list[imputation.FeatureAccuracy] = field(default_factory=list)

    def see(self, times: FloatArray, predicted: FloatArray, measured: FloatArray) -> None:
        if self.floor is not None:
            predicted = np.maximum(predicted, self.floor)
        self.intervals.append(
            conformal.fit(predicted, measured, coverage=self.coverage, floor=self.floor, times=times)
        )
        self.accuracy.append(imputation.accuracy(predicted, measured))

    def calibration(self, new_batch: float) -> Calibration:
        basis = f"{self.intervals[0].n:,} training cells, each predicted by ways fitted to others of them"
        accuracy = imputation.joined(self.accuracy)
        return Calibration(conformal.join(self.intervals), basis, accuracy, new_batch)


def fitted_stack(
    request: Request,
    trained: Trained,
    saved: SavedModel,
    source: str,
    target: str,
    z: FloatArray | None,
    *,
    coverage: float = COVERAGE,
) -> FittedStack | None:
    """Fit a stack to training cells measured in both; None if these are too few, or pairs are not used.

    Args:
        z: Training cells of the source where new cells would lie, `(n_obs, d)`; None to leave the latent out.
    """
    pairs, seed = training_pairs(trained, source, target), request.run.seed
    if trained.plan.relation.pairing is Pairing.UNPAIRED or pairs is None or len(pairs) < FEWEST_PAIRS:
        return None
    if not {source, target} <= saved.readouts.keys():
        return None
    if len(pairs) > MOST_PAIRS:
        pairs = pairs[np.random.default_rng(seed).choice(len(pairs), MOST_PAIRS, replace=False)]
    logger.info("weighing ways from %s to %s", source, target)
    # in file order, so that rows are read in one sweep
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    choices = {c.file.name: c for c in trained.plan.choices}
    x = choices[source].file.read(choices[source].layer.layer, rows=pairs[:, 0])
    y = choices[target].file.read(choices[target].layer.layer, rows=pairs[:, 1])
    readout = saved.readouts[target]
    left_out = {scale: _LeftOut(readout.floor, coverage) for scale in readout.by_scale}
    places = None if z is None else np.asarray(z[pairs[:, 0]], np.float32)
    stack = fit_stack(
        SourceCells(saved.readouts[source].values(x, "log"), places),
        {
            scale: lambda columns, scale=scale: readout.measured(y, scale, columns)  # type: ignore[misc]
            for scale in readout.by_scale
        },
        n_vars=readout.n_vars,
        linked=links_between(_edges(request, trained), source, target),
        batches=_batches(trained, source, pairs[:, 0]),
        seed=seed,
        see=lambda scale, times, _, predicted, measured: left_out[scale].see(times, predicted, measured),
    )
    wider = stack.widening.new_batch if stack.widening is not None else 1.0
    calibrations = {scale: seen.calibration(wider) for scale, seen in left_out.items()}
    return FittedStack(stack, calibrations)


def _batches(trained: Trained, source: str, rows: IntArray) -> IntArray | None:
    """Codes of the batches of some rows of the source, `(n,)`; None without batches."""
    bundle = trained.prepared.bundle
    codes = bundle.codes_of(bundle.batch, source)
    return None if codes is None else codes[rows]


def keep_stacks(run: Run, saved: SavedModel, fitted: Mapping[tuple[str, str], FittedStack]) -> SavedModel:
    """Add stacks by source and target, and their calibrations, to the model's folder."""
    saved = replace(saved, stacks={key: fit.stack for key, fit in fitted.items()})
    write_stacks(run.paths.model, saved.stacks)
    calibrations: dict[Key, Calibration] = {}
    for (source, target), fit in fitted.items():
        run.say(f"ways from {source} to {target} weighed on {fit.stack.n_cells:,} cells measured in both")
        by = StackPredictor(fit.stack, saved.readouts[target]).name
        calibrations |= {
            (source, target, scale, by): calibration for scale, calibration in fit.calibrations.items()
        }
    save_calibrations(run.paths.model, calibrations)
    run.add_output(run.paths.model, "the trained model")
    return saved


def keep_all_stacks(run: Run, request: Request, trained: Trained) -> None:
    """Keep stacks between all modalities that share cells, for queries measured in one of them.

    The latent is not among their ways: no cells were held out of training, and a latent that was pulled
    towards a cell's other modality knows more of it than it will know of new cells.
    """
    names = [c.file.name for c in trained.plan.choices]
    narrow = [c.file.name for c in trained.plan.choices if c.file.n_vars <= MOST_FEATURES]
    saved, fitted = load_model(run.paths.model), {}
    for source in names:
        targets = [target for target in narrow if target != source]
        if not any(training_pairs(trained, source, target) is not None for target in targets):
            continue
        for target in targets:
            stack = fitted_stack(request, trained, saved, source, target, None)
            if stack is not None:
                fitted[source, target] = stack
    if fitted:
        keep_stacks(run, saved, fitted)


def links_between(edges: Sequence[EdgeLinks], source: str, target: str) -> LinkedValues | None:
    """Return sums of the source's features that the target's features are linked to; None without links."""
    for edge in edges:
        if {edge.source, edge.target} == {source, target}:
            sums = edge.aggregation()
            sides = sums.source, sums.target
            source_sums, other = sides if edge.source == source else sides[::-1]
            return LinkedValues(sparse.csr_matrix(source_sums, dtype=np.float32), link_columns(other))
    return None


def _edges(request: Request, trained: Trained) -> Sequence[EdgeLinks]:
    """Return the links that were given, even if the model does not use them."""
    plan = trained.plan
    if plan.linked.edges or not request.data.links:
        return plan.linked.edges
    features = features_of(plan.files, var_key=request.data.var_key)
    return find_links(request.data.links, plan.files, features, lambda _: None).edges
