"""Imputed values of labelled cells beside measured ones: what metrics of labels see, and how they are found.

A metric is a function in a module of this package under the decorator `imputation_metric`; nobody
names it elsewhere. Accuracy by feature, which needs no labels, is in `mocli.metrics.imputation`.
"""

from __future__ import annotations

import math
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

import numpy as np

import mocli.metrics
from mocli.metrics.generated import principal_axes
from mocli.nn.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mocli.types import CSR, DoubleArray, FloatArray, IntArray, Json

AMONG = 15
N_COMPONENTS = 50


@dataclass(frozen=True, eq=False)
class RealCells:
    """Measured cells of known label, which imputed ones are placed among.

    Attributes
    ----------
    features
        Those of the greatest variance, at most 3,000, that the components are made of.
    mean, axes
        `(n_features,)` and `(n_features, k)`.
    scores
        Where the cells lie, `(n, k)`.
    label
        Codes, `(n,)`.
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
        _, own, given = np.intersect1d(self.features, columns, return_indices=True)
        centred = values[:, given].astype(np.float64) - self.mean[own]
        centred[:, ~np.isfinite(centred).all(0)] = 0
        found: DoubleArray = centred @ self.axes[own]
        return found

    def vote(self, scores: DoubleArray) -> IntArray:
        """Return the label that most of the 15 nearest cells have, `(n,)`; the lower code of equals."""
        near = self.label[knn(scores, self.scores, min(AMONG, len(self.label)))[1]]
        votes = np.stack([(near == code).sum(1) for code in range(int(self.label.max()) + 1)], axis=1)
        winner: IntArray = votes.argmax(1)
        return winner


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """What is known of imputed cells by label.

    Attributes
    ----------
    levels
        What the codes mean.
    label
        True codes of the cells, `(n,)`.
    given
        Codes by the nearest real cells, `(n,)`.
    measured, imputed
        Mean logged values of the cells of each label, `(n_levels, p)`; NaN where there are none.
    """

    levels: tuple[str, ...]
    label: IntArray
    given: IntArray
    measured: DoubleArray
    imputed: DoubleArray

    @property
    def sizes(self) -> IntArray:
        """Cells of every label, `(n_levels,)`."""
        sizes: IntArray = np.bincount(self.label, minlength=len(self.levels))
        return sizes


class Tally:
    """Takes in logged values of cells, some columns at a time: means by label, places among real cells."""

    def __init__(self, label: IntArray, levels: Sequence[str], real: RealCells, n_vars: int) -> None:
        self._member = label[None, :] == np.arange(len(levels))[:, None]
        self._real = real
        self.means = np.full((len(levels), n_vars), np.nan)
        self._scores = np.zeros((len(label), real.axes.shape[1]))

    def add(self, columns: IntArray, values: FloatArray) -> None:
        """Take columns in, `(n, n_columns)`; every column once."""
        with np.errstate(invalid="ignore"):
            sums = self._member.astype(np.float64) @ values.astype(np.float64)
            self.means[:, columns] = sums / self._member.sum(1, keepdims=True)
        self._scores += self._real.contribution(columns, values)

    def given(self) -> IntArray:
        """Return the labels by the nearest real cells, `(n,)`."""
        return self._real.vote(self._scores)


@dataclass(frozen=True, slots=True)
class ImputationMetric:
    """A registered metric of imputed cells that have labels.

    Attributes
    ----------
    bounds
        Lowest and highest possible value.
    sentence, definition, section
        How to read it, the exact formula in words, where it comes from.
    compute
        NaN where undefined.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    bounds: tuple[float, float]
    sentence: str
    definition: str
    section: str
    compute: Callable[[LabelledCells], float]

    def entry(self, cells: LabelledCells) -> dict[str, Json]:
        """Return the figure as the report has it."""
        value = float(self.compute(cells))
        return {
            "value": value if math.isfinite(value) else None,
            "better": self.better,
            "range": list(self.bounds),
            "n": len(cells.label),
            "title": self.title,
            "definition": self.definition,
            "sentence": self.sentence,
        }


def imputation_metric(
    *,
    name: str,
    title: str,
    better: Literal["higher", "lower"],
    bounds: tuple[float, float],
    sentence: str,
    definition: str,
    section: str,
) -> Callable[[Callable[[LabelledCells], float]], ImputationMetric]:
    """Turn a function into the metric that `available_imputation_metrics` finds in its module."""

    def register(compute: Callable[[LabelledCells], float]) -> ImputationMetric:
        return ImputationMetric(name, title, better, bounds, sentence, definition, section, compute)

    return register


def available_imputation_metrics() -> dict[str, ImputationMetric]:
    """Return every metric of labelled imputed cells of every module on `mocli.metrics.__path__`, by name."""
    found: dict[str, ImputationMetric] = {}
    for module in pkgutil.iter_modules(mocli.metrics.__path__):
        members = vars(import_module(f"mocli.metrics.{module.name}")).values()
        found.update({m.name: m for m in members if isinstance(m, ImputationMetric)})
    return dict(sorted(found.items()))
