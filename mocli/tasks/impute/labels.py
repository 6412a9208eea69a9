"""Imputed cells by their labels: which they have, which their imputed values look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.files.columns import find_column
from mocli.metrics.imputed import AMONG, LabelledCells, RealCells, Tally, available_imputation_metrics
from mocli.tasks.impute.accuracy import rows_drawn
from mocli.tasks.prepare.columns import words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.tasks.impute.work import Imputation
    from mocli.tasks.infer.align import Aligned
    from mocli.types import FloatArray, IntArray

MEASURED = "measured"
"""As `accuracy.evaluate` calls what was measured; whatever else it shows is a method."""


class ByLabel:
    """Takes in measured and imputed values of the cells compared, and judges them by label.

    Attributes
    ----------
    own
        Which of the cells have a label.
    """

    def __init__(
        self, work: Imputation, scale: str, levels: tuple[str, ...], label: IntArray, real: RealCells
    ) -> None:
        self.own = np.flatnonzero(label >= 0)
        self._label, self._levels, self._real = label[self.own], levels, real
        self._scale, self._readout = scale, work.readout
        self._tallies: dict[str, Tally] = {}

    @classmethod
    def of(cls, work: Imputation, scale: str, cells: IntArray, target: Aligned) -> ByLabel | None:
        """Find the labels of some rows of the source, and real cells of the target; None without labels.

        Raises
        ------
        InputError
            No modality has the column.
        """
        key = work.request.data.label_key
        if key is None:
            return None
        source_label, target_label = _labels(work, key)
        known_label = np.array([v is not None for v in target_label], dtype=bool)
        real_rows = work.kept[known_label[work.kept]]
        if len(real_rows) < AMONG or all(v is None for v in source_label[cells]):
            return None
        real_rows = real_rows[rows_drawn(len(real_rows), seed=work.request.run.seed)]
        known = {v for v in (*source_label[cells], *target_label[real_rows]) if v is not None}
        levels = tuple(sorted(known))
        code = {None: -1, **{level: i for i, level in enumerate(levels)}}
        label, real_label = (
            np.array([code[v] for v in values], dtype=np.int64)
            for values in (source_label[cells], target_label[real_rows])
        )
        x = target.read(real_rows)
        values = work.readout.values(x, "counts" if scale == "counts" else "log")
        if scale == "counts":
            values.data = np.log1p(values.data)
        return cls(work, scale, levels, label, RealCells.fit(values, real_label, seed=work.request.run.seed))

    def see(self, name: str, columns: IntArray, values: FloatArray) -> None:
        """Take in columns of values `(n, n_columns)` of one method, or of the measurement."""
        if name not in self._tallies:
            self._tallies[name] = Tally(self._label, self._levels, self._real, self._readout.n_vars)
        self._tallies[name].add(columns, self._logged(values[self.own], columns))

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
        found: dict[str, dict[str, Any]] = {}
        for name, tally in self._tallies.items():
            if name != MEASURED:
                cells = LabelledCells(self._levels, self._label, tally.given(), measured, tally.means)
                metrics = available_imputation_metrics().values()
                found[name] = {f"{m.name}[{direction}]": m.entry(cells) for m in metrics}
        return found


def _labels(work: Imputation, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all cells of source and target, None where unknown; partners know each other's."""
    assert work.target_file is not None
    columns: Mapping[str, object] = find_column(work.files, key, option="--label-key")
    both = []
    for f in (work.source_file, work.target_file):
        column = columns[f.name]
        both.append(np.full(f.n_obs, None, dtype=object) if column is None else words(column))
    for first, second in ((0, 1), (1, 0)):
        mine, other = both[first], both[second]
        lacking = np.array([v is None for v in mine[work.pairs[:, first]]], dtype=bool)
        mine[work.pairs[lacking, first]] = other[work.pairs[lacking, second]]
    return both[0], both[1]
