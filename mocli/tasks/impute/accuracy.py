"""How well imputed values match measured ones: by feature, and compared with simple ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

import numpy as np
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.data.transforms.components import Components, are_components, without_averaging
from mocli.data.transforms.transform import LOGNORM, median_total
from mocli.metrics import conformal
from mocli.metrics.conformal import Conformal
from mocli.metrics.imputation import Detection, FeatureAccuracy, accuracy, detection, joined
from mocli.nn.neighbors import chunks, drawn_rows, knn, unit_rows
from mocli.tasks.infer.align import Aligned
from mocli.tasks.infer.predictor import (
    StackPredictor,
    cells_of_file,
    link_columns,
    link_sides,
    linked_values,
    of_cells,
    training_pairs,
)
from mocli.tasks.infer.translation import Translation
from mocli.tasks.prepare.smoothing import smooth_links
from mocli.tasks.trained.calibration import Calibration
from mocli.tasks.trained.train import Trained
from mocli.types import DoubleArray, FloatArray, IntArray

Predict = Callable[[IntArray], FloatArray]
See = Callable[[str, IntArray, FloatArray], None]

MAX_CELLS = 5000
"""Cells that accuracy is measured on."""

COLUMNS = 1000
"""Features held dense at a time."""

FOLDS = 10
"""Parts of the evaluated cells; intervals fitted on the others are tested on each."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Accuracy and intervals on held-out or measured cells.

    Attributes:
        accuracy: Of the model.
        baselines: By name; NaN for features that a baseline does not predict.
        intervals: Fitted on all evaluated cells.
        coverage: Share of cells inside intervals that were fitted on the other cells, `(n_vars,)`; NaN for
            features not measured.
        coverage_present: The same among values that are not zero; NaN where none is.
        detection, baseline_detection: How well cells that have a feature at all are told from those that lack
            it; where asked for.
    """

    accuracy: FeatureAccuracy
    baselines: Mapping[str, FeatureAccuracy]
    intervals: Conformal
    coverage: DoubleArray
    coverage_present: DoubleArray
    n_cells: int
    detection: Detection | None = None
    baseline_detection: Mapping[str, Detection] = field(default_factory=dict)


def evaluate(
    measured: Predict,
    predicted: Predict,
    baselines: Mapping[str, Predict],
    *,
    n_vars: int,
    n_cells: int,
    coverage: float,
    floor: float | None,
    seed: int,
    detect: bool = False,
    see: See | None = None,
    times: FloatArray | None = None,
) -> Evaluation:
    """Compare predicted with measured values, some features at a time.

    Args:
        measured, predicted, baselines: Give `(n_cells, n_columns)` for columns of the target.
        coverage: Nominal share of cells inside an interval.
        detect: Whether zero means absence, so that detection is worth measuring.
        see: Called with all values in turn: source (`measured`, `model`, or a baseline), columns, values.
        times: How many times wider the interval of each cell is, `(n_cells,)`.
    """
    order = np.random.default_rng(seed).permutation(n_cells)
    folds = np.array_split(order, FOLDS)
    parts: list[FeatureAccuracy] = []
    beside: dict[str, list[FeatureAccuracy]] = {name: [] for name in baselines}
    detections: dict[str, list[Detection]] = {}
    intervals: list[Conformal] = []
    covered: list[DoubleArray] = []
    present: list[DoubleArray] = []
    for span in chunks(n_vars, COLUMNS):
        columns = np.arange(span.start, span.stop)
        y, x = measured(columns), predicted(columns)
        parts.append(accuracy(x, y))
        if see is not None:
            see("measured", columns, y)
            see("model", columns, x)
        for name, predict in baselines.items():
            other = predict(columns)
            beside[name].append(accuracy(other, y))
            if see is not None:
                see(name, columns, other)
            if detect:
                detections.setdefault(name, []).append(detected(other, y))
        if detect:
            detections.setdefault("", []).append(detected(x, y))
        intervals.append(conformal.fit(x, y, coverage=coverage, floor=floor, times=times))
        inside = np.zeros(y.shape, dtype=bool)
        for fold in folds:
            rest = np.setdiff1d(order, fold, assume_unique=True)
            wide = (None, None) if times is None else (times[rest], times[fold])
            fitted = conformal.fit(x[rest], y[rest], coverage=coverage, floor=floor, times=wide[0])
            lower, upper = fitted.interval(x[fold], wide[1])
            inside[fold] = (y[fold] >= lower) & (y[fold] <= upper)
        all_measured = np.isfinite(y).all(0)
        covered.append(np.where(all_measured, inside.mean(0), np.nan))
        nonzero = (y != 0) & all_measured
        share = np.full(len(columns), np.nan)
        np.divide((inside & nonzero).sum(0), nonzero.sum(0), out=share, where=nonzero.any(0))
        present.append(share)
    return Evaluation(
        accuracy=joined(parts),
        baselines={name: joined(blocks) for name, blocks in beside.items()},
        intervals=conformal.join(intervals),
        coverage=np.concatenate(covered),
        coverage_present=np.concatenate(present),
        n_cells=n_cells,
        detection=_beside_each_other(detections.pop("")) if detect else None,
        baseline_detection={name: _beside_each_other(blocks) for name, blocks in detections.items()},
    )


def detected(x: FloatArray, y: FloatArray) -> Detection:
    """Call as many cells positive as have the feature, so that predictions need not be probabilities."""
    present = y > 0
    rank = np.clip(len(y) - present.sum(0) - 1, 0, len(y) - 1)
    threshold = np.take_along_axis(np.sort(x, axis=0), rank[None], 0)[0]
    return detection(x, present, threshold=threshold)


def _beside_each_other(parts: list[Detection]) -> Detection:
    return Detection(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Detection)}
    )


def mean_baseline(mean: FloatArray, n_cells: int) -> Predict:
    """Give every cell the mean of the training cells."""

    def predict(columns: IntArray) -> FloatArray:
        return np.broadcast_to(mean[columns], (n_cells, len(columns))).astype(np.float32)

    return predict


def linked_baseline(
    linked: FloatArray, column_of: IntArray, mean: FloatArray, deviation: FloatArray
) -> Predict:
    """Predict a feature by its standardised linked features in the source, on its own mean and spread.

    Args:
        linked: Standardised linked features of the cells, `(n_cells, n_links)`.
        column_of: Which of them belongs to each feature of the target, -1 for none, `(n_vars,)`.
    """

    def predict(columns: IntArray) -> FloatArray:
        linked_column = column_of[columns]
        values = linked[:, np.maximum(linked_column, 0)] * deviation[columns] + mean[columns]
        values[:, linked_column < 0] = np.nan
        return values.astype(np.float32)

    return predict


def ridge_baseline(
    train_x: FloatArray | DoubleArray,
    train_y: Callable[[IntArray], FloatArray],
    new_x: FloatArray | DoubleArray,
    *,
    n_vars: int,
    seed: int,
) -> Predict:
    """Regress the target on principal components of the source, by ridge, on paired cells.

    The penalty is the best of seven on a third of the training pairs, for at most 200 features.
    """
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train_x))
    inner, outer = order[len(order) // 3 :], order[: len(order) // 3]
    probe = np.sort(rng.choice(n_vars, min(n_vars, 200), replace=False))
    y = train_y(probe)
    errors = {}
    for alpha in 10.0 ** np.arange(-1, 6):
        fitted = Ridge(alpha=alpha).fit(train_x[inner], y[inner])
        errors[alpha] = float(np.square(fitted.predict(train_x[outer]) - y[outer]).mean())
    best = min(errors, key=lambda a: errors[a])

    def predict(columns: IntArray) -> FloatArray:
        fitted = Ridge(alpha=best).fit(train_x, train_y(columns))
        return fitted.predict(new_x).astype(np.float32).reshape(len(new_x), len(columns))

    return predict


def rows_drawn(n: int, *, seed: int) -> IntArray:
    """All of n rows, or 5,000 of them at random, in order."""
    return drawn_rows(n, MAX_CELLS, seed=seed)


def blocks_of(n: int, n_vars: int) -> Iterator[slice]:
    """Yield rows to compute at a time, about eight million values."""
    return chunks(n, max(16, 8_000_000 // max(n_vars, 1)))


FEWEST = 20
"""Fewest pairs, or partners, that anything is fitted to."""

MAX_TARGET, MAX_SOURCE = 5_000, 20_000
"""Cells of each side among which partners are looked for."""

COMPONENTS = 100
"""Principal components of the source, for the regression."""

OWN = "readout"
"""The way that is a part of the model, not a rival of it."""


def simple_ways(
    translation: Translation,
    trained: Trained | None,
    scale: str,
    cells: IntArray,
    target: Aligned,
    *,
    seed: int,
) -> dict[str, Predict]:
    """Return simple ways to predict the target of some rows of the source, by name."""
    readout, n = translation.readout, len(cells)
    mean, deviation = readout.moments(scale)
    ways: dict[str, Predict] = {"mean": mean_baseline(mean, n)}
    if isinstance(translation.predictor, StackPredictor):
        ways[OWN] = lambda columns: readout.predict(translation.z[cells], scale, columns)
    linked = _linked(translation, cells)
    if linked is not None:
        ways["linked_feature"] = linked_baseline(*linked, mean, deviation)
    pairs = None if trained is None else training_pairs(trained, translation.source, translation.target)
    if trained is not None and pairs is not None and len(pairs) >= FEWEST:
        ways["ridge"] = _ridge(translation, trained, scale, pairs, cells, target, seed=seed)
    return ways


def _linked(translation: Translation, cells: IntArray) -> tuple[FloatArray, IntArray] | None:
    """Standardised linked features of source cells, and which column is whose."""
    sides = link_sides(translation.saved, translation.source, translation.target)
    if sides is None:
        return None
    x = translation.aligned(translation.source).read(cells)
    return linked_values(sides[0], x), link_columns(sides[1].aggregation)


def _ridge(
    translation: Translation,
    trained: Trained,
    scale: str,
    pairs: IntArray,
    cells: IntArray,
    target: Aligned,
    *,
    seed: int,
) -> Predict:
    pairs = pairs[rows_drawn(len(pairs), seed=seed)]
    source = trained.prepared.bundle.modalities[translation.source]
    features = without_averaging(source.features)
    aligned = translation.aligned(translation.source)
    new = translation.saved.recipes[translation.source].apply(aligned.read(cells), aligned.absent)
    before, after = _scores(source, replace(features, values=features.values[pairs[:, 0]]), new, seed=seed)
    trained_file = next(f for f in trained.plan.files if f.name == translation.target)
    x = replace(target, file=trained_file).read(pairs[:, 1])
    readout = translation.readout
    return ridge_baseline(
        before, lambda columns: readout.measured(x, scale, columns), after, n_vars=readout.n_vars, seed=seed
    )


def _scores(
    source: Modality, known_features: FeatureMatrix, new_features: FeatureMatrix, *, seed: int
) -> tuple[DoubleArray, DoubleArray]:
    """Principal components of what a model sees of known and of new cells; of counts, of their logarithms."""
    if source.is_counted:
        depth = median_total(sparse.csr_matrix(known_features.values))
        known_features, new_features = (
            replace(m, values=LOGNORM.forward(sparse.csr_matrix(m.values), target_sum=depth))
            for m in (known_features, new_features)
        )
    if not are_components(known_features.names):
        fitted = Components.fit(known_features, n_components=COMPONENTS, seed=seed)
        known_features, new_features = fitted.apply(known_features), fitted.apply(new_features)
    # in double precision, in which a small penalty still makes the solution unique
    parts = (dense_rows(m, np.arange(m.n_obs)).astype(np.float64) for m in (known_features, new_features))
    before, after = parts
    return before, after


def on_partners(
    translation: Translation, trained: Trained, scales: Sequence[str], *, coverage: float, seed: int
) -> dict[str, Calibration]:
    """Intervals without true pairs, by scale: cells of the target against their partners by linked features.

    None where no links join the two directly, or partners are too few.
    """
    readout, bundle = translation.readout, trained.prepared.bundle
    source, target = translation.source, translation.target
    partners = partners_by_links(bundle, source, target, seed=seed)
    if partners is None or len(partners[0]) < FEWEST:
        return {}
    cells, true_cells = partners
    trained_file = next(f for f in trained.plan.files if f.name == target)
    x, z = (
        translation.aligned(target, trained_file).read(true_cells),
        trained.latent.by_modality[source][cells],
    )
    batches = None if bundle.batch is None else bundle.batch.codes[bundle.cells_of(source)[cells]]
    predict = _of_training(translation, trained, cells, z, batches)
    paired = len(translation.pairs) > 0
    why = "too few cells measured in both were held out" if paired else "no true pairs are known"
    basis = (
        f"{len(cells):,} {target} cells and the {source} cells nearest to them in smoothed linked features, "
        f"because {why}: they hold as far as these partners are alike"
    )
    calibrations = {}
    for scale in dict.fromkeys(scales):
        parts = []
        for span in chunks(readout.n_vars, COLUMNS):
            columns = np.arange(span.start, span.stop)
            predicted = predict(scale, columns)
            measured = readout.measured(x, scale, columns)
            floor = readout.floor if scale != "scaled" else None
            parts.append(conformal.fit(predicted, measured, coverage=coverage, floor=floor))
        calibrations[scale] = Calibration(conformal.join(parts), basis)
    return calibrations


def partners_by_links(
    bundle: MultiOmics, source: str, target: str, *, seed: int
) -> tuple[IntArray, IntArray] | None:
    """Return rows of source and target cells, `(n,)` each, nearest by smoothed linked features.

    Every target cell (5,000 sampled at most) has the source cell (of 20,000 at
    most) that is nearest by cosine. None where no links join the two directly,
    or where a cell has no linked signal.
    """
    for link in bundle.links:
        if {source, target} == {link.source, link.target}:
            (smoothed,) = smooth_links(replace(bundle, links=(link,)), seed=seed, say=lambda _: None).links
            sides = {link.source: smoothed.source_features, link.target: smoothed.target_features}
            rng = np.random.default_rng(seed)
            rows = {}
            for name, most in ((source, MAX_SOURCE), (target, MAX_TARGET)):
                rows[name] = drawn_rows(sides[name].n_obs, most, seed=rng)
            points = {name: unit_rows(dense_rows(sides[name], rows[name])) for name in rows}
            nearest = knn(points[target], points[source], 1)[1][:, 0]
            has_links = points[target].any(1)
            return rows[source][nearest[has_links]], rows[target][has_links]
    return None


def _of_training(
    translation: Translation, trained: Trained, rows: IntArray, z: FloatArray, batches: IntArray | None
) -> Callable[[str, IntArray], FloatArray]:
    """Return a function that gives expected values of training cells at latent coordinates `z`."""
    predictor, source = translation.predictor, translation.source
    if not isinstance(predictor, StackPredictor):
        return partial(of_cells(predictor, batches).predict, z)
    file = next(f for f in trained.plan.files if f.name == source)
    aligned = translation.aligned(source, file)
    cells = cells_of_file(translation.saved, source, aligned, rows, z)
    return partial(predictor.predict, cells)
