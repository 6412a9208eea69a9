"""Split-conformal prediction intervals for imputed values, feature by feature.

Errors on held-out cells (calibration) give the offsets of the interval around a
prediction. If new cells are exchangeable with the calibration cells, a new cell's
measured value lies inside with at least the stated probability, whatever the
model and the noise (Vovk et al. 2005; Lei et al. 2018). Three limits:

* The guarantee is marginal: over all cells of a feature, not for each cell or cell type. * Where many
measured values are 0, errors tie and intervals cover more than the stated share, as the bound falls into
the tie. The zeros can make up for misses elsewhere: coverage among cells with a
  value other than 0 may be far below the stated one.
* Cells unlike the calibration cells (another batch, another tissue) get no such guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mocli.nn.neighbors import chunks
from mocli.types import DoubleArray, FloatArray, IntArray, Json

BLOCK = 2**20  # values held at once: 8 MB in float64


@dataclass(frozen=True, eq=False)
class Conformal:
    """Offsets from a prediction to the ends of its interval.

    Attributes:
        lower, upper: `(p,)`; infinite where the calibration cells are too few for the coverage, or a
            calibration value is not finite.
        coverage: Share of measured values to cover, between 0 and 1.
        n: Calibration cells.
        symmetric: Whether the offsets come from absolute errors.
        floor: `(p,)`, lowest possible value of each feature, or None.
    """

    lower: FloatArray
    upper: FloatArray
    coverage: float
    n: int
    symmetric: bool = False
    floor: FloatArray | None = None

    def interval(
        self, predicted: NDArray[Any], times: NDArray[Any] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return lower and upper ends, `(n, p)` each, rounded outwards and lifted to the floor.

        No measured value lies below the floor, so lifting loses no coverage. A prediction that is not finite
        gets an interval without ends.

        Args:
            times: How many times wider the interval of each cell is, `(n,)`, as for `fit`.

        Raises:
            ValueError: Another number of features.
        """
        n, p = predicted.shape
        if p != len(self.lower):
            raise ValueError(f"{p} features predicted, intervals are for {len(self.lower)}")
        lower, upper = np.empty((n, p), np.float32), np.empty((n, p), np.float32)
        for cells in chunks(n, max(1, BLOCK // max(1, p))):
            centre = predicted[cells].astype(np.float64)
            centre[~np.isfinite(centre)] = np.nan
            wide = 1.0 if times is None else times[cells, None].astype(np.float64)
            lower[cells] = -_upwards(-(centre + self.lower.astype(np.float64) * wide))
            upper[cells] = _upwards(centre + self.upper.astype(np.float64) * wide)
        if self.floor is not None:
            np.maximum(lower, self.floor, out=lower)
            np.maximum(upper, self.floor, out=upper)
        return lower, upper

    def take(self, columns: IntArray) -> Conformal:
        """Return the intervals of some features."""
        floor = None if self.floor is None else self.floor[columns]
        return replace(self, lower=self.lower[columns], upper=self.upper[columns], floor=floor)

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Json]]:
        """Return arrays by name and facts that JSON can hold, for `from_state`."""
        arrays = {"lower": self.lower, "upper": self.upper}
        if self.floor is not None:
            arrays["floor"] = self.floor
        facts: dict[str, Json] = {
            "coverage": self.coverage,
            "n": self.n,
            "symmetric": self.symmetric,
            "scaled": False,  # models of the first versions could say yes, and none did
        }
        return arrays, facts

    @classmethod
    def from_state(cls, arrays: Mapping[str, FloatArray], facts: Mapping[str, Any]) -> Conformal:
        """Rebuild the offsets from what `state` returned."""
        fields = {name: facts[name] for name in ("coverage", "n", "symmetric")}
        return cls(arrays["lower"], arrays["upper"], floor=arrays.get("floor"), **fields)


def fit(
    predicted_cal: NDArray[Any],
    measured_cal: NDArray[Any],
    *,
    coverage: float = 0.9,
    symmetric: bool = False,
    floor: float | NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
) -> Conformal:
    """Calibrate intervals on cells that the model was not trained on.

    Args:
        predicted_cal, measured_cal: `(n, p)`, the calibration cells.
        coverage: Share of measured values that intervals shall hold, between 0 and 1.
        symmetric: False: each side leaves out half of the rest, its offset the ceil((n + 1)(1 - alpha /
            2))-th error counted towards that side, alpha = 1 - coverage. True: one offset for both sides, the
            ceil((n + 1)(1 - alpha))-th absolute error. A rank above n makes the offset infinite.
        floor: Lowest possible value, e.g. 0 for counts; one number or `(p,)`.
        times: How many times wider than others the interval of each cell shall be, `(n,)`: errors are taken
            over it (locally weighted: Lei et al. 2018, doi:10.1080/01621459.2017.1307116). The offsets are
            then those of a cell of 1.

    Raises:
        ValueError: Shapes that do not fit, a coverage not inside (0, 1).
    """
    n, p = _shape(predicted_cal, measured_cal)
    rank = _rank(n, coverage, symmetric=symmetric)
    lower, upper = np.full(p, -np.inf, np.float32), np.full(p, np.inf, np.float32)
    for features in chunks(p, max(1, BLOCK // max(1, n))) if rank <= n else ():
        r = _residuals(predicted_cal, measured_cal, features)
        void = ~np.isfinite(r).all(1)
        if times is not None:
            r /= times
        if symmetric:
            high = np.partition(np.abs(r), rank - 1, axis=1)[:, rank - 1]
            low = -high
        else:
            r.partition((n - rank, rank - 1), axis=1)
            low, high = r[:, n - rank], r[:, rank - 1]
        lower[features] = np.where(void, -np.inf, -_upwards(-low))
        upper[features] = np.where(void, np.inf, _upwards(high))
    lowest = None if floor is None else np.array(np.broadcast_to(np.asarray(floor, np.float32), (p,)))
    return Conformal(lower, upper, float(coverage), n, symmetric, lowest)


def join(parts: Sequence[Conformal]) -> Conformal:
    """Put the features of several parts, calibrated on the same cells, side by side."""
    floors = [part.floor for part in parts if part.floor is not None]
    return replace(
        parts[0],
        lower=np.concatenate([part.lower for part in parts]),
        upper=np.concatenate([part.upper for part in parts]),
        floor=np.concatenate(floors) if floors else None,
    )


def _rank(n: int, coverage: float, *, symmetric: bool) -> int:
    """Return the rank, from 1, of the error that serves as the bound; above n there is no such error.

    In fractions: 20 (1 - 0.1 / 2) is 19, which floats may round to more, and then up to 20.
    """
    share = Fraction(str(float(coverage))) if math.isfinite(coverage) else Fraction(0)
    if not 0 < share < 1:
        raise ValueError(f"coverage must be between 0 and 1, got {coverage}")
    return math.ceil((n + 1) * (share if symmetric else (1 + share) / 2))


def _shape(a: NDArray[Any], b: NDArray[Any]) -> tuple[int, int]:
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"shapes {a.shape} and {b.shape}: both must be the same cells x features")
    return cast("tuple[int, int]", a.shape)


def _residuals(predicted: NDArray[Any], measured: NDArray[Any], features: slice) -> DoubleArray:
    """Return measured minus predicted values, one feature per row, `(features, n)`."""
    with np.errstate(invalid="ignore"):
        r: DoubleArray = measured[:, features].T.astype(np.float64, order="C") - predicted[:, features].T
    return r


def _upwards(x: DoubleArray) -> FloatArray:
    """Round to float32 and never down, so that a value on the bound stays inside; NaN becomes infinite."""
    with np.errstate(over="ignore"):
        y = x.astype(np.float32)
    y = np.where(y < x, np.nextafter(y, np.float32(np.inf)), y)
    y[np.isnan(y)] = np.inf
    return y
