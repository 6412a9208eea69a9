"""How well imputed values match measured ones: by feature, compared with simple ways, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from mocli.metrics import conformal
from mocli.metrics.conformal import Conformal
from mocli.metrics.imputation import Detection, FeatureAccuracy, accuracy, detection, joined
from mocli.nn.neighbors import chunks, drawn_rows
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
