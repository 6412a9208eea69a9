"""Columns that a run adds to obs: values over all cells of a bundle, for each modality and for the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from mocli.data.bundle import Codes, MultiOmics
from mocli.types import FloatArray, IntArray, StrArray

Column: TypeAlias = "pd.Categorical | FloatArray | StrArray"


@dataclass(frozen=True, eq=False)
class CellColumns:
    """Columns of obs.

    Attributes:
        said: The main column, for people.
        columns: `(n_cells,)` by name.
        cells: The cells of the rows of each file's modality.
        missing: By column the value of cells that are not in the bundle, where it is not a missing value.
    """

    said: str
    columns: Mapping[str, Column]
    cells: Mapping[str, IntArray]
    missing: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_codes(cls, codes: Codes, cells: Mapping[str, IntArray], names: Sequence[str] = ()) -> CellColumns:
        """Return categories as one column of their own name, or as several columns of other names."""
        column = pd.Categorical.from_codes(codes.codes, categories=list(codes.levels))
        return cls(f"clusters in obs['{codes.key}']", dict.fromkeys(names or [codes.key], column), cells)

    def of_modality(self, modality: str) -> dict[str, Column]:
        """Return columns for the obs of a modality, by name."""
        return {name: column[self.cells[modality]] for name, column in self.columns.items()}

    def of_whole(self, cells: Mapping[str, IntArray], n_cells: int) -> dict[str, Column]:
        """Return columns for the obs of the whole; `cells` gives the row there of each row of a modality."""
        rows = np.full(n_cells, -1, np.int64)
        for modality, rows_there in cells.items():
            rows[rows_there] = self.cells[modality]
        return {name: _taken(column, rows, self.missing.get(name)) for name, column in self.columns.items()}


def cells_of_files(bundle: MultiOmics, names: Mapping[str, str]) -> dict[str, IntArray]:
    """Return the cells of the rows of each file's modality; `names` gives its name by the bundle's."""
    return {file_name: bundle.cells_of(name) for name, file_name in names.items()}


def _taken(column: Column, rows: IntArray, missing: Any) -> Column:
    """Return some values in order, and the missing one for row -1."""
    if isinstance(column, pd.Categorical):
        return column.take(rows, allow_fill=True)
    taken = np.full(len(rows), np.nan if missing is None else missing, column.dtype)
    taken[rows >= 0] = column[rows[rows >= 0]]
    return taken
