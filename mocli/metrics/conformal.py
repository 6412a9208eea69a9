"""Split-conformal prediction intervals for imputed values, feature by feature.

Errors on held-out cells (calibration) give the offsets of the interval around a
prediction. If new cells are exchangeable with the calibration cells, a new cell's
measured value lies inside with at least the stated probability, whatever the
model and the noise (Vovk et al. 2005; Lei et al. 2018). Three limits:

* The promise is marginal: over all cells of a feature, not for each cell or cell type.
* Where many measured values are 0, errors tie and intervals cover more than asked, as the bound
  falls into the tie. The zeros can make up for misses elsewhere: coverage among cells with a
  value other than 0 may be far below the one asked for. `summary` gives both.
* Cells unlike the calibration cells (another batch, another tissue) are promised nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mocli.nn.neighbors import chunks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray, Json

BLOCK = 2**20  # values held at once: 8 MB in float64
MAX_BINS = 10
CELLS_PER_BIN = 20
LEAST_SPREAD = 0.2  # of the feature's overall error


@dataclass(frozen=True, eq=False)
class Conformal:
    """Offsets from a prediction to the ends of its interval.

    Attributes
    ----------
    lower, upper
        `(p,)`; infinite where the calibration cells are too few for the coverage, or a
        calibration value is not finite. In units of the scale if `scaled`.
    coverage
        Asked for, between 0 and 1.
    n
        Calibration cells.
    symmetric
        Whether the offsets come from absolute errors.
    scaled
        Whether `interval` needs a scale.
    floor
        `(p,)`, lowest possible value of each feature, or None.
    """

    lower: FloatArray
    upper: FloatArray
    coverage: float
    n: int
    symmetric: bool = False
    scaled: bool = False
    floor: FloatArray | None = None

    @property
    def n_infinite(self) -> int:
        """Features with a bound that is infinite before the floor is applied."""
        return int((np.isinf(self.lower) | np.isinf(self.upper)).sum())

    def interval(
        self, predicted: NDArray[Any], scale: NDArray[Any] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return lower and upper ends, `(n, p)` each, rounded outwards and lifted to the floor.

        No measured value lies below the floor, so lifting loses no coverage. A prediction that is
        not finite gets an interval without ends.

        Raises
        ------
        ValueError
            Shapes that do not fit, a scale that is missing, unwanted or not positive.
        """
        n, p = predicted.shape
        if p != len(self.lower):
            raise ValueError(f"{p} features predicted, intervals are for {len(self.lower)}")
        if (scale is not None) != self.scaled:
            raise ValueError("intervals and scale must both be fitted with a scale, or neither")
        _check_scale(scale, predicted)
        lower, upper = np.empty((n, p), np.float32), np.empty((n, p), np.float32)
        for cells in chunks(n, max(1, BLOCK // max(1, p))):
            centre = predicted[cells].astype(np.float64)
            centre[~np.isfinite(centre)] = np.nan
            unit = 1.0 if scale is None else scale[cells].astype(np.float64)
            lower[cells] = -_upwards(-(centre + self.lower.astype(np.float64) * unit))
            upper[cells] = _upwards(centre + self.upper.astype(np.float64) * unit)
        if self.floor is not None:
            np.maximum(lower, self.floor, out=lower)
            np.maximum(upper, self.floor, out=upper)
        return lower, upper

    def take(self, columns: IntArray) -> Conformal:
        """Return the intervals of some features."""
        floor = None if self.floor is None else self.floor[columns]
        return replace(self, lower=self.lower[columns], upper=self.upper[columns], floor=floor)

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Json]]:
        """Return arrays by name and JSON-able facts, for `from_state`."""
        arrays = {"lower": self.lower, "upper": self.upper}
        if self.floor is not None:
            arrays["floor"] = self.floor
        facts: dict[str, Json] = {
            "coverage": self.coverage,
            "n": self.n,
            "symmetric": self.symmetric,
            "scaled": self.scaled,
        }
        return arrays, facts

    @classmethod
    def from_state(cls, arrays: Mapping[str, FloatArray], facts: Mapping[str, Any]) -> Conformal:
        """Rebuild from what `state` gave."""
        return cls(arrays["lower"], arrays["upper"], floor=arrays.get("floor"), **facts)


@dataclass(frozen=True, eq=False)
class Spread:
    """Size of the error as a step function of the predicted value, feature by feature.

    Attributes
    ----------
    edges
        `(p, b - 1)`, ascending, of b bins; a prediction equal to an edge is in the bin above it.
    levels
        `(p, b)`, mean absolute error in each bin, at least 0.2 of the feature's overall; positive.
    """

    edges: FloatArray
    levels: FloatArray

    @classmethod
    def fit(cls, predicted: NDArray[Any], measured: NDArray[Any], *, max_bins: int = MAX_BINS) -> Spread:
        """Fit to cells `(n, p)` that are neither calibrated on nor, best, trained on.

        Bins are quantiles of the prediction, 20 cells or more each; equal predictions share one.
        A feature without error, or with values that are not finite, has the level 1 throughout.

        Raises
        ------
        ValueError
            Shapes that differ, or no cell.
        """
        n, p = _shape(predicted, measured)
        if n == 0:
            raise ValueError("there is no cell to fit the spread to")
        b = max(1, min(max_bins, n // CELLS_PER_BIN))
        edges, levels = np.empty((p, b - 1), np.float32), np.ones((p, b), np.float32)
        at = np.array([round(n * i / b) for i in range(1, b)], np.int64)  # first cell of each next bin
        for features in chunks(p, max(1, BLOCK // n)):
            x = np.ascontiguousarray(predicted[:, features].T, dtype=np.float32)
            error = np.abs(_residuals(predicted, measured, features))
            edges[features] = np.sort(x, axis=1)[:, at]
            rows = np.arange(len(x))[:, None] * b
            bins = (_bins(x, edges[features]) + rows).ravel()
            cells = np.bincount(bins, minlength=len(x) * b).reshape(-1, b)
            total = np.bincount(bins, error.ravel(), minlength=len(x) * b).reshape(-1, b)
            overall = error.mean(1, keepdims=True)
            mean = np.where(cells > 0, total / np.maximum(cells, 1), overall)
            usable = np.isfinite(overall) & (overall > 1e-30)
            levels[features] = np.where(usable, np.maximum(mean, LEAST_SPREAD * overall), 1.0)
        return cls(edges, levels)

    def scale(self, predicted: NDArray[Any]) -> FloatArray:
        """Return the expected size of the error of each prediction, `(n, p)`, positive."""
        n, p = predicted.shape
        if p != len(self.levels):
            raise ValueError(f"{p} features predicted, the spread is of {len(self.levels)}")
        out = np.empty((n, p), np.float32)
        for features in chunks(p, max(1, BLOCK // max(1, n))):
            x = np.ascontiguousarray(predicted[:, features].T, dtype=np.float32)
            levels = np.take_along_axis(self.levels[features], _bins(x, self.edges[features]), 1)
            out[:, features] = levels.T
        return out

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Json]]:
        """Return arrays by name and JSON-able facts (there are none), for `from_state`."""
        return {"edges": self.edges, "levels": self.levels}, {}

    @classmethod
    def from_state(cls, arrays: Mapping[str, FloatArray], facts: Mapping[str, Any]) -> Spread:
        """Rebuild from what `state` gave."""
        return cls(arrays["edges"], arrays["levels"], **facts)


def fit(
    predicted_cal: NDArray[Any],
    measured_cal: NDArray[Any],
    *,
    coverage: float = 0.9,
    symmetric: bool = False,
    scale_cal: NDArray[Any] | None = None,
    floor: float | NDArray[Any] | None = None,
) -> Conformal:
    """Calibrate intervals on cells that the model was not trained on.

    Parameters
    ----------
    predicted_cal, measured_cal
        `(n, p)`, the calibration cells.
    coverage
        Share of measured values that intervals shall hold, between 0 and 1.
    symmetric
        False: each side leaves out half of the rest, its offset the ceil((n + 1)(1 - alpha / 2))-th
        error counted towards that side, alpha = 1 - coverage. True: one offset for both sides, the
        ceil((n + 1)(1 - alpha))-th absolute error. A rank above n makes the offset infinite.
    scale_cal
        `(n, p)`, positive: the size of error to expect of each prediction (`Spread.scale`), so that
        intervals are wide only where errors are large. `interval` then needs it too.
    floor
        Lowest possible value, e.g. 0 for counts; one number or `(p,)`.

    Raises
    ------
    ValueError
        Shapes that do not fit, a coverage not inside (0, 1), a scale that is not positive.
    """
    n, p = _shape(predicted_cal, measured_cal)
    _check_scale(scale_cal, predicted_cal)
    rank = _rank(n, coverage, symmetric=symmetric)
    lower, upper = np.full(p, -np.inf, np.float32), np.full(p, np.inf, np.float32)
    for features in chunks(p, max(1, BLOCK // max(1, n))) if rank <= n else ():
        r = _residuals(predicted_cal, measured_cal, features)
        if scale_cal is not None:
            r /= scale_cal[:, features].T
        void = ~np.isfinite(r).all(1)
        if symmetric:
            high = np.partition(np.abs(r), rank - 1, axis=1)[:, rank - 1]
            low = -high
        else:
            r.partition((n - rank, rank - 1), axis=1)
            low, high = r[:, n - rank], r[:, rank - 1]
        lower[features] = np.where(void, -np.inf, -_upwards(-low))
        upper[features] = np.where(void, np.inf, _upwards(high))
    lowest = None if floor is None else np.array(np.broadcast_to(np.asarray(floor, np.float32), (p,)))
    return Conformal(lower, upper, float(coverage), n, symmetric, scale_cal is not None, lowest)


def join(parts: Sequence[Conformal]) -> Conformal:
    """Put the features of several parts, calibrated on the same cells, side by side."""
    floors = [part.floor for part in parts if part.floor is not None]
    return replace(
        parts[0],
        lower=np.concatenate([part.lower for part in parts]),
        upper=np.concatenate([part.upper for part in parts]),
        floor=np.concatenate(floors) if floors else None,
    )


def coverage(
    lower: NDArray[Any], upper: NDArray[Any], measured: NDArray[Any], *, nonzero: bool = False
) -> DoubleArray:
    """Return the share of measured values inside their interval, ends included, `(p,)`.

    With `nonzero`, among the cells whose measured value is not 0. NaN where there is no cell.
    """
    n, p = _shape(lower, measured)
    out = np.full(p, np.nan)
    for features in chunks(p, max(1, BLOCK // max(1, n))):
        y = measured[:, features]
        inside = (lower[:, features] <= y) & (y <= upper[:, features])
        counted: BoolArray = y != 0 if nonzero else np.ones(y.shape, bool)
        cells = counted.sum(0)
        out[features] = np.where(cells > 0, (inside & counted).sum(0) / np.maximum(cells, 1), np.nan)
    return out


def summary(
    conformal: Conformal, lower: NDArray[Any], upper: NDArray[Any], measured: NDArray[Any]
) -> dict[str, Json]:
    """Say what intervals achieved on test cells, neither trained nor calibrated on; ready for the report.

    Returns
    -------
    Asked-for coverage; mean, p5 and p95 over features of the measured coverage, and of the one among
    cells whose value is not 0; median over features of the median width (of features whose width is
    finite); features with an infinite bound; calibration and test cells. None where undefined.
    """
    n, p = _shape(lower, measured)
    width = np.full(p, np.nan)
    with np.errstate(invalid="ignore"):
        for features in chunks(p, max(1, BLOCK // n)) if n else ():
            width[features] = np.median(upper[:, features] - lower[:, features], axis=0)
    width = width[np.isfinite(width)]
    return {
        "asked": conformal.coverage,
        **_spread_over_features("coverage", coverage(lower, upper, measured)),
        **_spread_over_features("coverage_nonzero", coverage(lower, upper, measured, nonzero=True)),
        "median_width": float(np.median(width)) if len(width) else None,
        "n_features": p,
        "n_infinite": conformal.n_infinite,
        "n_calibration": conformal.n,
        "n_test": n,
    }


def _spread_over_features(name: str, values: DoubleArray) -> dict[str, Json]:
    kept = values[~np.isnan(values)]
    if not len(kept):
        return {f"{name}_{part}": None for part in ("mean", "p5", "p95")}
    p5, p95 = np.percentile(kept, (5, 95))
    return {f"{name}_mean": float(kept.mean()), f"{name}_p5": float(p5), f"{name}_p95": float(p95)}


def _rank(n: int, coverage: float, *, symmetric: bool) -> int:
    """Rank of the error that bounds, from 1; above n there is no such error.

    In fractions: 20 (1 - 0.1 / 2) is 19, which floats may round to more, and then up to 20.
    """
    asked = Fraction(str(float(coverage))) if math.isfinite(coverage) else Fraction(0)
    if not 0 < asked < 1:
        raise ValueError(f"coverage must be between 0 and 1, got {coverage}")
    return math.ceil((n + 1) * (asked if symmetric else (1 + asked) / 2))


def _shape(a: NDArray[Any], b: NDArray[Any]) -> tuple[int, int]:
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"shapes {a.shape} and {b.shape}: both must be the same cells x features")
    return cast("tuple[int, int]", a.shape)


def _check_scale(scale: NDArray[Any] | None, predicted: NDArray[Any]) -> None:
    if scale is None:
        return
    _shape(scale, predicted)
    if scale.size and not (scale.min() > 0 and np.isfinite(scale.max())):
        raise ValueError("every scale must be positive and finite")


def _residuals(predicted: NDArray[Any], measured: NDArray[Any], features: slice) -> DoubleArray:
    """Measured less predicted, a feature a row, `(features, n)`."""
    with np.errstate(invalid="ignore"):
        r: DoubleArray = measured[:, features].T.astype(np.float64, order="C") - predicted[:, features].T
    return r


def _bins(x: FloatArray, edges: FloatArray) -> IntArray:
    """Count the edges at or below each value, row by row."""
    bins = np.zeros(x.shape, np.int64)
    for edge in edges.T:
        bins += x >= edge[:, None]
    return bins


def _upwards(x: DoubleArray) -> FloatArray:
    """Round to float32 and never down, so that a value on the bound stays inside; NaN is infinite."""
    with np.errstate(over="ignore"):
        y = x.astype(np.float32)
    y = np.where(y < x, np.nextafter(y, np.float32(np.inf)), y)
    y[np.isnan(y)] = np.inf
    return y
