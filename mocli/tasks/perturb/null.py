"""The null distribution of a feature's shift: shifts of other features that are expressed as much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mocli.metrics.correlation import FEWEST_MATCHED, draw_panel, outlier_p
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.perturb.shifts import Perturbation
from mocli.types import BoolArray, DoubleArray, IntArray

PER_BIN = 60
"""Features drawn to represent all that are expressed as much."""

RANDOM_SETS = 200
"""Random sets in the null distribution of features that are perturbed together."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Features by how much they are expressed.

    Attributes:
        panel: Features of the null, positions among those the model takes, increasing.
        bins: Bin of every feature, `(n_features,)`.
    """

    panel: IntArray
    bins: IntArray

    @classmethod
    def draw(cls, level: DoubleArray, *, seed: int, whole: bool) -> Matching:
        """Draw a panel.

        Args:
            level: Mean expression of every feature over the perturbed cells, `(n_features,)`.
            whole: Take every feature that is expressed, not a sample.
        """
        rng = np.random.default_rng(seed)
        panel = draw_panel(level, np.ones(len(level), bool), len(level) if whole else PER_BIN, rng)
        return cls(panel.features, panel.bins)

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
    position: IntArray,
    tested: BoolArray,
) -> Significance:
    """Standardise values by the null values of their bin, their own left out.

    Args:
        values, bins: `(n,)`.
        null, null_bins: `(n_null,)`, finite.
        position: Position of each value in the null, -1 for none, `(n,)`.
        tested: Values that are tested; the others are NaN in the result, `(n,)`.
    """
    n_bins = int(max(bins.max(initial=0), null_bins.max(initial=0))) + 1
    count = np.bincount(null_bins, minlength=n_bins)
    total, squares = (np.bincount(null_bins, null**k, n_bins) for k in (1, 2))
    inside = position >= 0
    own_value = np.where(inside, null[position], 0.0) if len(null) else np.zeros(len(values))
    others = count[bins] - inside
    enough = tested & (others >= FEWEST_MATCHED)
    safe = np.where(enough, others, 2)
    mean = (total[bins] - own_value) / safe
    variance = (squares[bins] - own_value**2 - safe * mean**2) / (safe - 1)
    defined = enough & (variance > 1e-24)
    z = np.full(len(values), np.nan)
    z[defined] = (values[defined] - mean[defined]) / np.sqrt(variance[defined])
    return Significance(np.where(enough, mean, np.nan), z, outlier_p(z, safe.astype(np.int64)))


WHOLE = 0.5
"""From this share of the model's features on, the features asked for are their own null."""


@dataclass(frozen=True, eq=False)
class WithNull:
    """Perturbations to measure, and those of the null behind them.

    Attributes:
        every: All of them, the `n` to measure first.
        null: Positions of the null in `every`.
        random: Whether the null consists of random sets, which are all compared with the one set to measure.
    """

    every: tuple[Perturbation, ...]
    n: int
    null: IntArray
    random: bool


def with_null(
    perturbations: Sequence[Perturbation],
    names: Sequence[str],
    used: IntArray,
    level: DoubleArray,
    *,
    seed: int,
) -> WithNull:
    """Add the perturbations of the null distribution.

    Args:
        names: Of all features of the model.
        used, level: Features that the encoder takes, and their mean expression in the perturbed cells.
    """
    place = {int(column): k for k, column in enumerate(used)}
    if any(len(p.columns) > 1 for p in perturbations):
        matching = Matching.draw(level, seed=seed, whole=True)
        sets = [
            Perturbation("", tuple(int(used[k]) for k in chosen))
            for p in perturbations
            for chosen in matching.random_sets(np.array([place[c] for c in p.columns]), seed=seed)
        ]
        null = len(perturbations) + np.arange(len(sets))
        return WithNull((*perturbations, *sets), len(perturbations), null, random=True)
    matching = Matching.draw(level, seed=seed, whole=len(perturbations) >= WHOLE * len(used))
    place_of = {p.columns[0]: k for k, p in enumerate(perturbations)}
    extra = [int(used[k]) for k in matching.panel if int(used[k]) not in place_of]
    every = (*perturbations, *(Perturbation(names[c], (c,)) for c in extra))
    where = {p.columns[0]: k for k, p in enumerate(every)}
    null = np.array([where[int(used[k])] for k in matching.panel], dtype=np.int64)
    return WithNull(every, len(perturbations), null, random=False)


def expression(cells: Replacement, rows: IntArray) -> DoubleArray:
    """Mean raw value of every feature of the model over some cells, `(n_vars,)`."""
    weight = np.zeros(cells.x.shape[0])
    weight[rows] = 1 / max(len(rows), 1)
    return np.asarray(weight @ cells.x, dtype=np.float64).ravel()


def hold_perturbations(
    perturbations: WithNull, values: DoubleArray, changed: BoolArray, level: DoubleArray
) -> Significance:
    """Compare measured perturbations with the null, without perturbations of the null that change no cell.

    Args:
        values, changed: Of every perturbation, those of the null included: what is held against the null, and
            whether any cell changes, `(n_every,)`.
        level: Mean expression of every feature of the model, `(n_vars,)`.
    """
    usable = perturbations.null[changed[perturbations.null]]
    bins = np.zeros(len(perturbations.every), np.int64)
    if not perturbations.random:
        mean = np.array([level[p.columns[0]] for p in perturbations.every])
        every: BoolArray = np.isin(np.arange(len(mean)), perturbations.null)
        bins = draw_panel(mean, every, 1, np.random.default_rng(0)).bins if (mean > 0).any() else bins
    position = np.full(len(perturbations.every), -1, np.int64)
    position[usable] = np.arange(len(usable))
    n = perturbations.n
    return hold_against(values[:n], bins[:n], values[usable], bins[usable], position[:n], changed[:n])
