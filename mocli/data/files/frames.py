"""The obs and var tables of a file, as written by any anndata, and their union over several files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from mocli.data.files.hdf5 import strings, text_attr
from mocli.types import StrArray


def read_table(node: h5py.Group | h5py.Dataset) -> pd.DataFrame:
    """Read a table with its index as `str`."""
    if isinstance(node, h5py.Dataset):
        table = _compound(node)
    else:
        from anndata.io import read_elem

        with warnings.catch_warnings():
            # old encodings are read as well as new ones: no need to announce them
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            table = read_elem(node)
    table.index = table.index.astype(str)
    return table


def read_index(node: h5py.Group | h5py.Dataset) -> StrArray:
    """Read only the row names of a table, `(n,)`."""
    if isinstance(node, h5py.Dataset):
        return np.asarray(_compound(node).index, dtype=object)
    return strings(node[text_attr(node, "_index") or "_index"])


def top_columns(
    top: pd.DataFrame,
    obs: pd.DataFrame,
    *,
    modality: str,
    modalities: Sequence[str],
    obsmap: np.ndarray | None,
) -> pd.DataFrame:
    """Add to a modality's obs the columns of the whole file's obs that it lacks.

    `rna:batch` on top is `batch` of `rna` and of no other modality; the
    modality's own column wins.

    Args:
        top, obs: Tables of the file and of the modality.
        obsmap: For each row of `top` the row of `obs` from 1, 0 where there is none; used where names alone
            are ambiguous.
    """
    names: dict[str, str] = {}
    for column in map(str, top.columns):
        owner, colon, rest = column.partition(":")
        if colon and owner in modalities:
            if owner == modality:
                names[rest] = column  # the column meant for this modality beats a shared one
        else:
            names.setdefault(column, column)
    wanted = {new: old for new, old in names.items() if new not in obs.columns}
    if not wanted:
        return obs
    if top.index.is_unique:
        added = top[list(wanted.values())].reindex(obs.index)
    elif obsmap is not None and np.count_nonzero(obsmap) == len(obs):
        rows = np.flatnonzero(obsmap)
        added = top[list(wanted.values())].iloc[rows[np.argsort(obsmap[rows], kind="stable")]]
        added.index = obs.index
    else:
        return obs
    added.columns = list(wanted)
    return pd.concat([obs, added], axis=1)


def _compound(dataset: h5py.Dataset) -> pd.DataFrame:
    """Read the structured array that anndata before 0.7 wrote."""
    rows = dataset[()]
    columns = {}
    for name in rows.dtype.names:
        column = rows[name]
        if column.dtype.kind in "SO":
            column = np.asarray([v.decode() if isinstance(v, bytes) else v for v in column], dtype=object)
        columns[name] = column
    return pd.DataFrame(columns).set_index(rows.dtype.names[0])


def stack_obs(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables; a column that one of them lacks is missing in its rows.

    Levels of categories are united, in order of appearance; a column with numbers in one table and words in
    another becomes words.
    """
    names = list(dict.fromkeys(c for table in tables for c in table.columns))
    index = pd.Index(np.concatenate([t.index.to_numpy(object) for t in tables]), dtype=object)
    columns = {}
    for name in names:
        parts = [table[name] if name in table.columns else None for table in tables]
        columns[name] = _stack(parts, [len(t) for t in tables], index)
    stacked = pd.DataFrame(columns, index=index)
    stacked.index.name = tables[0].index.name
    return stacked


def agreeing_columns(tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """Return the columns on which all tables that have them agree, and the names of the others.

    Rows are the same features in the same order.
    """
    agreeing: dict[Any, pd.Series] = {}
    differing = []
    for name in dict.fromkeys(c for table in tables for c in table.columns):
        parts = [table[name] for table in tables if name in table.columns]
        if all(_equal(parts[0], other) for other in parts[1:]):
            agreeing[name] = parts[0].set_axis(tables[0].index)
        else:
            differing.append(str(name))
    return pd.DataFrame(agreeing, index=tables[0].index), differing


def _stack(parts: Sequence[pd.Series | None], sizes: Sequence[int], index: pd.Index) -> pd.Series:
    present = [column for column in parts if column is not None]
    if all(isinstance(c.dtype, pd.CategoricalDtype) for c in present):
        return pd.Series(_stack_categories(parts, sizes), index=index)
    numbers = [pd.api.types.is_numeric_dtype(c.dtype) for c in present]
    flags = [pd.api.types.is_bool_dtype(c.dtype) for c in present]
    if all(flags) or (all(numbers) and not any(flags)):
        if len(present) < len(parts) and all(flags):
            # missing among booleans: numbers on disk, not the words True and False
            present = [c.astype("boolean") for c in present]
        filled = iter(present)
        missing = "boolean" if all(flags) else np.float64
        stacked = pd.concat(
            [
                pd.Series(np.full(n, np.nan), dtype=missing)
                if c is None
                else next(filled).reset_index(drop=True)
                for c, n in zip(parts, sizes, strict=True)
            ]
        )
        return stacked.set_axis(index)
    text = [
        np.full(n, None, dtype=object) if c is None else _words(c) for c, n in zip(parts, sizes, strict=True)
    ]
    words = pd.Series(np.concatenate(text), index=index, dtype=object)
    return (
        words.astype("category") if any(isinstance(c.dtype, pd.CategoricalDtype) for c in present) else words
    )


def _stack_categories(parts: Sequence[pd.Series | None], sizes: Sequence[int]) -> pd.Categorical:
    present = [c for c in parts if c is not None]
    levels = [c.cat.categories for c in present]
    alike = all(index.equals(levels[0]) for index in levels[1:])
    ordered = alike and all(c.cat.ordered for c in present)
    if len({index.dtype for index in levels}) > 1:
        present = [pd.Series(pd.Categorical(_words(c))) for c in present]
        levels = [c.cat.categories for c in present]
    filled = iter(present)
    pieces = []
    for column, n in zip(parts, sizes, strict=True):
        values = (
            pd.Categorical.from_codes(np.full(n, -1), levels[0]) if column is None else next(filled).array
        )
        pieces.append(values.as_unordered())
    united: pd.Categorical = union_categoricals(pieces)
    return united.as_ordered() if ordered else united


def _words(column: pd.Series) -> Any:
    """Return what `words` does, of categories by their levels: those of numbers read `1`, not `1.0`."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return words(column)
    # code -1, missing, finds the last
    return np.array([*words(pd.Series(column.cat.categories)), None], dtype=object)[
        column.cat.codes.to_numpy()
    ]


def words(column: pd.Series) -> Any:
    """Return a column as text, None where it is missing; `1.0` reads `1`, as in a column without gaps."""
    missing = column.isna().to_numpy()
    values = column[~missing]
    if values.dtype.kind == "f":
        numbers = values.to_numpy(dtype=np.float64)
        if np.isfinite(numbers).all() and np.array_equal(numbers, np.rint(numbers)):
            values = values.astype("Int64")
    out = np.full(len(column), None, dtype=object)
    out[~missing] = values.astype(object).to_numpy().astype(str)
    return out


def _equal(a: pd.Series, b: pd.Series) -> bool:
    left, right = a.to_numpy(object), b.to_numpy(object)
    return bool(np.all((left == right) | (pd.isna(left) & pd.isna(right))))
