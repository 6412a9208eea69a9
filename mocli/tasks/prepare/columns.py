"""Columns of obs over all cells: labels, batches and other categories as codes, and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.bundle import Codes, Continuous
from mocli.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from mocli.data.files.inputs import ModalityFile
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


def numbers_of_cells(
    columns: Mapping[str, Mapping[str, pd.Series | None]], files: Sequence[ModalityFile], rows: IntArray
) -> Continuous | None:
    """Gather columns of numbers from the modalities that have them, the first that knows winning.

    Raises
    ------
    InputError
        For a column that holds no numbers, or none for some cells.
    """
    import pandas as pd

    if not columns:
        return None
    values = np.full((len(rows), len(columns)), np.nan)
    for j, (key, by_modality) in enumerate(columns.items()):
        for position, f in enumerate(files):
            column = by_modality.get(f.name)
            if column is None:
                continue
            own = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            open_cells = np.flatnonzero((rows[:, position] >= 0) & ~np.isfinite(values[:, j]))
            values[open_cells, j] = own[rows[open_cells, position]]
        missing = np.flatnonzero(~np.isfinite(values[:, j]))
        if len(missing):
            position = int((rows[missing[0]] >= 0).argmax())
            name = files[position].obs.index[rows[missing[0], position]]
            raise InputError(
                f"the continuous covariate '{key}' is not a number for every cell",
                file=files[position].where,
                field=f"obs['{key}']",
                found=f"{len(missing):,} of {len(rows):,} cells without one, the first '{name}'",
                hint="fill it in, leave those cells out, or give it as a category with --covariate",
            )
    return Continuous(tuple(columns), values.astype(np.float32))


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
