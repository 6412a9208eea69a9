"""Where rows of the inputs lie in the output: in a modality of several files, and on a MuData's top level.

A joined modality is written as one set of matrices, block by block; what its files hold beside their
matrices is carried along where it has a place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from mocli.data.files.frames import read_index
from mocli.data.files.hdf5 import open_h5, reading
from mocli.data.files.joined import JoinedModality
from mocli.data.files.modality import ModalityFile
from mocli.data.write.blocks import Block, NewModality
from mocli.data.write.carry import (
    CLASH,
    Lost,
    RowOrigin,
    add_column,
    carried_columns,
    carry_arrays,
    carry_pairs,
    carry_uns,
    column_order,
    safe_key,
)
from mocli.types import IntArray

UNKNOWN = "its rows cannot be identified by name"
NOT_TAKEN = "what is not integrated is not copied into a new file"

Named = tuple["ModalityFile", pd.Index]
"""A modality that is written, and the names of its cells there."""


def origins_of_part(file: JoinedModality, axis: str) -> list[RowOrigin]:
    """Return where the cells (`obs`) or features (`var`) of a joined modality are in each of its files."""
    n = file.n_obs if axis == "obs" else file.n_vars
    origins = []
    for part, output_rows, file_rows in _places(file, axis):
        if part.holds_tables:
            rows = np.full(n, -1)
            rows[output_rows] = file_rows
            origins.append(RowOrigin(part.path, part.group, rows))
    return origins


def carry_tops(
    h5: h5py.File, named: Sequence[Named], cells: pd.Index, n_vars: int, *, skip: Collection[str]
) -> list[Lost]:
    """Write what every h5mu among the inputs holds on its top level; return what cannot be carried over.

    Args:
        h5: The output, with its `obs`, `var` and maps.
        cells, n_vars: Cells and number of features of the whole output; features are those of the modalities,
            one after another.
        skip: Keys that will be written over.
    """
    lost = _modalities_left(named)
    for axis, n in (("obs", len(cells)), ("var", n_vars)):
        origins, unplaced = _on_top(named, cells, axis, n)
        columns, differing = carried_columns(axis, origins, skip={*skip, *_columns(h5[axis])})
        for name in columns:
            add_column(h5[axis], name, columns[name])
        lost += [*unplaced, *differing]
        lost += carry_arrays(h5, f"{axis}m", origins, skip={*skip, *h5[f"{axis}m"]}, on_top=True)
        lost += carry_pairs(h5, f"{axis}p", origins, skip=skip)
    return lost + carry_uns(h5, _tops(named), skip=skip)


def _on_top(named: Sequence[Named], cells: pd.Index, axis: str, n: int) -> tuple[list[RowOrigin], list[Lost]]:
    """Find the output's cells or features on the top level of each h5mu, in the order of the inputs."""
    rows: dict[Path, IntArray] = {}
    unclear: dict[Path, None] = {}
    start = 0
    for file, names in named:
        for part, output_rows, file_rows in _places(file, axis):
            if part.format != "h5mu":
                continue
            where = _row_on_top(part, axis)
            if where is None:
                continue
            top_rows = rows.setdefault(part.path, np.full(n, -1))
            place = cells.get_indexer(names[output_rows]) if axis == "obs" else start + output_rows
            old, new = top_rows[place], where[file_rows]
            if np.any((old >= 0) & (new >= 0) & (old != new)) or not np.any(new >= 0):
                unclear[part.path] = None
            top_rows[place] = np.where(old >= 0, old, new)
        start += file.n_vars
    lost = [Lost(path, slot, UNKNOWN) for path in unclear for slot in _slots(path, axis)]
    origins = [
        RowOrigin(path, "/", top_rows_of_path, _masks(path))
        for path, top_rows_of_path in rows.items()
        if path not in unclear
    ]
    return origins, lost


def _tops(named: Sequence[Named]) -> list[RowOrigin]:
    """Return every h5mu among the inputs, for elements without rows."""
    files = [part for file, _ in named for part, _ in file.by_part() if part.format == "h5mu"]
    return [RowOrigin(path, "/", np.zeros(0, np.int64)) for path in dict.fromkeys(f.path for f in files)]


def _modalities_left(named: Sequence[Named]) -> list[Lost]:
    """Return the modalities of an h5mu that are not integrated, such as imputed ones.

    Of a single input also those that were not asked for.
    """
    used: dict[Path, set[str]] = {}
    for file, _ in named:
        for part, _ in file.by_part():
            if part.format == "h5mu":
                used.setdefault(part.path, set()).add(part.group.removeprefix("/mod/"))
    lost = []
    alone = len({part.path for file, _ in named for part, _ in file.by_part()}) == 1
    for path, used_names in used.items():
        with open_h5(path) as h5, reading(path, "mod"):
            rest = [str(m) for m in h5["mod"] if m not in used_names]
        if alone or all(m.endswith("_imputed") for m in rest):
            lost += [Lost(path, f"modality {m}", NOT_TAKEN) for m in rest]
    return lost


def _places(file: ModalityFile, axis: str) -> list[tuple[ModalityFile, IntArray, IntArray]]:
    """Return files, rows of the modality, and rows there, of cells or features."""
    if not isinstance(file, JoinedModality):
        if axis == "obs":
            file_rows = np.arange(file.n_obs) if file.rows is None else file.rows
        else:
            file_rows = np.arange(file.n_vars) if file.columns is None else file.columns
        return [(file, np.arange(len(file_rows)), file_rows)]
    if axis == "var":
        every = np.arange(file.n_vars)
        return [
            (part, every, every if columns is None else columns)
            for part, columns in zip(file.parts, file.selection, strict=True)
        ]
    part_of_row, row = file.places(np.arange(file.n_obs))
    return [
        (part, output_rows := np.flatnonzero(part_of_row == k), row[output_rows])
        for k, part in enumerate(file.parts)
    ]


def _row_on_top(part: ModalityFile, axis: str) -> IntArray | None:
    """Return each row's row on the top level of an h5mu, -1 for none; None if there are no such rows."""
    modality = part.group.removeprefix("/mod/")
    with open_h5(part.path) as h5, reading(part.path, axis):
        if axis not in h5:
            return None
        top, modality_names = read_index(h5[axis]), read_index(h5[part.group][axis])
        mapped = h5.get(f"{axis}map/{modality}")
        if isinstance(mapped, h5py.Dataset) and mapped.size == len(top):
            number = mapped[()].ravel().astype(np.int64)
            if number.max(initial=0) <= len(modality_names):
                where = np.full(len(modality_names), -1)
                where[number[number > 0] - 1] = np.flatnonzero(number > 0)
                return where
    names = pd.Index(top.astype(str))
    return (
        names.get_indexer(modality_names.astype(str)) if names.is_unique else np.full(len(modality_names), -1)
    )


def _masks(path: Path) -> frozenset[str]:
    """Keys of `obsm` and `varm` that say which cells and features are in which modality."""
    with open_h5(path) as h5, reading(path, "mod"):
        return frozenset(map(str, h5["mod"]))


def _slots(path: Path, axis: str) -> list[str]:
    """List what a file holds on its top level about its cells or features."""
    masks = _masks(path)
    with open_h5(path) as h5, reading(path, axis):
        slots = [f"{axis} column {c}" for c in _columns(h5[axis])]
        for slot in (f"{axis}m", f"{axis}p"):
            slots += [f"{slot} {key}" for key in h5.get(slot, ()) if key not in masks]
    return slots


def _columns(node: h5py.Group | h5py.Dataset) -> list[str]:
    return list(node.dtype.names[1:]) if isinstance(node, h5py.Dataset) else column_order(node)


_BLOCK = 1 << 22  # stored values held at once
MISSING = "not all files of the modality have it"
RAW = "it has features of its own in every file"


def concatenated(file: JoinedModality, obs_names: Sequence[str] | None = None) -> NewModality:
    """Return what is written of a modality of several files.

    `X` and the layers that all files have become CSR, of a type that holds the
    values of each; `obs` and `var` go along, `carry_slots` writes the rest. Where a
    file has no `X` the first common layer is `X` too.
    """
    obs = file.obs if obs_names is None else file.obs.set_axis(pd.Index(obs_names, dtype=object))
    return NewModality(name=safe_key(file.name), obs=obs, var=file.var, blocks=lambda: _blocks(file))


def carry_slots(group: h5py.Group, file: JoinedModality, *, skip: Collection[str] = ()) -> list[Lost]:
    """Write the files' other contents into a modality's group; return what cannot be carried over.

    `skip`: keys that will be written over.
    """
    cells, features = origins_of_part(file, "obs"), origins_of_part(file, "var")
    lost = _left_out(file)
    for arrays, pairs, origins in (("obsm", "obsp", cells), ("varm", "varp", features)):
        lost += carry_arrays(group, arrays, origins, skip=skip)
        lost += carry_pairs(group, pairs, origins, skip=skip)
    return lost + carry_uns(group, cells, skip=skip)


def _left_out(file: JoinedModality) -> list[Lost]:
    """Return the matrices that not all files have, and columns of var that differ."""
    lost = []
    for part in file.parts:
        lost += [Lost(part.path, f"layer {k}", MISSING) for k in part.layers if k not in file.layers]
        lost += [Lost(part.path, f"var column {k}", CLASH) for k in part.var if k not in file.var]
        if part.holds_tables:
            with open_h5(part.path) as h5, reading(part.path, part.group):
                if "raw" in h5[part.group]:
                    lost.append(Lost(part.path, "raw", RAW))
    return lost


def _blocks(file: JoinedModality) -> Iterator[Block]:
    matrices = {"X": "X" if file.has_x else file.layers[0], **{safe_key(k): k for k in file.layers}}
    stored = {layer: [part.stored_as(layer) for part in file.parts] for layer in {*matrices.values()}}
    dtypes = {layer: np.result_type(*(dtype for _, dtype in kinds)) for layer, kinds in stored.items()}
    per_cell = max(file.nbytes(layer) for layer in stored) / 8 / max(1, file.n_obs)
    for k, (_, rows) in enumerate(file.by_part()):
        # of a matrix stored by columns, a few rows cost as much to read as all
        by_column = any(kinds[k][0] == "csc" for kinds in stored.values())
        step = len(rows) if by_column else max(1, int(_BLOCK / max(1.0, per_cell)))
        for a in range(0, len(rows), max(1, step)):
            read: dict[str, Any] = {
                layer: file.read(layer, rows=rows[a : a + step], dtype=None) for layer in stored
            }
            yield {key: read[layer].astype(dtypes[layer], copy=False) for key, layer in matrices.items()}
