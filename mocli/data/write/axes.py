"""The cells and features of a whole MuData: who is where, and more of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mocli.data.files.frames import read_index, read_table
from mocli.data.files.hdf5 import text_attr
from mocli.data.write.carry import FORM, Lost
from mocli.data.write.encode import need_group, put, put_table
from mocli.types import IntArray, StrArray


class AxisPart(NamedTuple):
    """A modality as the whole sees it: its name, the names of its cells and features."""

    name: str
    cells: pd.Index
    features: pd.Index


def modality_order(mod: h5py.Group) -> list[str]:
    """Names of the modalities of an h5mu, in the order in which they are to be shown."""
    order = [n.decode() if isinstance(n, bytes) else str(n) for n in mod.attrs.get("mod-order", [])]
    return [n for n in dict.fromkeys(order) if n in mod] + [n for n in mod if n not in order]


def map_modalities(h5: h5py.File, cells: pd.Index, parts: Sequence[AxisPart], *, start: int) -> None:
    """Write which row of a modality each row of the whole is, from 1; 0 where it has none.

    Args:
        cells: All cells of the whole.
        start: Where the features of the first part begin in the whole; those of the others follow.
    """
    n_vars = start + sum(len(p.features) for p in parts)
    for part in parts:
        _map(h5, "obs", part.name, part.cells.get_indexer(cells) + 1)
        columns = np.zeros(n_vars, np.int64)
        columns[start : start + len(part.features)] = np.arange(1, len(part.features) + 1)
        start += len(part.features)
        _map(h5, "var", part.name, columns)


def append_modalities(h5: h5py.File, parts: Sequence[AxisPart], *, source: Path) -> list[Lost]:
    """Add to a MuData, a copy of `source`, the features and the cells that modalities bring, and map them.

    Returned is what stood on top in a form that cannot be given more rows, and is deleted.
    """
    new = {part.name for part in parts}
    cells = _names(h5, "obs", without=new)
    every = pd.unique(np.concatenate([cells, *(p.cells.to_numpy(object) for p in parts)]))
    start = len(_names(h5, "var", without=new))
    features = np.concatenate([p.features.to_numpy(object) for p in parts])
    lost = [*_lengthen(h5, "obs", every[len(cells) :], source), *_lengthen(h5, "var", features, source)]
    map_modalities(h5, pd.Index(every), parts, start=start)
    return lost


def _names(h5: h5py.File, axis: str, *, without: Collection[str]) -> StrArray:
    """Names of an axis of the whole; a file without that table gets one of its modalities' names."""
    if axis not in h5:
        groups = [h5[f"mod/{m}/{axis}"] for m in modality_order(h5["mod"]) if m not in without]
        names = np.concatenate([read_index(group).astype(str).astype(object) for group in groups])
        put_table(h5, axis, pd.DataFrame(index=pd.Index(pd.unique(names) if axis == "obs" else names)))
    return read_index(h5[axis]).astype(str).astype(object)


def _map(h5: h5py.File, axis: str, name: str, positions: IntArray) -> None:
    put(need_group(h5, f"{axis}map"), name, positions.astype(np.uint32))
    put(need_group(h5, f"{axis}m"), name, (positions > 0)[:, None])


def _lengthen(h5: h5py.File, axis: str, names: StrArray, source: Path) -> list[Lost]:
    """Append rows to an axis; what is not known of them is missing, or 0 in pairs and maps."""
    lost: list[Lost] = []
    if len(names) == 0:
        return lost
    put_table(h5, axis, _longer_table(read_table(h5[axis]), len(names), names))
    for kind in ("map", "m", "p"):
        group = need_group(h5, axis + kind)
        for key in list(group):
            node = group[key]
            if isinstance(node, h5py.Dataset) and node.ndim and node.dtype.kind in "biuf":
                put(group, key, _longer_array(node[()], len(names), kind))
            elif text_attr(node, "encoding-type") == "dataframe":
                put_table(group, key, _longer_table(read_table(node), len(names), names))
            elif text_attr(node, "encoding-type") in ("csr_matrix", "csc_matrix"):
                _lengthen_sparse(node, len(names), square=kind == "p")
            else:
                del group[key]
                lost.append(Lost(source, f"{axis}{kind} {key}", FORM))
    return lost


def _longer_table(table: pd.DataFrame, n: int, names: StrArray) -> pd.DataFrame:
    flags = [c for c in table.columns if table[c].dtype == bool]
    # missing among booleans: numbers on disk, not the words True and False
    longer = table.astype(dict.fromkeys(flags, "boolean")).reset_index(drop=True)
    longer = longer.reindex(range(len(table) + n))
    longer.index = pd.Index(np.concatenate([table.index.to_numpy(object), names]), name=table.index.name)
    return longer


def _longer_array(values: NDArray[Any], n: int, kind: str) -> NDArray[Any]:
    if kind == "m" and values.dtype.kind != "b":
        if values.dtype.kind != "f":
            values = values.astype(np.float64)
        fill: object = np.nan
    else:
        fill = 0
    before_after = [(0, n)] * 2 if kind == "p" else [(0, n)] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, before_after, constant_values=fill)  # type: ignore[call-overload]


def _lengthen_sparse(node: h5py.Group, n: int, *, square: bool) -> None:
    shape = np.asarray(node.attrs["shape"]).copy()
    shape += (n, n) if square else (n, 0)
    if square or text_attr(node, "encoding-type") == "csr_matrix":
        pointers = node["indptr"][()]
        del node["indptr"]
        node.create_dataset("indptr", data=np.pad(pointers, (0, n), mode="edge"), compression="gzip")
    node.attrs["shape"] = shape
