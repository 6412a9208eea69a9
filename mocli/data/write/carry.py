"""Elements of a file: those mocli adds, and slots of several inputs carried to the one group they become.

Elements that mocli adds are plain variable-length strings, categoricals with integer codes, CSR, gzip, no
nullable types, no `/` in keys, no None. Only a table is taken apart here, as it may hold columns that anndata
would write otherwise.

What an input holds about its cells (or features) is brought into the order of the output; contents of
several inputs are combined where their cells differ, or the values agree. Whatever cannot be carried over
is named.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from mocli.data.files.frames import agreeing_columns, read_index, read_table, stack_obs
from mocli.data.files.hdf5 import open_h5, reading, text_attr
from mocli.data.files.matrix import locate, read_csr
from mocli.types import CSR, IntArray, StrArray

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


CLASH = "another input has different values"
FORM = "it is not a table of numbers"
SPLIT = "one of its cells becomes several in the output"


class Lost(NamedTuple):
    """A slot that cannot be carried over to the output."""

    path: Path
    slot: str
    why: str


@dataclass(frozen=True, eq=False)
class RowOrigin:
    """A group of an input, and where its rows lie in the output.

    Attributes:
        rows: For each row of the output that in the input, -1 where it has none, `(n,)`.
        skip: Keys that are not the user's.
    """

    path: Path
    group: str
    rows: IntArray = field(repr=False)
    skip: frozenset[str] = frozenset()

    @property
    def is_split(self) -> bool:
        """Whether a row of the input is several rows of the output."""
        rows = self.rows[self.rows >= 0]
        return len(np.unique(rows)) < len(rows)


_Values: TypeAlias = "NDArray[Any] | pd.DataFrame | CSR"


def say_lost(lost: Sequence[Lost]) -> list[str]:
    """Log one line for each file and reason."""
    slots_by_reason: dict[tuple[Path, str], list[str]] = {}
    for path, slot, why in lost:
        slots_by_reason.setdefault((path, why), []).append(slot)
    return [
        f"{path}: {', '.join(dict.fromkeys(slots))} left out of the output: {why}"
        for (path, why), slots in slots_by_reason.items()
    ]


def carried_columns(
    axis: str, origins: Sequence[RowOrigin], *, skip: Collection[str] = ()
) -> tuple[pd.DataFrame, list[Lost]]:
    """Return the columns of `obs` or `var` of the inputs, over the rows of the output.

    Rows that no input knows are missing. A column on which two inputs differ for the same rows is
    the first's.
    """
    n = len(origins[0].rows) if origins else 0
    pieces: dict[str, list[tuple[IntArray, pd.DataFrame]]] = {}
    lost: list[Lost] = []
    for origin in origins:
        with open_h5(origin.path) as h5, reading(origin.path, axis):
            table = read_table(h5[origin.group][axis])
        table.columns = table.columns.astype(str)
        for name in table.columns:
            if name in skip or name in origin.skip:
                continue
            column = table[[name]]
            before = pieces.setdefault(name, [])
            rest = _not_taken(origin.rows, [rows_before for rows_before, _ in before])
            if all(_alike(rows_before, frame, origin.rows, column) for rows_before, frame in before):
                before.append((rest, column.iloc[origin.rows[rest]]))
            else:
                lost.append(Lost(origin.path, f"{axis} column {name}", CLASH))
    columns = {
        name: _stacked(parts, n)[name]
        for name, parts in pieces.items()
        if any(len(rows_of_piece) for rows_of_piece, _ in parts)
    }
    return pd.DataFrame(columns, index=range(n)), lost


def carry_arrays(
    target: h5py.Group,
    slot: str,
    origins: Sequence[RowOrigin],
    *,
    skip: Collection[str] = (),
    on_top: bool = False,
) -> list[Lost]:
    """Write the arrays, tables and sparse matrices of `obsm` or `varm` of the inputs.

    Rows that no input has are NaN, or empty in a sparse matrix. If arrays cannot be stacked, the first is
    kept.

    `on_top`: whether they are on the MuData's top level, where mudata cannot read integers of cells in an
    order other than its own: they become float64.
    """
    by_key: dict[str, list[tuple[IntArray, _Values]]] = {}
    lost: list[Lost] = []
    for origin, key, node in _elements(origins, slot, skip):
        with reading(origin.path, slot):
            values = _read_rows(node)
        before = by_key.setdefault(key, [])
        if values is None:
            lost.append(Lost(origin.path, f"{slot} {key}", FORM))
        elif all(_alike(rows_before, v, origin.rows, values) for rows_before, v in before):
            rest = _not_taken(origin.rows, [rows_before for rows_before, _ in before])
            before.append((rest, _take(values, origin.rows[rest])))
        else:
            lost.append(Lost(origin.path, f"{slot} {key}", CLASH))
    for key, pieces in by_key.items():
        if any(len(rows_of_piece) for rows_of_piece, _ in pieces):
            values = _stacked(pieces, len(origins[0].rows))
            if on_top and isinstance(values, np.ndarray) and values.dtype.kind in "iu":
                values = values.astype(np.float64)
            if isinstance(values, pd.DataFrame):
                values.index = pd.Index(read_index(target[slot[:3]]))
            put(need_group(target, slot), key, values)
    return lost


def carry_pairs(
    target: h5py.Group, slot: str, origins: Sequence[RowOrigin], *, skip: Collection[str] = ()
) -> list[Lost]:
    """Write the graphs of `obsp` or `varp` of the inputs, as CSR; there are none between inputs."""
    by_key: dict[str, list[tuple[IntArray, CSR]]] = {}
    lost: list[Lost] = []
    for origin, key, node in _elements(origins, slot, skip):
        before = by_key.setdefault(key, [])
        known_rows = np.flatnonzero(origin.rows >= 0)
        why = SPLIT if origin.is_split else None
        if why is None and any(len(np.intersect1d(known_rows, other)) for other, _ in before):
            why = CLASH
        with reading(origin.path, slot):
            x = _read_graph(node, len(known_rows) and int(origin.rows.max()) + 1)
        if x is None or why is not None:
            lost.append(Lost(origin.path, f"{slot} {key}", why or FORM))
        else:
            before.append((known_rows, x[origin.rows[known_rows]][:, origin.rows[known_rows]]))
    n = len(origins[0].rows) if origins else 0
    for key, graphs in by_key.items():
        if any(len(known_rows) for known_rows, _ in graphs):
            put(need_group(target, slot), key, _placed(graphs, n))
    return lost


def carry_uns(target: h5py.Group, origins: Sequence[RowOrigin], *, skip: Collection[str] = ()) -> list[Lost]:
    """Copy the inputs' `uns`; where two differ, the first is kept."""
    lost: list[Lost] = []
    copied = need_group(target, "uns")
    for origin, key, node in _elements(origins, "uns", skip):
        with reading(origin.path, "uns"):
            if key not in copied:
                node.file.copy(node, copied, name=key, expand_soft=True, expand_refs=True)
            elif not _same(copied[key], node):
                lost.append(Lost(origin.path, f"uns {key}", CLASH))
    return lost


def _elements(
    origins: Sequence[RowOrigin], slot: str, skip: Collection[str]
) -> Iterator[tuple[RowOrigin, str, h5py.HLObject]]:
    """Yield the elements of the inputs in a slot that are to be carried over, by key, with the file open."""
    for origin in origins:
        with open_h5(origin.path) as h5, reading(origin.path, slot):
            nodes = h5[origin.group].get(slot)
            for key in nodes if isinstance(nodes, h5py.Group) else ():
                if key not in skip and key not in origin.skip:
                    yield origin, key, nodes[key]


def _not_taken(rows: IntArray, earlier: Sequence[IntArray]) -> IntArray:
    """Return the rows of the output that an input has and none before it."""
    free = rows >= 0
    for rows_before in earlier:
        free[rows_before] = False
    return np.flatnonzero(free)


def _alike(kept_rows: IntArray, earlier: _Values, rows: IntArray, values: _Values) -> bool:
    """Say whether values have the form of earlier ones, and equal them in the rows that both have."""
    if type(earlier) is not type(values) or earlier.shape[1:] != values.shape[1:]:
        return False
    if isinstance(earlier, pd.DataFrame):
        assert isinstance(values, pd.DataFrame)
        if list(earlier.columns) != list(values.columns):
            return False
    both = np.flatnonzero(rows[kept_rows] >= 0)
    if not len(both):
        return True
    a, b = _take(earlier, both), _take(values, rows[kept_rows[both]])
    if isinstance(a, pd.DataFrame):
        return not agreeing_columns([a, b])[1]
    if sp.issparse(a):
        return not abs(a - b).nnz
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f"))


def _take(values: _Values, rows: IntArray) -> Any:
    return values.iloc[rows] if isinstance(values, pd.DataFrame) else values[rows]


def _stacked(pieces: Sequence[tuple[IntArray, Any]], n: int) -> Any:
    """Put pieces at their rows among `n`; the other rows are missing."""
    rows = np.concatenate([rows for rows, _ in pieces])
    values = [v for _, v in pieces]
    rest = np.setdiff1d(np.arange(n), rows)
    order = np.argsort(np.concatenate([rows, rest]), kind="stable")
    first = values[0]
    if isinstance(first, pd.DataFrame):
        gap = [pd.DataFrame(index=rest)] if len(rest) else []
        tables = [v.set_axis(piece_rows, axis=0) for piece_rows, v in pieces if len(piece_rows)]
        table = stack_obs([*tables, *gap]).iloc[order]
        return table.set_axis(range(n))
    if sp.issparse(first):
        return sp.vstack([*values, sp.csr_matrix((len(rest), first.shape[1]))], format="csr")[order]
    dtype = np.result_type(*values)
    if len(rest) and dtype.kind != "f":
        dtype = np.dtype(np.float64)
    missing = np.full((len(rest), *first.shape[1:]), np.nan if len(rest) else 0, dtype=dtype)
    return np.concatenate([*values, missing]).astype(dtype, copy=False)[order]


def _placed(graphs: Sequence[tuple[IntArray, CSR]], n: int) -> CSR:
    parts = [(rows, x.tocoo()) for rows, x in graphs]
    values = np.concatenate([x.data for _, x in parts])
    row, col = (np.concatenate([rows[getattr(x, side)] for rows, x in parts]) for side in ("row", "col"))
    placed = sp.csr_matrix((values, (row, col)), shape=(n, n))
    placed.sort_indices()
    return placed


def _read_rows(node: h5py.Group | h5py.Dataset) -> _Values | None:
    """Read an array by rows, a table or a sparse matrix; None for anything else."""
    if isinstance(node, h5py.Dataset):
        return np.asarray(node[()]) if node.ndim and node.dtype.kind in "biuf" else None
    encoding = text_attr(node, "encoding-type") or ""
    if encoding == "dataframe":
        return read_table(node)
    return read_csr(locate(node), dtype=None) if encoding in ("csr_matrix", "csc_matrix") else None


def _read_graph(node: h5py.Group | h5py.Dataset, least: int) -> CSR | None:
    """Read a square matrix of at least so many rows; None for anything else."""
    try:
        stored = locate(node)
    except ValueError:
        return None
    square = stored.shape[0] == stored.shape[1] >= least
    return read_csr(stored, dtype=None) if square else None


def _same(a: h5py.HLObject, b: h5py.HLObject) -> bool:
    """Whether two elements are the same, however they are compressed."""
    if isinstance(a, h5py.Group) and isinstance(b, h5py.Group):
        return set(a) == set(b) and all(_same(a[key], b[key]) for key in a)
    if not (isinstance(a, h5py.Dataset) and isinstance(b, h5py.Dataset)) or a.shape != b.shape:
        return False
    x, y = a[()], b[()]
    if isinstance(x, np.ndarray) and x.dtype.kind == "f" and isinstance(y, np.ndarray):
        return y.dtype.kind in "iuf" and bool(np.array_equal(x, y, equal_nan=True))
    return bool(np.array_equal(x, y))
