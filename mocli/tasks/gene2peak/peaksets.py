"""Peaks that carry a factor's motif, against others, when the factor is silenced.

The authors of multiDGD compare the changes of peaks with a motif with those of random peaks with any
motif by a t-test, and count how many of a cell's peaks close. Peaks that go with one cell type move
together, so that the t-test is too sure; beside it stands the rank of the difference, over the spread of
the random peaks, among those of matched genes on the same peaks.

Classes of factors, such as activators and repressors, are compared by what their peaks do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from mocli.data.features.index import FeatureIndex, Features
from mocli.data.features.intervals import normalise_chrom, overlaps
from mocli.data.features.loci import intervals_of
from mocli.data.files.text import tab_separated
from mocli.errors import InputError
from mocli.metrics.correlation import false_discovery_rate
from mocli.tasks.gene2peak.units import PeakPanel, Silenced, Units, tail_p
from mocli.types import BoolArray, DoubleArray, IntArray

FEWEST = 10
"""Peaks of a set."""
_BED = 4
_EXPECTED = "two columns, set and peak; or BED whose fourth column names the set"


def read_peak_sets(path: str | Path, peaks: Features, warn: Callable[[str], None]) -> dict[str, IntArray]:
    """Read sets of peaks by name, each as sorted positions among the features.

    A table has a header and the set's name in its first column, the peak's in its second. Of BED
    every peak that shares a base with an interval belongs to the set that its fourth column names.

    Raises `InputError`: the file is missing or has another format, or none of its peaks is in the data.
    """
    frame = tab_separated(path, "the file of peak sets", expected=_EXPECTED, fewest=2)
    is_bed = frame.shape[1] >= _BED and bool(frame[1].str.isdecimal().mean() > 0.5)
    sets: dict[str, IntArray] = {}
    if is_bed:
        frame = frame[frame[1].str.isdecimal() & frame[2].str.isdecimal()].reset_index(drop=True)
        where = pd.DataFrame(
            {
                "chrom": [normalise_chrom(c) for c in frame[0]],
                "start": frame[1].astype(np.int64),
                "end": frame[2].astype(np.int64),
            }
        )
        row, peak = overlaps(where, intervals_of(peaks))
        names = frame[3].to_numpy()[row]
        n_lost = len(frame) - len(np.unique(row))
    else:
        match = FeatureIndex(peaks).match(frame[1].tolist())
        hits = [(name, p) for name, places in zip(frame[0], match.positions, strict=True) for p in places]
        names = np.array([name for name, _ in hits], dtype=object)
        peak = np.array([p for _, p in hits], dtype=np.int64)
        n_lost = len(frame) - len(hits)
    for name in dict.fromkeys(names):
        sets[str(name)] = np.unique(peak[names == name])
    if not sets:
        raise InputError(
            "no peak of the peak sets is in the data",
            file=path,
            found=", ".join(frame[1].head(3)) if not is_bed else ", ".join(frame[0].head(3)),
            expected=", ".join(peaks.names[:3]),
            hint="does it use another genome build, or other names? " + _EXPECTED,
        )
    if n_lost > 1:  # a header is no loss
        warn(f"{n_lost:,} of {len(frame):,} lines of {Path(path).name} are no peak of the data")
    return sets


@dataclass(frozen=True, eq=False)
class PeakSet:
    """One factor's peaks.

    Attributes:
        unit: The gene that is silenced.
        compared: Units of matched genes.
        peaks, random: Positions of the peaks, and of as many others in the same bins.
    """

    name: str
    unit: int
    compared: IntArray
    peaks: IntArray
    random: IntArray


def match_sets(
    sets: Mapping[str, IntArray],
    unit_of: Mapping[str, int],
    units: Units,
    panel: PeakPanel,
    rng: np.random.Generator,
    warn: Callable[[str], None],
) -> list[PeakSet]:
    """Pair sets with the genes of their names, and draw peaks to compare with.

    Those come from the other sets' peaks where there are enough of them, else from all.
    """
    paired = []
    folded = {name.casefold(): unit for name, unit in unit_of.items()}
    lost = [name for name in sets if name.casefold() not in folded]
    if lost:
        warn(f"no gene that is silenced has the name of these peak sets: {', '.join(lost[:5])}")
    anywhere = np.unique(np.concatenate(list(sets.values())))
    everywhere = np.arange(len(panel.bins))
    for name, peaks in sets.items():
        unit = folded.get(name.casefold())
        if unit is None:
            continue
        if len(peaks) < FEWEST:
            warn(f"the peak set {name} has {len(peaks)} peaks, too few to test")
            continue
        others = np.setdiff1d(anywhere, peaks)
        pool = others if len(others) >= 2 * len(peaks) else np.setdiff1d(everywhere, peaks)
        drawn = [
            rng.choice(members, min(int(n), len(members)), replace=False)
            for b, n in zip(*np.unique(panel.bins[peaks], return_counts=True), strict=True)
            if len(members := pool[panel.bins[pool] == b])
        ]
        random = np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64)
        if len(random) < FEWEST:
            warn(f"the peak set {name} holds nearly all peaks of its kind: nothing is left to compare with")
            continue
        alike = np.flatnonzero((units.strata == units.strata[unit]) & (np.arange(len(units.strata)) != unit))
        paired.append(PeakSet(name, unit, alike[:100], peaks, random.astype(np.int64)))
    return paired


class Closing:
    """Share of each cell's peaks that close, summed by set and group while genes are silenced."""

    def __init__(self, sets: list[PeakSet], groups: IntArray, n_groups: int) -> None:
        self._groups = groups
        self._of_unit: dict[int, list[tuple[int, PeakSet]]] = {}
        for k, one in enumerate(sets):
            self._of_unit.setdefault(one.unit, []).append((k, one))
        self._sum = np.zeros((n_groups + 1, len(sets), 2))
        self._n = np.zeros((n_groups + 1, len(sets)), dtype=np.int64)

    def look(self, unit: int, cells: IntArray, difference: Tensor) -> None:
        """Take in some cells of a gene: their changes at all peaks, `(B, P)`."""
        for k, one in self._of_unit.get(unit, ()):
            for j, peaks in enumerate((one.peaks, one.random)):
                share = (difference[:, peaks] < 0).float().mean(1).cpu().numpy()
                self._sum[0, k, j] += share.sum()
                for g in np.unique(self._groups[cells]):
                    if g >= 0:
                        self._sum[g + 1, k, j] += share[self._groups[cells] == g].sum()
            self._n[0, k] += len(cells)
            for g, n in zip(*np.unique(self._groups[cells], return_counts=True), strict=True):
                if g >= 0:
                    self._n[g + 1, k] += n

    def mean(self, group: int, k: int) -> DoubleArray:
        """Mean share over cells, `(2,)`: of the set, and of the random peaks."""
        return self._sum[group, k] / max(1, self._n[group, k])


def pairs_of(sets: list[PeakSet]) -> tuple[IntArray, IntArray]:
    """Return the units and peaks at which changes are needed."""
    unit: list[IntArray] = [np.zeros(0, np.int64)]
    peak: list[IntArray] = [np.zeros(0, np.int64)]
    for one in sets:
        both = np.concatenate([one.peaks, one.random])
        for k in (one.unit, *one.compared):
            unit.append(np.full(len(both), k, dtype=np.int64))
            peak.append(both)
    return np.concatenate(unit), np.concatenate(peak)


_COLUMNS = (
    *("set", "group", "n_cells", "n_peaks", "n_random", "change", "change_random", "t", "p", "fdr"),
    *("effect", "p_matched", "fraction_closing", "fraction_closing_random"),
)


def compare_sets(
    sets: list[PeakSet], silenced: Silenced, span: slice, closing: Closing, names: tuple[str, ...]
) -> pd.DataFrame:
    """Lay out, set by set and group by group, how the set's peaks change and how others do.

    `at`: where the pairs of `pairs_of` stand among all pairs.
    """
    rows = []
    for g, group in enumerate(names):
        change = silenced.relative(g)[span]
        start = 0
        for k, one in enumerate(sets):
            n, m = len(one.peaks), len(one.random)
            values = change[start : start + (n + m) * (1 + len(one.compared))].reshape(-1, n + m)
            start += values.size
            if not np.isfinite(values[0]).any():
                continue
            with np.errstate(invalid="ignore", divide="ignore"):
                t, p = _welch(values[:, :n], values[:, n:])
            effect = _effect(values[:, :n], values[:, n:])
            others = effect[1:][np.isfinite(effect[1:])]
            share = closing.mean(g, k)
            rows.append(
                {
                    "set": one.name,
                    "group": group,
                    "n_cells": int(silenced.n_cells[g, one.unit]),
                    "n_peaks": n,
                    "n_random": m,
                    "change": values[0, :n].mean(),
                    "change_random": values[0, n:].mean(),
                    "t": t[0],
                    "p": p[0],
                    "fdr": np.nan,
                    "effect": effect[0],
                    "p_matched": tail_p(others, effect[:1], "two-sided")[0] if len(others) else np.nan,
                    "fraction_closing": share[0],
                    "fraction_closing_random": share[1],
                }
            )
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    for group in names:
        of_group: BoolArray = (table["group"] == group).to_numpy() if len(table) else np.zeros(0, bool)
        if of_group.any():
            table.loc[of_group, "fdr"] = false_discovery_rate(table.loc[of_group, "p"].to_numpy())
    return table


def _effect(a: DoubleArray, b: DoubleArray) -> DoubleArray:
    """Return the means' difference over the random peaks' spread, by gene: some move all peaks more."""
    spread = b.std(axis=1, ddof=1)
    effect: DoubleArray = np.full(len(a), np.nan)
    np.divide(a.mean(axis=1) - b.mean(axis=1), spread, out=effect, where=spread > 0)
    return effect


def _welch(a: DoubleArray, b: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    result = stats.ttest_ind(a, b, axis=1, equal_var=False)
    return np.asarray(result.statistic), np.asarray(result.pvalue)


MEASURES = ("fraction_closing", "effect")
_CLASS_COLUMNS = ("group", "measure", "class", "other_class", "n", "n_other", "mean", "mean_other", "t", "p")


@dataclass(frozen=True, eq=False)
class SetsCompared:
    """One line a set of peaks and a group of cells; and classes of sets against each other, or None."""

    table: pd.DataFrame
    classes: pd.DataFrame | None


def read_classes(path: str | Path, sets: Mapping[str, object], warn: Callable[[str], None]) -> dict[str, str]:
    """Read the class of every set of peaks: a table of set and class, with or without a header.

    Raises `InputError`: the file is absent or of another form, or no two classes have a set.
    """
    expected = "two columns, set and class, such as: GATA1 <tab> activator"
    frame = tab_separated(path, "the file of classes of peak sets", expected=expected, fewest=2, most=2)
    folded = {name.casefold(): name for name in sets}
    rows = [(folded.get(name.casefold()), one) for name, one in zip(frame[0], frame[1], strict=True)]
    class_of = {name: one for name, one in rows if name is not None}
    if len(set(class_of.values())) < 2:
        raise InputError(
            "there are no two classes of peak sets to compare",
            file=path,
            found=", ".join(f"{name}: {one}" for name, one in list(class_of.items())[:5])
            or ", ".join(frame[0].head(5)),
            expected=f"classes of sets such as {', '.join(list(sets)[:3])}",
        )
    if without := [name for name in sets if name not in class_of]:
        warn(f"these peak sets have no class: {', '.join(without[:5])}")
    return class_of


def compare_classes(table: pd.DataFrame, classes: Mapping[str, str]) -> pd.DataFrame:
    """Compare every two classes by Welch's two-sided t-test over their sets.

    Compared are the share of a cell's peaks that close, mean over the cells, and the effect beside random
    peaks. A set counts once: cells of one set are no repetition of it (the authors pool cells).

    `table`: of `compare_sets`.
    """
    rows = []
    of_class = table.assign(**{"class": table["set"].map(classes)}).dropna(subset=["class"])
    for group, part in of_class.groupby("group", sort=False):
        for measure in MEASURES:
            values = {one: v.dropna().to_numpy() for one, v in part.groupby("class")[measure]}
            for a, b in combinations(sorted(values), 2):
                x, y = values[a], values[b]
                enough = min(len(x), len(y)) > 1
                test = stats.ttest_ind(x, y, equal_var=False) if enough else None
                t, p = (float("nan"),) * 2 if test is None else (float(test.statistic), float(test.pvalue))
                means = (float(v.mean()) if len(v) else float("nan") for v in (x, y))
                rows.append((group, measure, a, b, len(x), len(y), *means, t, p))
    return pd.DataFrame(rows, columns=list(_CLASS_COLUMNS))
