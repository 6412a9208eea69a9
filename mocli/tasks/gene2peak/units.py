"""Which genes are silenced, which other genes they are compared with, and the changes that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.tasks.gene2peak.changes import Change
from mocli.tasks.gene2peak.null import MatchedNull, PeakPanel, strata_of
from mocli.tasks.run.frame import progress
from mocli.types import DoubleArray, FloatArray, IntArray

if TYPE_CHECKING:
    pass

MATCHED_GENES = 40
"""Least number of genes of a stratum that are silenced, others for comparison among them."""


@dataclass(frozen=True, eq=False)
class Units:
    """What is silenced: single genes, or sets of genes.

    Attributes:
        columns: Genes of each unit, by their columns in the model.
        n_asked: The first so many were asked for; others are there to compare with.
        strata: `(n_units,)`: alike in how many cells express them and how strongly.
        homes: Chromosomes of the genes of each unit, as numbers.
    """

    columns: Sequence[IntArray]
    n_asked: int
    strata: IntArray
    homes: Sequence[IntArray]


def choose_units(
    chosen: IntArray,
    n_cells: IntArray,
    mean: DoubleArray,
    home: IntArray,
    *,
    together: bool,
    min_cells: int,
    rng: np.random.Generator,
) -> Units:
    """Choose what is silenced: the genes asked for, and others that are expressed alike.

    Args:
        chosen: Columns of the genes, all expressed in `min_cells` or more.
        n_cells, mean: `(n_genes,)` cells that express each gene, and its mean count in them.
        home: `(n_genes,)` chromosome as a number, -1 where it is not known.
        together: Whether the genes are silenced at once; then sets of as many similar genes are drawn.
    """
    able = np.flatnonzero(n_cells >= min_cells)
    strata = np.zeros(len(n_cells), dtype=np.int64)
    strata[able] = strata_of(n_cells[able], mean[able])
    free = np.setdiff1d(able, chosen)
    if together:
        columns = [np.sort(chosen)]
        pools = [free[strata[free] == strata[gene]] for gene in chosen]
        pools = [pool if len(pool) else free for pool in pools]
        if len(free) >= len(chosen):
            drawn = [np.unique([rng.choice(pool) for pool in pools]) for _ in range(MATCHED_GENES)]
            columns += [one for one in drawn if len(one) == len(chosen)]
        of_unit = np.zeros(len(columns), dtype=np.int64)
        return Units(columns, 1, of_unit, [np.unique(home[one]) for one in columns])
    more = []
    for k in np.unique(strata[chosen]):
        lacking = MATCHED_GENES - int((strata[chosen] == k).sum())
        pool = free[strata[free] == k]
        if lacking > 0 and len(pool):
            more.append(rng.choice(pool, min(lacking, len(pool)), replace=False))
    genes = np.concatenate([chosen, *more]).astype(np.int64)
    return Units(
        [np.array([gene]) for gene in genes], len(chosen), strata[genes], [home[[gene]] for gene in genes]
    )


@dataclass(frozen=True, eq=False)
class Silenced:
    """What silencing changed.

    Attributes:
        n_cells: `(G + 1, n_units)` cells that express a unit: over all cells, then by group.
        delta, before: `(G + 1, n_pairs)` sums over them at the pairs asked about.
        panel: `(G + 1, n_units, n_panel)` relative changes.
    """

    n_cells: IntArray
    delta: DoubleArray
    before: DoubleArray
    panel: FloatArray

    def relative(self, group: int) -> DoubleArray:
        """Delta over the original, `(n_pairs,)`."""
        return _relative(self.delta[group], self.before[group])

    def null(self, group: int, panel: PeakPanel, units: Units) -> MatchedNull:
        """Return the null distribution in one group of cells."""
        return MatchedNull(panel, self.panel[group], units.strata, units.homes)


def _relative(delta: DoubleArray, before: DoubleArray) -> DoubleArray:
    relative: DoubleArray = np.full(delta.shape, np.nan)
    np.divide(delta, before, out=relative, where=before > 0)
    return relative


def collect(
    changes: Iterable[Change],
    n_units: int,
    panel: PeakPanel,
    pairs: tuple[IntArray, IntArray],
    *,
    n_groups: int,
    min_cells: int,
    say: Callable[[str], None],
) -> Silenced:
    """Keep the changes that units cause at some pairs and at the panel.

    Args:
        changes: Sums over `n_groups` groups of cells and, last, over cells of none.
        pairs: Unit and peak, `(n_pairs,)` each.
    """
    delta, before = np.full((2, n_groups + 1, len(pairs[0])), np.nan)
    at_panel = np.full((n_groups + 1, n_units, len(panel.members)), np.nan, dtype=np.float32)
    n_cells = np.zeros((n_groups + 1, n_units), dtype=np.int64)
    order = np.argsort(pairs[0], kind="stable")
    begin = np.searchsorted(pairs[0][order], np.arange(n_units + 1))
    tell = progress(say, "silencing", "genes")
    for change in changes:
        k = change.unit
        of_unit = order[begin[k] : begin[k + 1]]
        peaks = pairs[1][of_unit]
        for g in range(n_groups + 1):
            # the last group of the sums is of cells without one
            some = slice(None) if g == 0 else slice(g - 1, g)
            n_cells[g, k] = change.n_cells[some].sum()
            if n_cells[g, k] < min_cells:
                continue
            one, was = change.delta[some].sum(0), change.before[some].sum(0)
            delta[g, of_unit], before[g, of_unit] = one[peaks], was[peaks]
            at_panel[g, k] = _relative(one[panel.members], was[panel.members])
        tell(k + 1, n_units)
    return Silenced(n_cells, delta, before, at_panel)
