"""Features that differ between groups of cells, in imputed and in measured values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mocli.errors import InputError
from mocli.metrics.differential import FDR, Differential, ListsCompared, agreement, differential
from mocli.report.figures import figure, table
from mocli.tasks.impute.bylabel import MEASURED, labels_of_sides
from mocli.tasks.infer.translation import Translation
from mocli.tasks.run.run import Run
from mocli.types import DoubleArray, FloatArray, IntArray, StrArray

FEWEST = 20
"""Fewest compared cells of a group."""

MODEL = "model"
KEY = "imputation_group_change"
_DRAWN = 6
_COLUMNS = (
    *("group", "method", "features", "differ", "found", "by chance"),
    *("p", "same sign", "Pearson", "Spearman"),
)


class ByGroup:
    """Collects measured and imputed values, and compares each group of cells with all others.

    Parameters
    ----------
    column
        Name of the groups; `group` has each compared cell's, None where it has none, `(n,)`. If there are
        two groups, the first is compared with the second.
    names
        Features of the target.

    Raises
    ------
    InputError
        No two groups have 20 cells.
    """

    def __init__(self, column: str, group: StrArray, names: Sequence[str]) -> None:
        self.column, self.names = column, names
        self._has_group = np.array([g is not None for g in group], dtype=bool)
        self._group = group[self._has_group].astype(str)
        levels, sizes = np.unique(self._group, return_counts=True)
        enough = [str(g) for g, n in zip(levels, sizes, strict=True) if n >= FEWEST]
        if len(enough) < 2:
            raise InputError(
                "there are no two groups of cells whose imputed and measured values can be compared",
                field="--compare-groups",
                found=", ".join(f"{g}: {n:,}" for g, n in zip(levels[:8], sizes[:8], strict=True))
                or f"no value of {column} among them",
                expected=f"two values of {column} with {FEWEST} cells that are compared",
                hint="hide more cells with --hold-out, or compare another column",
            )
        two = len(levels) == 2
        self.groups, self.against = (enough[:1], enough[1]) if two else (enough, "all others")
        self._parts: dict[str, dict[str, list[tuple[IntArray, Differential]]]] = {}

    @classmethod
    def of(
        cls, translation: Translation, column: str, columns: Mapping[str, pd.Series | None], cells: IntArray
    ) -> ByGroup:
        """Find the groups of some rows of the source in a column of the files."""
        return cls(column, labels_of_sides(translation, columns)[0][cells], translation.names)

    def see(self, name: str, columns: IntArray, values: FloatArray) -> None:
        """Take in columns of values `(n, n_columns)` of one method, or of the measurement."""
        by_group = self._parts.setdefault(name, {group: [] for group in self.groups})
        for group, parts in by_group.items():
            parts.append((columns, differential(values[self._has_group], self._group == group)))

    def changes(self, name: str, group: str, columns: IntArray) -> Differential:
        """Return how some features differ by the values of one method, or by the measurement."""
        change, p = np.full(len(self.names), np.nan), np.full(len(self.names), np.nan)
        for position, part in self._parts[name][group]:
            change[position], p[position] = part.change, part.p
        return Differential(change[columns], p[columns])

    def table(self, columns: IntArray) -> pd.DataFrame:
        """Return a line for every group and feature, those of the largest measured changes first."""
        parts = []
        for group in self.groups:
            part = pd.DataFrame({"feature": np.array(self.names, dtype=object)[columns]})
            part.insert(0, "group", group)
            part.insert(1, "against", self.against)
            for name, source in ((MEASURED, MEASURED), ("imputed", MODEL)):
                difference = self.changes(source, group, columns)
                part[f"{name}_change"], part[f"{name}_p"] = difference.change, difference.p
                part[f"{name}_fdr"] = difference.fdr
            largest = np.argsort(-np.nan_to_num(np.abs(part["measured_change"].to_numpy())), kind="stable")
            parts.append(part.iloc[largest])
        return pd.concat(parts, ignore_index=True)

    def report(self, run: Run, columns: IntArray, direction: str) -> None:
        """Report the differences between groups: a figure for every method, and a table."""
        rows = []
        for name in (n for n in self._parts if n != MEASURED):
            agreements = [
                agreement(self.changes(name, g, columns).change, self.changes(MEASURED, g, columns))
                for g in self.groups
            ]
            correlations = [one.pearson for one in agreements if np.isfinite(one.pearson)]
            entry = figure(
                float(np.mean(correlations)) if correlations else None,
                f"Correlation of imputed and measured changes between groups ({self.column})",
                "Pearson correlation, over features, of the difference of means of a group and "
                f"{self.against} in imputed and in measured values; mean over {len(correlations):,} groups.",
                "Tells whether features that differ between conditions or types also do so in imputed "
                "values: 1 is perfect.",
                better="higher",
                bounds=(-1.0, 1.0),
                n=len(columns),
            )
            metrics = run.report.metrics if name == MODEL else run.report.baselines[name]["metrics"]
            metrics[f"{KEY}[{direction}; {self.column}]"] = entry
            rows += [
                _line(group, name, one)
                for group, one in zip(self.groups, agreements, strict=True)
                if np.isfinite(one.pearson)
            ]
        run.report.tables["groups"] = table(
            f"Features that differ between groups ({self.column}), imputed against measured",
            f"Cells of a group against {self.against}. differ: features whose measured values differ "
            f"(Wilcoxon's rank-sum test, FDR {FDR:g}); found: of as many that change most by imputed "
            "values, those among the former with the same sign, beside what chance gives; p: of the overlap, "
            "whatever the sign (Fisher's exact test). Imputed values carry no noise, so that tests of them "
            "find nearly all features: this is why lists have equal length. Every feature is in the table "
            "beside the output.",
            _COLUMNS,
            rows,
        )

    def panels(self, columns: IntArray) -> list[tuple[str, DoubleArray, DoubleArray, list[str]]]:
        """Return the panels to draw: title, predicted and measured changes, names; group by group."""
        panels = []
        for group in self.groups[:_DRAWN]:
            x, y = (self.changes(name, group, columns).change for name in (MODEL, MEASURED))
            r, finite = (
                agreement(x, self.changes(MEASURED, group, columns)).pearson,
                np.isfinite(x) & np.isfinite(y),
            )
            names = [self.names[j] for j in columns[finite]]
            panels.append((f"{group} against {self.against}, r = {r:.2f}", x[finite], y[finite], names))
        return panels


def _line(group: str, name: str, one: ListsCompared) -> list[Any]:
    numbers = (one.expected, one.p, one.same_sign, one.pearson, one.spearman)
    return [group, name, one.n, one.n_differ, one.n_both, *(float(f"{x:.3g}") for x in numbers)]
