"""Ridge regressions of the ways, and folds: cells left out, with ways fitted to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mocli.tasks.trained.coordinates import CellCoordinates, SourceCells, strangeness
from mocli.tasks.trained.stack import LinkedValues
from mocli.types import DoubleArray, FloatArray, IntArray


class Ridge:
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

    def take(self, columns: IntArray) -> DoubleArray:
        """Return what some features are linked to, `(n, n_columns)`; 0 without a link."""
        sum_column = self.column[columns]
        sums: DoubleArray = np.where(sum_column >= 0, self.values[:, np.maximum(sum_column, 0)], 0).astype(
            np.float64
        )
        return sums


@dataclass(frozen=True, eq=False)
class Fold:
    """Ways fitted to the rows `rest`, and the coordinates of the rows `out` that were left out."""

    out: IntArray
    rest: IntArray
    ridges: list[Ridge]
    phi: list[FloatArray]
    strangeness: DoubleArray

    @classmethod
    def fit(cls, cells: SourceCells, out: IntArray, *, seed: int) -> Fold:
        """Fit to all cells but some."""
        rest = np.setdiff1d(np.arange(cells.n), out)
        training, new = cells.take(rest), cells.take(out)
        coordinates = CellCoordinates.fit(training, seed=seed)
        ridges = [Ridge(phi) for phi in coordinates(training)]
        return cls(out, rest, ridges, coordinates(new), strangeness(coordinates, new))

    def predict(self, k: int, y: DoubleArray, penalty: float) -> DoubleArray:
        """Return way k's predictions of the cells left out, given targets `(n, n_columns)` of all cells."""
        mean, ridge = y[self.rest].mean(0), self.ridges[k]
        predicted: DoubleArray = mean + (self.phi[k] - ridge.mean) @ ridge.coefficients(
            y[self.rest] - mean, penalty
        )
        return predicted


def left_out(folds: Sequence[Fold], penalties: Sequence[float], x: DoubleArray, y: DoubleArray) -> FloatArray:
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
        slope, middle = slopes(x[fold.rest], y[fold.rest] - center)
        predictions[-1, fold.out] = center + (x[fold.out] - middle) * slope
    return predictions


def slopes(x: DoubleArray, y: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Slope of centred targets in their linked sums, 0 without a link, and the mean of these sums."""
    center = x.mean(0)
    square = np.square(x - center).sum(0)
    slope = np.divide(((x - center) * y).sum(0), square, out=np.zeros(y.shape[1]), where=square > 1e-9)
    return slope, center
