"""Imputed cells by label: the label each has, and the label that its imputed values resemble."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mocli.metrics.imputation import AMONG, LabelledCells, RealCells, Tally
from mocli.metrics.registry import evaluate
from mocli.tasks.impute.accuracy import rows_drawn
from mocli.tasks.infer.align import Aligned
from mocli.tasks.infer.translation import Translation
from mocli.tasks.prepare.obscolumns import words
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.types import FloatArray, IntArray

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

        Parameters
        ----------
        columns
            Labels of the cells of each file, by its name.
        kept
            Rows of the target that were not hidden.
        """
        source_label, target_label = labels_of_sides(translation, columns)
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


def labels_of_sides(
    translation: Translation, columns: Mapping[str, pd.Series | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of all cells of source and target, None where unknown; partners know each other's."""
    assert translation.target_file is not None
    both = []
    for f in (translation.source_file, translation.target_file):
        column = columns[f.name]
        both.append(np.full(f.n_obs, None, dtype=object) if column is None else words(column))
    for first, second in ((0, 1), (1, 0)):
        labels, other = both[first], both[second]
        lacking = np.array([v is None for v in labels[translation.pairs[:, first]]], dtype=bool)
        labels[translation.pairs[lacking, first]] = other[translation.pairs[lacking, second]]
    return both[0], both[1]
