"""What a feature's shift is held against: those of other features that are expressed as much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.correlation import FEWEST_MATCHED, draw_panel, outlier_p

if TYPE_CHECKING:
    from mocli.types import BoolArray, DoubleArray, IntArray

PER_BIN = 60
"""Features drawn to stand for all that are expressed as much."""

RANDOM_SETS = 200
"""Random sets that a set of features perturbed together is held against."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Features by how much they are expressed.

    Attributes
    ----------
    panel
        Features of the null, positions among those the model takes, increasing.
    bins
        Bin of every feature, `(n_features,)`.
    """

    panel: IntArray
    bins: IntArray

    @classmethod
    def draw(cls, level: DoubleArray, *, seed: int, whole: bool) -> Matching:
        """Draw a panel.

        Parameters
        ----------
        level
            Mean expression of every feature over the perturbed cells, `(n_features,)`.
        whole
            Take every feature that is expressed, not a sample.
        """
        rng = np.random.default_rng(seed)
        found = draw_panel(level, np.ones(len(level), bool), len(level) if whole else PER_BIN, rng)
        return cls(found.features, found.bins)

    def random_sets(self, members: IntArray, *, seed: int) -> list[tuple[int, ...]]:
        """Return sets of other features, each matched with one of `members`, no feature twice in a set."""
        rng = np.random.default_rng(seed)
        of_panel = self.bins[self.panel]
        by_bin = {k: np.setdiff1d(self.panel[of_panel == k], members) for k in np.unique(self.bins)}
        drawn = []
        for _ in range(RANDOM_SETS):
            chosen: list[int] = []
            for member in members:
                free = np.setdiff1d(by_bin[self.bins[member]], chosen)
                if len(free):
                    chosen.append(int(rng.choice(free)))
            if len(chosen) == len(members):
                drawn.append(tuple(chosen))
        return drawn


@dataclass(frozen=True, eq=False)
class Significance:
    """Mean of the null, standardised value and two-sided p of every value, `(n,)`; NaN where undefined."""

    mean: DoubleArray
    z: DoubleArray
    p: DoubleArray


def hold_against(
    values: DoubleArray,
    bins: IntArray,
    null: DoubleArray,
    null_bins: IntArray,
    own: IntArray,
    tested: BoolArray,
) -> Significance:
    """Standardise values by the null values of their bin, their own left out.

    Parameters
    ----------
    values, bins
        `(n,)`.
    null, null_bins
        `(n_null,)`, finite.
    own
        Place of each value in the null, -1 for none, `(n,)`.
    tested
        Values that are tests; the others are NaN in the result, `(n,)`.
    """
    n_bins = int(max(bins.max(initial=0), null_bins.max(initial=0))) + 1
    count = np.bincount(null_bins, minlength=n_bins)
    total, squares = (np.bincount(null_bins, null**k, n_bins) for k in (1, 2))
    inside = own >= 0
    mine = np.where(inside, null[own], 0.0) if len(null) else np.zeros(len(values))
    others = count[bins] - inside
    enough = tested & (others >= FEWEST_MATCHED)
    safe = np.where(enough, others, 2)
    mean = (total[bins] - mine) / safe
    variance = (squares[bins] - mine**2 - safe * mean**2) / (safe - 1)
    defined = enough & (variance > 1e-24)
    z = np.full(len(values), np.nan)
    z[defined] = (values[defined] - mean[defined]) / np.sqrt(variance[defined])
    return Significance(np.where(enough, mean, np.nan), z, outlier_p(z, safe.astype(np.int64)))
