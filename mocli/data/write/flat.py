"""A whole MuData: its cells and features, and one h5ad made of all, for tools that know no modalities.

Every cell has a row, every feature a column; where a cell was not measured the matrix is empty, and
`obs["modality"]` says where it was. `var["modality"]` gives the modality of a feature.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from mocli.data.files.container import MODALITY
from mocli.data.files.frames import read_index, read_table
from mocli.data.files.hdf5 import open_h5, text_attr
from mocli.data.files.matrix import Stored, locate, read_csr
from mocli.data.write.blocks import Block, NewModality, write_modality
from mocli.data.write.carry import (
    FORM,
    Lost,
    RowOrigin,
    add_column,
    carried_columns,
    carry_arrays,
    carry_pairs,
    carry_uns,
    need_group,
    put,
    put_table,
    tag,
)
from mocli.data.write.outfile import writing_h5
from mocli.types import CSR, IntArray, StrArray


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


FLAT = ".h5ad"
"""Ending of an output that holds all cells in one table."""
_BLOCK = 1 << 22  # stored values held at once
_RAW = "an .h5ad of several modalities has no place for it"
_NOT_ALL = "not all modalities have it"


class _Part(NamedTuple):
    """A modality of the file: its row of each cell, -1 for none, and its features."""

    name: str
    rows: IntArray
    features: pd.Index

    @property
    def group(self) -> str:
        return f"/mod/{self.name}"


def flatten(source: Path, target: Path) -> list[Lost]:
    """Write the contents of an h5mu as an h5ad over the file `target`; return what cannot be carried over.

    A single modality is copied unchanged, with the contents of the top level. With several modalities,
    features whose names repeat are called `modality:name`, and so are columns of obs on which modalities
    differ.
    """
    cells, parts = _read_parts(source)
    with writing_h5(target, "w") as (h5, check):
        if len(parts) == 1 and np.array_equal(parts[0].rows, np.arange(len(cells))):
            return _copy_only(h5, source, parts[0])
        with ExitStack() as stack:
            matrices, lost = _common(stack.enter_context(open_h5(source)), source, parts)
            obs, var = _obs(source, cells, parts), _var(source, parts)
            new = NewModality("cells", obs, var, lambda: _blocks(matrices, parts))
            write_modality(h5, new, check=check)
        return lost + _carry(h5, source, parts, len(cells))


def _read_parts(source: Path) -> tuple[pd.Index, list[_Part]]:
    with open_h5(source) as h5:
        cells = pd.Index(read_index(h5["obs"]).astype(str))
        parts = []
        for name in modality_order(h5["mod"]):
            group = h5[f"mod/{name}"]
            mapped = h5.get(f"obsmap/{name}")
            if mapped is not None and mapped.size == len(cells):
                rows = mapped[()].ravel().astype(np.int64) - 1
            else:
                rows = pd.Index(read_index(group["obs"]).astype(str)).get_indexer(cells)
            parts.append(_Part(name, rows, pd.Index(read_index(group["var"]).astype(str))))
    return cells, parts


def _copy_only(h5: h5py.File, source: Path, part: _Part) -> list[Lost]:
    """Copy the only modality, and add the contents of the top level under other names."""
    tag(h5, "anndata", "0.1.0")
    with open_h5(source) as mu:
        for key in mu[part.group]:
            mu.copy(f"{part.group}/{key}", h5, name=key)
    for slot in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        need_group(h5, slot)
    obs = read_table(h5["obs"])
    top = RowOrigin(source, "/", part.rows, frozenset({part.name}))
    names_taken = {*obs.columns, *(f"{part.name}:{column}" for column in obs.columns)}
    columns, _ = carried_columns("obs", [top], skip=names_taken)
    for name in columns:
        add_column(h5["obs"], name, columns[name])
    lost = carry_arrays(h5, "obsm", [top], skip=set(h5["obsm"]))
    return [*lost, *carry_pairs(h5, "obsp", [top], skip=set(h5["obsp"])), *carry_uns(h5, [top])]


def _common(
    h5: h5py.File, source: Path, parts: Sequence[_Part]
) -> tuple[dict[str, list[Stored]], list[Lost]]:
    """Return `X` and the layers that all modalities have, one matrix of each; and what not all have."""
    groups = {part.name: h5[part.group] for part in parts}
    lost = [Lost(source, f"raw of {name}", _RAW) for name, group in groups.items() if "raw" in group]
    layers = {name: dict(group.get("layers", {})) for name, group in groups.items()}
    first = [g["X"] if "X" in g else next(iter(layers[name].values())) for name, g in groups.items()]
    matrices = {"X": [locate(node) for node in first]}
    for key in dict.fromkeys(key for by_key in layers.values() for key in by_key):
        having = [name for name, by_key in layers.items() if key in by_key]
        if len(having) == len(groups):
            matrices[key] = [locate(by_key[key]) for by_key in layers.values()]
        else:
            lost += [Lost(source, f"layer {key} of {name}", _NOT_ALL) for name in having]
    return matrices, lost


def _blocks(matrices: Mapping[str, Sequence[Stored]], parts: Sequence[_Part]) -> Iterator[Block]:
    every = [stored for stored_by_part in matrices.values() for stored in stored_by_part]
    dtypes = {key: np.result_type(*(s.values.dtype for s in parts_of)) for key, parts_of in matrices.items()}
    n = len(parts[0].rows)
    largest = max(s.values.size for s in every)
    # of a matrix stored by columns, a few rows cost as much to read as all
    step = n if any(s.layout == "csc" for s in every) else max(1, int(_BLOCK * n / max(1, largest)))
    for a in range(0, n, max(1, step)):
        yield {
            key: sp.hstack(
                [_placed(s, part.rows[a : a + step]) for s, part in zip(stored_by_part, parts, strict=True)],
                format="csr",
                dtype=dtypes[key],
            )
            for key, stored_by_part in matrices.items()
        }


def _placed(stored: Stored, rows: IntArray) -> CSR:
    """Read rows of a matrix, those of number -1 empty."""
    x = read_csr(stored, rows=rows[rows >= 0], dtype=None)
    counts = np.zeros(len(rows), np.int64)
    counts[rows >= 0] = np.diff(x.indptr)
    pointers = np.concatenate([[0], np.cumsum(counts)])
    return sp.csr_matrix((x.data, x.indices, pointers), shape=(len(rows), x.shape[1]))


def _obs(source: Path, cells: pd.Index, parts: Sequence[_Part]) -> pd.DataFrame:
    """Put columns of the modalities beside those of the whole, which go first."""
    n = len(cells)
    top, _ = carried_columns("obs", [RowOrigin(source, "/", np.arange(n))])
    origins = {part.name: RowOrigin(source, part.group, part.rows) for part in parts}
    agreeing, lost = carried_columns("obs", list(origins.values()), skip=top.columns)
    slots = {slot for _, slot, _ in lost}
    differing = [name for name in agreeing if f"obs column {name}" in slots]
    agreed = agreeing.columns.difference(differing, sort=False)
    tables = [top, agreeing[agreed]]
    for modality, origin in origins.items():
        own_columns, _ = carried_columns("obs", [origin], skip={*top.columns, *agreed})
        own_columns = own_columns.add_prefix(f"{modality}:")
        tables.append(own_columns[own_columns.columns.difference(top.columns, sort=False)])
    return pd.concat(tables, axis=1).set_axis(cells)


def _var(source: Path, parts: Sequence[_Part]) -> pd.DataFrame:
    origins = _feature_origins(source, parts)
    var, _ = carried_columns("var", origins, skip={MODALITY})
    var[MODALITY] = pd.Categorical(
        np.repeat([p.name for p in parts], [len(p.features) for p in parts]), [p.name for p in parts]
    )
    seen = pd.Index(np.concatenate([p.features.unique().to_numpy(object) for p in parts]))
    repeated = seen[seen.duplicated()]
    names = [np.where(p.features.isin(repeated), f"{p.name}:" + p.features, p.features) for p in parts]
    return var.set_axis(pd.Index(np.concatenate(names), dtype=object))


def _feature_origins(source: Path, parts: Sequence[_Part]) -> list[RowOrigin]:
    n = sum(len(part.features) for part in parts)
    origins, start = [], 0
    for part in parts:
        rows = np.full(n, -1)
        rows[start : start + len(part.features)] = np.arange(len(part.features))
        start += len(part.features)
        origins.append(RowOrigin(source, part.group, rows))
    return origins


def _carry(h5: h5py.File, source: Path, parts: Sequence[_Part], n: int) -> list[Lost]:
    """Write arrays, graphs and annotation: of the whole, and of modalities under names not taken by it."""
    masks = frozenset(part.name for part in parts)
    top = RowOrigin(source, "/", np.arange(n), masks)
    cells = [RowOrigin(source, part.group, part.rows) for part in parts]
    features = _feature_origins(source, parts)
    lost = carry_arrays(h5, "obsm", [top])
    lost += _carry_differing(h5, parts, cells, skip=set(h5["obsm"]))
    lost += carry_pairs(h5, "obsp", [top])
    lost += carry_pairs(h5, "obsp", cells, skip=set(h5["obsp"]))
    lost += carry_arrays(h5, "varm", features) + carry_pairs(h5, "varp", features)
    lost += carry_uns(h5, [top])
    return lost + carry_uns(h5, cells, skip=set(h5["uns"]))


def _carry_differing(
    h5: h5py.File, parts: Sequence[_Part], cells: Sequence[RowOrigin], *, skip: Collection[str]
) -> list[Lost]:
    """Write arrays of the modalities; if they differ for a cell, each under `key_modality`."""
    lost = carry_arrays(h5, "obsm", cells, skip=skip)
    differing = {key for key in h5["obsm"] if f"obsm {key}" in {slot.slot for slot in lost}} - {*skip}
    shared_keys = set(h5["obsm"]) - differing
    for key in differing:
        del h5["obsm"][key]
    for part, origin in zip(parts, cells, strict=True):
        carry_arrays(
            h5, "obsm", [origin], skip=shared_keys | {f"{k}_{p.name}" for k in differing for p in parts}
        )
        for key in differing & set(h5["obsm"]):
            h5["obsm"].move(key, f"{key}_{part.name}")
    return [slot for slot in lost if slot.slot not in {f"obsm {key}" for key in differing}]
