"""Columns of obs as codes over all cells: labels and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.bundle import Codes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from mocli.data.io import ModalityFile
    from mocli.types import IntArray


def codes_of_cells(
    key: str,
    columns: Mapping[str, pd.Series | None] | None,
    files: Sequence[ModalityFile],
    rows: IntArray,
    *,
    by_name: bool,
) -> Codes | None:
    """Gather a column from the modalities that have it.

    Parameters
    ----------
    columns
        By modality, rows as in its file; None where it has no such column.
    rows
        The index map, `(n_cells, n_modalities)`.
    by_name
        Whether equal names mean equal cells, so that a label kept in one
        modality holds for the same cell in the others.
    """
    if columns is None:
        return None
    values = np.full(len(rows), None, dtype=object)
    named: dict[str, str] = {}
    for position, f in enumerate(files):
        column = columns.get(f.name)
        if column is None:
            continue
        present = np.flatnonzero(rows[:, position] >= 0)
        own = words(column)[rows[present, position]]
        known = own != None  # noqa: E711 - element by element
        values[present[known]] = own[known]
        if by_name:
            names = f.obs.index.to_numpy()[rows[present[known], position]]
            named.update(zip(map(str, names), own[known], strict=True))
    for position, f in enumerate(files):
        open_cells = np.flatnonzero((rows[:, position] >= 0) & (values == None))  # noqa: E711
        if named and len(open_cells):
            names = f.obs.index.to_numpy()[rows[open_cells, position]]
            values[open_cells] = [named.get(str(name)) for name in names]
    levels = sorted({v for v in values if v is not None})
    where = {level: code for code, level in enumerate(levels)}
    codes = np.fromiter((where.get(v, -1) for v in values), dtype=np.int64, count=len(values))
    return Codes(key, codes, tuple(levels))


def words(column: pd.Series) -> Any:
    """Return a column as text, None where it is missing; `1.0` reads `1`, as in a column without gaps."""
    import pandas as pd

    if column.dtype.kind == "f":
        known = column.dropna().to_numpy(dtype=np.float64)
        if np.isfinite(known).all() and np.array_equal(known, np.rint(known)):
            column = column.astype("Int64")
    values = column.astype(object).to_numpy()
    missing = pd.isna(values)
    out = np.full(len(values), None, dtype=object)
    out[~missing] = values[~missing].astype(str)
    return out
