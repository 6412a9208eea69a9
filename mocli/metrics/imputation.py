"""How well predicted values agree with measured ones: per feature, per cell, and against baselines.

Every statistic is computed in float64, one block of columns at a time, so that it needs some 100 MB of
memory beside the two inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocli.nn.neighbors import chunks
from mocli.types import BoolArray, DoubleArray, IntArray

BLOCK = 2**20  # values held at once: 8 MB in float64
MIN_CELLS = 3  # of two, every correlation is 1 or -1
HIGHER_IS_BETTER = {"pearson": True, "spearman": True, "rmse": False, "mae": False, "r2": True}


@dataclass(frozen=True, eq=False)
class FeatureAccuracy:
    """Agreement of predicted and measured values over cells, `(p,)` each, NaN where undefined.

    Attributes
    ----------
    pearson, spearman
        Correlations, Spearman's with average ranks; undefined below 3 cells or if either column is constant.
    rmse, mae
        Root of the mean squared error and mean absolute error, in the unit of the values.
    r2
        1 - SSE / SST around the mean of the measured values given here; 0 is no better than that
        mean. Undefined below 3 cells or if the measured column is constant.
    n
        Cells compared.

    A feature with a value that is not finite is NaN in all of them.
    """

    pearson: DoubleArray
    spearman: DoubleArray
    rmse: DoubleArray
    mae: DoubleArray
    r2: DoubleArray
    n: IntArray


@dataclass(frozen=True, eq=False)
class Detection:
    """How well predictions tell cells that have a feature from cells that lack it, `(p,)` each.

    Attributes
    ----------
    auprc
        Average precision, sum over distinct scores of the gain in recall times precision.
    balanced_accuracy
        Mean of sensitivity and specificity of `predicted > threshold`.
    true_positive_rate
        That sensitivity, also known as recall: share of the cells with the feature that are predicted to
        have it.
    true_negative_rate
        That specificity: share of the cells without the feature that are predicted to lack it.
    prevalence
        Share of cells that have the feature: the average precision of guessing.

    All but the prevalence are NaN for a feature that all cells have, or none.
    """

    auprc: DoubleArray
    balanced_accuracy: DoubleArray
    true_positive_rate: DoubleArray
    true_negative_rate: DoubleArray
    prevalence: DoubleArray


def accuracy(predicted: NDArray[Any], measured: NDArray[Any]) -> FeatureAccuracy:
    """Compare feature by feature.

    Parameters
    ----------
    predicted, measured
        `(n, p)`, the same cells and features, on the same scale.

    Raises
    ------
    ValueError
        Shapes that differ.
    """
    n, p = _shape(predicted, measured)
    out = {name: np.full(p, np.nan) for name in HIGHER_IS_BETTER}
    for features in chunks(p, _width(n)) if n else ():
        x, y = _rows(predicted, features), _rows(measured, features)
        for name, values in _compare_rows(x, y).items():
            out[name][features] = values
    return FeatureAccuracy(**out, n=np.full(p, n, np.int64))


def joined(parts: Sequence[FeatureAccuracy]) -> FeatureAccuracy:
    """Put the features of several parts side by side."""
    return FeatureAccuracy(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(FeatureAccuracy)}
    )


def detection(
    predicted: NDArray[Any], present: BoolArray, *, threshold: float | NDArray[Any] = 0.5
) -> Detection:
    """Score predictions of presence or absence, such as accessibility; equal to scikit-learn's scores.

    Parameters
    ----------
    predicted
        `(n, p)`, higher where presence is likelier.
    present
        `(n, p)`, e.g. `measured > 0`.
    threshold
        A prediction above it says "present": one number, or one per feature `(p,)`.

    Raises
    ------
    ValueError
        Shapes that differ.
    """
    n, p = _shape(predicted, present)
    above = np.broadcast_to(np.asarray(threshold), (p,))
    auprc, balanced, recall, passed, prevalence = (np.full(p, np.nan) for _ in range(5))
    for features in chunks(p, _width(n)) if n else ():
        score = np.ascontiguousarray(predicted[:, features].T)
        is_present = np.ascontiguousarray(present[:, features].T.astype(bool))
        positives = is_present.sum(1)
        called = score > above[features, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            hits = (called & is_present).sum(1) / positives
            rejected = (~called & ~is_present).sum(1) / (n - positives)
            average = _average_precision(score, is_present)
        void = (positives == 0) | (positives == n) | ~np.isfinite(score).all(1)
        prevalence[features] = positives / n
        auprc[features] = np.where(void, np.nan, average)
        balanced[features] = np.where(void, np.nan, (hits + rejected) / 2)
        recall[features] = np.where(void, np.nan, hits)
        passed[features] = np.where(void, np.nan, rejected)
    return Detection(auprc, balanced, recall, passed, prevalence)


def _shape(a: NDArray[Any], b: NDArray[Any]) -> tuple[int, int]:
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"predicted is {a.shape} and measured {b.shape}: both must be cells x features")
    return a.shape


def _width(length: int) -> int:
    return max(1, BLOCK // max(1, length))


def _rows(x: NDArray[Any], columns: slice) -> DoubleArray:
    """Return columns as contiguous float64 rows."""
    return np.ascontiguousarray(x[:, columns].T, dtype=np.float64)


def _finite(x: DoubleArray, y: DoubleArray) -> BoolArray:
    return np.asarray(np.isfinite(x).all(1) & np.isfinite(y).all(1), bool)


def _compare_rows(x: DoubleArray, y: DoubleArray) -> dict[str, DoubleArray]:
    from scipy.stats import rankdata

    finite = _finite(x, y)
    x, y = (np.where(finite[:, None], v, 0.0) for v in (x, y))
    error = x - y
    squares = np.square(error).sum(1)
    spread = np.square(y - y.mean(1, keepdims=True)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(_varies(y), 1.0 - squares / spread, np.nan)
    figures = {
        "pearson": _correlation(x, y),
        "spearman": _correlation(rankdata(x, axis=1), rankdata(y, axis=1)),
        "rmse": np.sqrt(squares / x.shape[1]),
        "mae": np.abs(error).mean(1),
        "r2": r2,
    }
    return {name: np.where(finite, values, np.nan) for name, values in figures.items()}


def _varies(x: DoubleArray) -> BoolArray:
    """Whether rows have enough values and are not constant (a constant's variance may round to > 0)."""
    if x.shape[1] < MIN_CELLS:
        return np.zeros(len(x), bool)
    varies: BoolArray = np.not_equal(x.max(1), x.min(1))
    return varies


def _correlation(x: DoubleArray, y: DoubleArray) -> DoubleArray:
    """Pearson correlation of rows, NaN where undefined."""
    defined = _varies(x) & _varies(y)
    x, y = (v - v.mean(1, keepdims=True) for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.einsum("ij,ij->i", x, y) / np.sqrt(np.square(x).sum(1) * np.square(y).sum(1))
    return np.where(defined, np.clip(r, -1.0, 1.0), np.nan)


def _average_precision(score: NDArray[Any], is_present: BoolArray) -> DoubleArray:
    """Average precision of rows; equal scores enter together, as one threshold."""
    order = np.argsort(-score, axis=1, kind="stable")
    ordered = np.take_along_axis(score, order, 1)
    hits = np.take_along_axis(is_present, order, 1).cumsum(1)
    last = np.ones(score.shape, bool)  # of its group of equal scores
    last[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    before = np.zeros(hits.shape, hits.dtype)
    before[:, 1:] = np.maximum.accumulate(np.where(last, hits, 0), axis=1)[:, :-1]
    gained = np.where(last, hits - before, 0) * (hits / np.arange(1, score.shape[1] + 1))
    average: DoubleArray = gained.sum(1) / hits[:, -1]
    return average
