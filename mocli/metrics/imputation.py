"""How well predicted values agree with measured ones: per feature, per cell, by label, and against baselines.

Every statistic is computed in float64, one block of columns at a time, so that it needs some 100 MB of
memory beside the two inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocli.metrics.generated import principal_axes
from mocli.metrics.registry import Scored, metric
from mocli.nn.neighbors import chunks, knn
from mocli.types import CSR, BoolArray, DoubleArray, FloatArray, IntArray

BLOCK = 2**20  # values held at once: 8 MB in float64
MIN_CELLS = 3  # of two, every correlation is 1 or -1
HIGHER_IS_BETTER = {"pearson": True, "spearman": True, "rmse": False, "mae": False, "r2": True}


@dataclass(frozen=True, eq=False)
class FeatureAccuracy:
    """Agreement of predicted and measured values over cells, `(p,)` each, NaN where undefined.

    A feature with a value that is not finite is NaN in all of them.

    Attributes:
        pearson, spearman: Correlations, Spearman's with average ranks; undefined below 3 cells or if either
            column is constant.
        rmse, mae: Root of the mean squared error and mean absolute error, in the unit of the values.
        r2: 1 - SSE / SST around the mean of the measured values given here; 0 is no better than that mean.
            Undefined below 3 cells or if the measured column is constant.
        n: Cells compared.
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

    All but the prevalence are NaN for a feature that all cells have, or none.

    Attributes:
        auprc: Average precision, sum over distinct scores of the gain in recall times precision.
        balanced_accuracy: Mean of sensitivity and specificity of `predicted > threshold`.
        true_positive_rate: That sensitivity, also known as recall: share of the cells with the feature that
            are predicted to have it.
        true_negative_rate: That specificity: share of the cells without the feature that are predicted to
            lack it.
        prevalence: Share of cells that have the feature: the average precision of guessing.
    """

    auprc: DoubleArray
    balanced_accuracy: DoubleArray
    true_positive_rate: DoubleArray
    true_negative_rate: DoubleArray
    prevalence: DoubleArray


def accuracy(predicted: NDArray[Any], measured: NDArray[Any]) -> FeatureAccuracy:
    """Compare feature by feature.

    `predicted`, `measured`: `(n, p)`, the same cells and features, on the same scale. Raises `ValueError`:
    shapes that differ.
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

    Args:
        predicted: `(n, p)`, higher where presence is likelier.
        present: `(n, p)`, e.g. `measured > 0`.
        threshold: A prediction above it says "present": one number, or one per feature `(p,)`.

    Raises:
        ValueError: Shapes that differ.
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
    return np.not_equal(x.max(1), x.min(1))


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
    return gained.sum(1) / hits[:, -1]


TOP = 5
"""Features of a label whose means are compared."""
FEWEST_SHARES = 3
"""Numbers below which a correlation says nothing (shares, which sum to 1, always correlate)."""
AMONG = 15
N_COMPONENTS = 50


@dataclass(frozen=True, eq=False)
class RealCells:
    """Measured cells of known label, among which imputed cells are placed.

    Attributes:
        features: The most variable features, at most 3,000, from which the components are computed.
        mean, axes: `(n_features,)` and `(n_features, k)`.
        scores: Coordinates of the cells on the components, `(n, k)`.
        label: Codes, `(n,)`.
    """

    features: IntArray
    mean: DoubleArray
    axes: DoubleArray
    scores: DoubleArray
    label: IntArray

    @classmethod
    def fit(cls, values: CSR, label: IntArray, *, seed: int) -> RealCells:
        """Take the principal components of logged values `(n, p)` of labelled cells."""
        features, mean, axes = principal_axes(values, n_components=N_COMPONENTS, seed=seed)
        scores = values[:, features].astype(np.float64) @ axes - mean @ axes
        return cls(features, mean, axes, np.asarray(scores), label)

    def contribution(self, columns: IntArray, values: FloatArray) -> DoubleArray:
        """Return what some columns of cells `(n, n_columns)` add to their scores, `(n, k)`.

        A column that is not finite throughout counts as the mean.
        """
        _, known_columns, value_columns = np.intersect1d(self.features, columns, return_indices=True)
        centred = values[:, value_columns].astype(np.float64) - self.mean[known_columns]
        centred[:, ~np.isfinite(centred).all(0)] = 0
        return centred @ self.axes[known_columns]

    def vote(self, scores: DoubleArray) -> IntArray:
        """Return the label that most of the 15 nearest cells have, `(n,)`; on a tie the lower code."""
        neighbor_labels = self.label[knn(scores, self.scores, min(AMONG, len(self.label)))[1]]
        votes = np.stack(
            [(neighbor_labels == code).sum(1) for code in range(int(self.label.max()) + 1)], axis=1
        )
        return votes.argmax(1)


@dataclass(frozen=True, eq=False)
class LabelledCells(Scored):
    """What is known about imputed cells by label.

    Attributes:
        levels: What the codes mean.
        label: True codes of the cells, `(n,)`.
        given: Codes by the nearest real cells, `(n,)`.
        measured, imputed: Mean logged values of the cells of each label, `(n_levels, p)`; NaN where there is
            no cell.
    """

    levels: tuple[str, ...]
    label: IntArray
    given: IntArray
    measured: DoubleArray
    imputed: DoubleArray

    kind = "imputed"

    def holds(self, need: str) -> bool:
        """Whether a need is met: nothing is needed beside labels."""
        return True

    @property
    def n(self) -> int:
        """Imputed cells."""
        return len(self.label)

    @property
    def sizes(self) -> IntArray:
        """Cells of every label, `(n_levels,)`."""
        return np.bincount(self.label, minlength=len(self.levels))


class Tally:
    """Sums up logged values, some columns at a time: means by label, coordinates among real cells."""

    def __init__(self, label: IntArray, levels: Sequence[str], real: RealCells, n_vars: int) -> None:
        self._member = label[None, :] == np.arange(len(levels))[:, None]
        self._real = real
        self.means = np.full((len(levels), n_vars), np.nan)
        self._scores = np.zeros((len(label), real.axes.shape[1]))

    def add(self, columns: IntArray, values: FloatArray) -> None:
        """Add columns, `(n, n_columns)`; every column once."""
        with np.errstate(invalid="ignore"):
            sums = self._member.astype(np.float64) @ values.astype(np.float64)
            self.means[:, columns] = sums / self._member.sum(1, keepdims=True)
        self._scores += self._real.contribution(columns, values)

    def given(self) -> IntArray:
        """Return the labels by the nearest real cells, `(n,)`."""
        return self._real.vote(self._scores)


@metric(LabelledCells, better="higher", bounds=(-1.0, 1.0))
def imputation_label_shares(cells: LabelledCells) -> float:
    """Correlation of label shares.

    Whether the imputed cells contain the labels in their true proportions (1 is perfect); whether each
    single cell has its own label is not tested.

    Pearson correlation, over the labels that cells have or are given (at least 3), of the share of cells that
    have a label with the share given it by imputed values: that of most of the 15 nearest real cells
    (Euclidean, first 50 principal components of the real cells' logged values, at most 3,000 features of the
    greatest variance; at most 5,000 cells: those trained on, or all of the file where a model is given).

    Source: scCross, Genome Biol 2024, cell type proportions of generated cells (0.89 on mouse cortex).
    """
    n = len(cells.levels)
    true, imputed = (np.bincount(codes, minlength=n) for codes in (cells.label, cells.given))
    seen = (true + imputed) > 0
    true, imputed = true[seen], imputed[seen]
    if len(true) < FEWEST_SHARES or not true.std() or not imputed.std():
        return math.nan
    return float(np.corrcoef(true, imputed)[0, 1])


@metric(LabelledCells, better="higher", bounds=(-1.0, 1.0))
def imputation_top_features(cells: LabelledCells) -> float:
    """Correlation of top features' means.

    Whether the strongest features of each label have the imputed level that they have when measured; as their
    levels differ, even the mean of all cells can come near 1.

    For each label, the 5 features whose mean logged measured value exceeds the mean of the cells of other
    labels by most; Pearson correlation, over labels and their features, of the means over the label's cells
    of measured and of imputed values (at least 3; features without imputed values are left out).

    Source: scCross, Genome Biol 2024, top 5 genes of each cell type (0.93 on mouse cortex).
    """
    has = np.flatnonzero(cells.sizes)
    if len(has) < 2:
        return math.nan
    top = top_of(cells.measured, cells.sizes)[has]
    x, y = (np.take_along_axis(means[has], top, axis=1).ravel() for means in (cells.measured, cells.imputed))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) < FEWEST_SHARES or not x.std() or not y.std():
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def top_of(means: DoubleArray, sizes: IntArray) -> IntArray:
    """Return the 5 features of each label that exceed the mean of the cells of other labels by most.

    `means`, `sizes`: mean values by label `(n_levels, p)`, two or more of which have cells, and how many
    `(n_levels,)`.
    """
    size = sizes[:, None].astype(np.float64)
    filled = np.where(size > 0, means, 0)
    others = (size * filled).sum(0) - size * filled
    excess = filled - others / (size.sum() - size)
    excess[:, ~np.isfinite(filled).all(0)] = -np.inf
    return np.argsort(-excess, axis=1, kind="stable")[:, :TOP]
