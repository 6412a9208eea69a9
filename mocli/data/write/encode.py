"""The elements mocli adds to a file, in the encoding that the oldest readers know.

Written straight with h5py, so that what is on disk does not depend on the
version of anndata: plain variable-length strings, categoricals with integer
codes, CSR, gzip, no nullable types, no `/` in keys, no None.
Encoding names and versions: anndata's on-disk specification.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from mocli.types import CSR, StrArray

_TEXT = h5py.string_dtype()


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


def put_array(group: h5py.Group, key: str, values: Any) -> None:
    """Write numbers, booleans or strings of any shape, over what was there."""
    key = _clear(group, key)
    array = np.asarray(values)
    text = array.dtype.kind in "OSUT"
    options = {"compression": "gzip", "compression_opts": 4} if array.size else {}
    node = group.create_dataset(
        key, data=_text(array) if text else array, dtype=_TEXT if text else None, **options
    )
    tag(node, "string-array" if text else "array", "0.2.0")


def put_column(group: h5py.Group, key: str, values: Any) -> None:
    """Write one column of a table; missing strings become a missing category."""
    key = _clear(group, key)
    column = pd.Series(np.asarray(values) if not isinstance(values, (pd.Series, pd.Categorical)) else values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _put_categorical(group, key, column.cat)
    kind = column.dtype.kind
    if kind not in "biuf":
        missing = column.isna().to_numpy()
        text = column.astype(object).astype(str)
        if missing.any():
            return _put_categorical(group, key, text.mask(missing).astype("category").cat)
        return put_array(group, key, text.to_numpy(object))
    if column.isna().any():
        return put_array(group, key, column.to_numpy(np.float64, na_value=np.nan))
    return put_array(group, key, column.to_numpy(_plain(column)))


def put_table(group: h5py.Group, key: str, table: pd.DataFrame) -> None:
    """Write a table, obs or var, with its index."""
    key = _clear(group, key)
    node = group.create_group(key)
    tag(node, "dataframe", "0.2.0")
    index = "_index" if table.index.name is None else safe_key(str(table.index.name))
    if index in table.columns:
        index = "_index"
    node.attrs["_index"] = index
    put_array(node, index, table.index.to_numpy(object))
    set_columns(node, [str(c) for c in table.columns])
    for name in table.columns:
        put_column(node, str(name), table[name])


def add_column(table: h5py.Group, name: str, values: Any) -> None:
    """Add a column to a table that is there, or replace the column of that name."""
    name = safe_key(name)
    put_column(table, name, values)
    order = column_order(table)
    if name not in order:
        set_columns(table, [*order, name])


def column_order(table: h5py.Group) -> list[str]:
    """Return the names of a table's columns."""
    return [c.decode() if isinstance(c, bytes) else str(c) for c in table.attrs.get("column-order", [])]


def set_columns(table: h5py.Group, names: Iterable[str]) -> None:
    """Write the order of a table's columns."""
    table.attrs.create("column-order", np.array([safe_key(n) for n in names], dtype=object), dtype=_TEXT)


def put_csr(group: h5py.Group, key: str, x: CSR) -> None:
    """Write a sparse matrix."""
    key = _clear(group, key)
    node = group.create_group(key)
    tag(node, "csr_matrix", "0.1.0")
    node.attrs["shape"] = np.asarray(x.shape, dtype=np.int64)
    for part in ("data", "indices", "indptr"):
        values = getattr(x, part)
        node.create_dataset(
            part, data=values, **({"compression": "gzip", "compression_opts": 4} if len(values) else {})
        )


def put(group: h5py.Group, key: str, value: object) -> None:
    """Write an element of `uns`: None is left out, and what HDF5 cannot store becomes JSON."""
    if value is None:
        return
    if isinstance(value, Mapping):
        key = _clear(group, key)
        node = need_group(group, key)
        for name, inner in value.items():
            put(node, str(name), inner)
    elif isinstance(value, pd.DataFrame):
        put_table(group, key, value)
    elif sp.issparse(value):
        put_csr(group, key, value.tocsr())  # type: ignore[attr-defined]
    elif isinstance(value, np.ndarray) and value.ndim:
        put_array(group, key, value)
    elif isinstance(value, (list, tuple)):
        if len({type(v) for v in value}) == 1 and isinstance(value[0], (str, bool, int, float)):
            put_array(
                group, key, np.array(value, dtype=object) if isinstance(value[0], str) else np.array(value)
            )
        else:
            _put_scalar(group, key, json.dumps(value, default=str, sort_keys=True))
    else:
        _put_scalar(group, key, value)


def _put_scalar(group: h5py.Group, key: str, value: object) -> None:
    key = _clear(group, key)
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        tag(group.create_dataset(key, data=value), "numeric-scalar", "0.2.0")
    else:
        tag(group.create_dataset(key, data=str(value), dtype=_TEXT), "string", "0.2.0")


def _put_categorical(group: h5py.Group, key: str, column: Any) -> None:
    node = group.create_group(key)
    tag(node, "categorical", "0.2.0")
    node.attrs["ordered"] = bool(column.ordered)
    put_array(node, "codes", column.codes.to_numpy())
    put_array(node, "categories", column.categories.to_numpy())


def _plain(column: pd.Series) -> np.dtype[Any]:
    """Numpy type of a column that may be of a nullable type."""
    return np.dtype(getattr(column.dtype, "numpy_dtype", column.dtype))


def _text(array: Any) -> StrArray:
    flat = [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(array.shape)


def _clear(group: h5py.Group, key: str) -> str:
    key = safe_key(key)
    if key in group:
        del group[key]
    return key
