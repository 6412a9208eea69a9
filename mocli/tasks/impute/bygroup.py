"""Features that differ between groups of cells, in the values that a model expects and in measured ones.

By label: the label each imputed cell has, and the label that its imputed values resemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mocli.metrics.correlation import FDR, Differential, ListsCompared, agreement, differential
from mocli.metrics.imputation import AMONG, LabelledCells, RealCells, Tally
from mocli.metrics.registry import evaluate
from mocli.report.featureplots import against_truth
from mocli.report.figures import column_table, figure, plural, table
from mocli.report.html import Drawn
from mocli.tasks.impute.accuracy import rows_drawn
from mocli.tasks.impute.holdout import Groups, labels_of_sides
from mocli.tasks.infer.align import Aligned
from mocli.tasks.infer.translation import Translation
from mocli.tasks.run.run import Run
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.types import DoubleArray, FloatArray, IntArray, StrArray

MODEL = "model"
KEY = "imputation_group_change"
_DRAWN = 6
_SHOWN = 15
"""Features of a group in the report."""

_COLUMNS = (
    *("group", "method", "features", "differ", "found", "by chance"),
    *("p", "same sign", "Pearson", "Spearman"),
)


class ByGroup:
    """Collects measured and imputed values, and compares each group of cells with all others.

    Args:
        groups: The column, and perhaps two of its values; `group` has the value of each cell, None where it
            has none, `(n,)`.
        names: Features of the target.
        values: What the model's values are: `imputed` from another modality, or what the `model` expects.

    Raises:
        InputError: As `Groups.chosen` raises it.
    """

    def __init__(
        self, groups: Groups, group: StrArray, names: Sequence[str], *, values: str = "imputed"
    ) -> None:
        self.column, self.names, self.values = groups.column, names, values
        self.groups, self.against = groups.chosen(group)
        self._has_group = groups.has(group)
        self._group = group[self._has_group].astype(str)
        self._parts: dict[str, dict[str, list[tuple[IntArray, Differential]]]] = {}

    def see(self, name: str, columns: IntArray, values: FloatArray) -> None:
        """Take in columns of values `(n, n_columns)` of one method, or of the measurement."""
        by_group = self._parts.setdefault(name, {group: [] for group in self.groups})
        for group, parts in by_group.items():
            parts.append((columns, differential(values[self._has_group], self._group == group)))

    def changes(self, name: str, group: str, columns: IntArray) -> Differential:
        """Return how some features differ by the values of one method, or by the measurement."""
        change, p = np.full((2, len(self.names)), np.nan)
        for position, part in self._parts[name][group]:
            change[position], p[position] = part.change, part.p
        return Differential(change[columns], p[columns])

    def table(self, columns: IntArray) -> pd.DataFrame:
        """Return a line for every group and feature, those of the largest changes first.

        These are the measured ones beside imputed values, and the model's beside its own, which get no p:
        cells lie where the network puts them, not independently, and a test of decoded values calls most
        features that do not differ (tests/benchmarks/RESULTS.md).
        """
        first = "measured_change" if self.values == "imputed" else f"{self.values}_change"
        parts = []
        for group in self.groups:
            part = pd.DataFrame({"feature": np.array(self.names, dtype=object)[columns]})
            part.insert(0, "group", group)
            part.insert(1, "against", self.against)
            for name, source in ((MEASURED, MEASURED), (self.values, MODEL)):
                difference = self.changes(source, group, columns)
                part[f"{name}_change"] = difference.change
                if source == MEASURED or self.values == "imputed":
                    part[f"{name}_p"], part[f"{name}_fdr"] = difference.p, difference.fdr
            largest = np.argsort(-np.nan_to_num(np.abs(part[first].to_numpy())), kind="stable")
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
                f"Correlation of {self._whose} and measured changes between groups",
                "Pearson correlation, over features, of the difference of means of a group and "
                f"{self.against} in {self._whose} and in measured values; mean over "
                f"{plural(len(correlations), 'group')}.",
                "Tells whether features that differ between conditions or types also do so in "
                f"{self._whose} values: 1 is the same pattern.",
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
            f"Features that differ between groups ({self.column}), {self._whose} against measured values",
            f"Cells of a group against {self.against}. differ: features whose measured values differ "
            f"(Wilcoxon's rank-sum test, FDR {FDR:g}); found: of as many that change most by {self._whose} "
            "values, those among the former with the same sign, beside what chance gives; p: of the overlap, "
            "whatever the sign (Fisher's exact test). Expected values carry no noise, so that tests of them "
            "find nearly all features: this is why lists have equal length. Every feature is in the table "
            "beside the output.",
            _COLUMNS,
            rows,
        )

    @property
    def _whose(self) -> str:
        return "the model's" if self.values == "model" else self.values

    def report_model(self, run: Run, columns: IntArray, target: str, held: str) -> None:
        """Report how groups differ by a model's own values: a sentence, the features that change most.

        Args:
            held: Under which batch all cells were decoded, in words.
        """
        self.report(run, columns, f"{target}->{target}")
        every = self.table(columns)
        differs = (every[f"{MEASURED}_fdr"] < FDR).to_numpy()
        alike = (np.sign(every["model_change"]) == np.sign(every[f"{MEASURED}_change"])).to_numpy()
        pair = f"{self.groups[0]} and {self.against}" if len(self.groups) == 1 else "a group and all others"
        sentence = (
            f"{plural(int(differs.sum()), 'difference')} of {target} between {pair} are measured (Wilcoxon's "
            f"test, FDR {FDR:g}), and {alike[differs].sum():,} of them have the same sign in the model"
        )
        run.say(sentence)
        run.report.conclude(sentence)
        run.report.tables["group_features"] = column_table(
            f"Features that change most between groups ({self.column}) by the model",
            "model_change: mean of what the model's decoder expects of the cells of a group less that of "
            f"{self.against}, {held}; measured_change and measured_p: of measured values, by Wilcoxon's "
            "rank-sum test. The model's change has no p: a test of decoded values calls most features that "
            "do not differ. Groups that were found in the same cells, such as clusters, differ in any data: "
            "measured_p is too small for these.",
            every.groupby("group", sort=False).head(_SHOWN),
            digits=4,
        )

    def draw(self, columns: IntArray) -> Drawn:
        """Draw measured changes over those of the model, group by group."""
        panels: list[tuple[str, DoubleArray, DoubleArray, list[str]]] = []
        for group in self.groups[:_DRAWN]:
            x, y = (self.changes(name, group, columns).change for name in (MODEL, MEASURED))
            r, finite = (
                agreement(x, self.changes(MEASURED, group, columns)).pearson,
                np.isfinite(x) & np.isfinite(y),
            )
            names = [self.names[j] for j in columns[finite]]
            panels.append((f"{group} against {self.against}, r = {r:.2f}", x[finite], y[finite], names))
        title = f"Changes between groups ({self.column}), {self._whose} against measured"
        return Drawn(against_truth(panels), title, "One point a feature: difference of means.")


def _line(group: str, name: str, one: ListsCompared) -> list[Any]:
    numbers = (one.expected, one.p, one.same_sign, one.pearson, one.spearman)
    return [group, name, one.n, one.n_differ, one.n_both, *(float(f"{x:.3g}") for x in numbers)]


MEASURED = "measured"
"""The name of measured values in `accuracy.evaluate`; every other name is a method's."""


class ByLabel:
    """Collects measured and imputed values of the cells compared, and judges them by label.

    `labelled`: which of the cells have a label.
    """

    def __init__(
        self, readout: FeatureReadout, scale: str, levels: tuple[str, ...], label: IntArray, real: RealCells
    ) -> None:
        self.labelled = np.flatnonzero(label >= 0)
        self._label, self._levels, self._real = label[self.labelled], levels, real
        self._scale, self._readout = scale, readout
        self._tallies: dict[str, Tally] = {}

    @classmethod
    def of(
        cls,
        translation: Translation,
        columns: Mapping[str, pd.Series | None],
        scale: str,
        cells: IntArray,
        target: Aligned,
        *,
        target_rows: IntArray,
        seed: int,
    ) -> ByLabel | None:
        """Find the labels of some rows of the source, and real cells of the target; None without labels.

        Args:
            columns: Labels of the cells of each file, by its name.
            kept: Rows of the target that were not hidden.
        """
        assert translation.target_file is not None
        source_label, target_label = labels_of_sides(
            (translation.source_file, translation.target_file), translation.pairs, columns
        )
        known_label = np.array([v is not None for v in target_label], dtype=bool)
        real_rows = target_rows[known_label[target_rows]]
        if len(real_rows) < AMONG or all(v is None for v in source_label[cells]):
            return None
        real_rows = real_rows[rows_drawn(len(real_rows), seed=seed)]
        names = {v for v in (*source_label[cells], *target_label[real_rows]) if v is not None}
        levels = tuple(sorted(names))
        code = {None: -1, **{level: i for i, level in enumerate(levels)}}
        label, real_label = (
            np.array([code[v] for v in values], dtype=np.int64)
            for values in (source_label[cells], target_label[real_rows])
        )
        readout = translation.readout
        values = readout.values(target.read(real_rows), "counts" if scale == "counts" else "log")
        if scale == "counts":
            values.data = np.log1p(values.data)
        return cls(readout, scale, levels, label, RealCells.fit(values, real_label, seed=seed))

    def see(self, name: str, columns: IntArray, values: FloatArray) -> None:
        """Take in columns of values `(n, n_columns)` of one method, or of the measurement."""
        if name not in self._tallies:
            self._tallies[name] = Tally(self._label, self._levels, self._real, self._readout.n_vars)
        self._tallies[name].add(columns, self._logged(values[self.labelled], columns))

    def _logged(self, values: FloatArray, columns: IntArray) -> FloatArray:
        if self._scale == "counts":
            return np.log1p(np.maximum(values, 0))
        if self._scale != "scaled":
            return values
        mean, deviation = self._readout.moments("log")
        return values * np.where(deviation[columns] > 0, deviation[columns], 1) + mean[columns]

    def figures(self, direction: str) -> dict[str, dict[str, Any]]:
        """Return the report's entries, by method, then by key."""
        measured = self._tallies[MEASURED].means
        entries: dict[str, dict[str, Any]] = {}
        for name, tally in self._tallies.items():
            if name != MEASURED:
                cells = LabelledCells(self._levels, self._label, tally.given(), measured, tally.means)
                entries[name] = {f"{key}[{direction}]": entry for key, entry in evaluate(cells).items()}
        return entries
