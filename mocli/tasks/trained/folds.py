"""Ridge regressions of the ways, and folds: cells left out, with ways fitted to the others.

Components are found anew in every fold. Their scores follow from the products of cells with each other alone
(the dual of principal components: Schoelkopf et al. 1998, doi:10.1162/089976698300017467), so that
the products are computed once and a fold costs one small eigenproblem a view.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mocli.data.batches import densify
from mocli.tasks.trained.coordinates import (
    LEADING,
    N_COMPONENTS,
    ROUNDING,
    CellCoordinates,
    Nearness,
    SourceCells,
    leading,
    over_explained,
    placed,
    strangeness,
)
from mocli.tasks.trained.stack import LinkedValues
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
        found = [_components(gram, rest, out) for gram in products.grams]
        known, new = [f[0] for f in found], [f[1] for f in found]
        near = [Nearness.fit(scores[:, :LEADING], seed=seed) for scores in known]
        z = products.z
        z_known, z_new = (None, None) if z is None else (z[rest], z[out])
        latent = None if z_known is None else Nearness.fit(z_known, seed=seed)
        ridges = [Ridge(scores, orthogonal=True) for scores in known]
        ridges += [Ridge(phi) for phi in placed(known, near, latent, z_known)]
        phi = [*new, *placed(new, near, latent, z_new)]
        along = [
            ((p - ridge.mean) @ ridge.v).astype(np.float32) for p, ridge in zip(phi, ridges, strict=True)
        ]
        return cls(out, rest, ridges, along, near, new, [f[2] for f in found])

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
    known = vectors[:, kept] * (size * unit)
    scores = cross @ (vectors[:, kept] * (unit / size))
    total = np.maximum(gram[out, out].astype(np.float64) - 2 * by_out + mean, 0)
    explained = np.square(scores.astype(np.float64) / unit).sum(1)
    return known, scores, over_explained(total, explained)


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
        known = y[fold.rest]
        own = known.mean(0)
        known -= own
        about = own if mean is None else mean
        for k, penalty in enumerate(penalties):
            (predicted,) = fold.predictions(k, known, [penalty])
            predictions[k, fold.out] = predicted + about
        slope, middle = slopes(x[fold.rest], known)
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
