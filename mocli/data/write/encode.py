"""The elements mocli adds to a file: written by anndata, from values in forms that the oldest readers know.

These are plain variable-length strings, categoricals with integer codes, CSR, gzip, no nullable types, no `/`
in keys, no None. Only a table is taken apart here, as it may hold columns that anndata would write otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from mocli.types import StrArray

_TEXT = h5py.string_dtype()
_GZIP = {"compression": "gzip", "compression_opts": 4}


def safe_key(key: str) -> str:
    """Return a key without `/`, which HDF5 reads as a path."""
    return key.replace("/", "_")


def need_group(parent: h5py.Group, key: str) -> h5py.Group:
    """Return a group, created as an empty dict when absent."""
    if key not in parent:
        tag(parent.create_group(key), "dict", "0.1.0")
    return parent[key]


def tag(node: h5py.HLObject, encoding: str, version: str) -> None:
    """Name an element's encoding."""
    node.attrs["encoding-type"] = encoding
    node.attrs["encoding-version"] = version


def put(group: h5py.Group, key: str, value: object) -> None:
    """Write an element over what was there: an array, a table, a sparse matrix, a mapping, a scalar.

    None is left out, and what HDF5 cannot store becomes JSON.
    """
    from anndata.io import write_elem  # at use: a dry run writes nothing

    if isinstance(value, pd.DataFrame):
        put_table(group, key, value)
    elif isinstance(value, Mapping):
        write_elem(group, safe_key(key), {})
        for name, inner in value.items():
            put(group[safe_key(key)], str(name), inner)
    elif value is not None:
        write_elem(group, safe_key(key), _storable(value), dataset_kwargs=_GZIP)


def _storable(value: Any) -> Any:
    """Return a value in a form that the oldest readers know."""
    if sp.issparse(value):
        return sp.csr_matrix(value)
    if isinstance(value, pd.Categorical):
        categories = _storable(value.categories.to_numpy())
        return pd.Categorical.from_codes(value.codes, pd.Index(categories), ordered=value.ordered)
    if isinstance(value, np.ndarray) and value.ndim:
        return _text(value) if value.dtype.kind in "OSUT" else value
    if isinstance(value, (list, tuple)):
        if len({type(v) for v in value}) == 1 and isinstance(value[0], (str, bool, int, float)):
            return _storable(np.array(value))
        return json.dumps(value, default=str, sort_keys=True)
    return value if isinstance(value, (bool, int, float, np.number, np.bool_)) else str(value)


def _column(values: Any) -> Any:
    """Return one column of a table without nullable types; missing strings become a missing category."""
    column = pd.Series(np.asarray(values) if not isinstance(values, (pd.Series, pd.Categorical)) else values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.array
    if column.dtype.kind not in "biuf":
        missing = column.isna().to_numpy()
        text = column.astype(object).astype(str)
        return pd.Categorical(text.mask(missing)) if missing.any() else text.to_numpy(object)
    if column.isna().any():
        return column.to_numpy(np.float64, na_value=np.nan)
    return column.to_numpy(getattr(column.dtype, "numpy_dtype", column.dtype))


def put_table(group: h5py.Group, key: str, table: pd.DataFrame) -> None:
    """Write a table, obs or var, with its index."""
    key = safe_key(key)
    if key in group:
        del group[key]
    node = group.create_group(key)
    tag(node, "dataframe", "0.2.0")
    index = "_index" if table.index.name is None else safe_key(str(table.index.name))
    if index in table.columns:
        index = "_index"
    node.attrs["_index"] = index
    put(node, index, table.index.to_numpy(object))
    set_columns(node, [str(c) for c in table.columns])
    for name in table.columns:
        put(node, str(name), _column(table[name]))


def add_column(table: h5py.Group, name: str, values: Any) -> None:
    """Add a column to a table that is there, or replace the column of that name."""
    name = safe_key(name)
    put(table, name, _column(values))
    order = column_order(table)
    if name not in order:
        set_columns(table, [*order, name])


def column_order(table: h5py.Group) -> list[str]:
    """Return the names of a table's columns."""
    return [c.decode() if isinstance(c, bytes) else str(c) for c in table.attrs.get("column-order", [])]


def set_columns(table: h5py.Group, names: Iterable[str]) -> None:
    """Write the order of a table's columns."""
    table.attrs.create("column-order", np.array([safe_key(n) for n in names], dtype=object), dtype=_TEXT)


def _text(array: Any) -> StrArray:
    flat = [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(array.shape)
