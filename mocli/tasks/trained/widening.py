"""How much wider the interval of a cell is than those of ordinary cells: what is kept of `wideningfit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mocli.types import DoubleArray, FloatArray, Json


@dataclass(frozen=True, eq=False)
class Widening:
    """Times by which the interval of a cell is wider.

    Attributes:
        mean, projection: `(r,)` and `(r, k)`: from coordinates to directions in which a cell's squares sum to
            its leverage, times the number of cells fitted.
        usual: Median leverage of cells left out at random.
        level, slope: Of the logarithm of the times in that of leverage over the usual.
        new_batch: Times for a cell of a batch that training lacks, at least.
    """

    mean: FloatArray
    projection: FloatArray
    usual: float
    level: float
    slope: float
    new_batch: float

    def __call__(self, phi: FloatArray) -> FloatArray:
        """Return the times `(n,)`, 1 or more, of cells at coordinates `(n, r)`."""
        leverage = np.square((phi - self.mean) @ self.projection).sum(1)
        return times_of(leverage / self.usual, self.level, self.slope)

    def state(self) -> tuple[dict[str, Json], dict[str, Any]]:
        """Return what `from_state` needs: a JSON-able part and arrays by name."""
        facts: dict[str, Json] = {
            name: getattr(self, name) for name in ("usual", "level", "slope", "new_batch")
        }
        return facts, {"mean": self.mean, "projection": self.projection}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> Widening:
        """Rebuild what `state` gave."""
        return cls(arrays["mean"], arrays["projection"], **facts)


def times_of(relative: DoubleArray | FloatArray, level: float, slope: float) -> FloatArray:
    """Return the times of cells whose leverage is so many times the usual, `(n,)`; 1 at least."""
    logs = level + slope * np.log(np.maximum(relative, 1e-12))
    return np.asarray(np.maximum(1, np.exp(logs)), np.float32)
