"""Write files: the user's modalities unchanged, plus what mocli adds, in one h5mu or h5ad.

The ending of the output decides its form, here and nowhere else: an h5ad is made of the h5mu, see `flat.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from mocli.data.files.frames import read_index, read_table
from mocli.data.files.hdf5 import flat_keys, open_h5, reading, text_attr
from mocli.data.files.joined import JoinedModality
from mocli.data.files.matrix import locate, read_csr
from mocli.data.files.modality import MemoryModality, ModalityFile
from mocli.data.write.blocks import KEEP_BITS, NewModality, Written, write_modality
from mocli.data.write.carry import (
    Lost,
    add_column,
    column_order,
    need_group,
    put,
    put_table,
    safe_key,
    say_lost,
    set_columns,
    tag,
)
from mocli.data.write.flat import FLAT, AxisPart, append_modalities, flatten, map_modalities, modality_order
from mocli.data.write.origins import carry_slots, carry_tops, concatenated
from mocli.data.write.outfile import atomic, beside, refuse_input, writing_h5
from mocli.errors import UsageError
from mocli.types import CSR, FloatArray

_TEXT = h5py.string_dtype()
_USERBLOCK = 512  # mudata looks for its name in the first bytes
_MAGIC = b"MuData (format-version=0.1.0;creator=mocli)"
SPANS = "it covers all types of features"


@dataclass(frozen=True, eq=False)
class Added:
    """What is added to a modality.

    Attributes:
        obsm: Arrays `(n_obs, d)` by key, rows as in the file.
        obs, var: Columns `(n_obs,)` and `(n_vars,)` by name, matched by position.
        obs_names: New names of the cells (a prefix for names that repeat across files); None keeps the
            user's.
        merged: Columns of obs that are added only where the modality has none of the name.
    """

    file: ModalityFile
    obsm: Mapping[str, FloatArray] = field(default_factory=dict)
    obs: Mapping[str, Any] = field(default_factory=dict)
    obs_names: tuple[str, ...] | None = None
    merged: Mapping[str, Any] = field(default_factory=dict)
    var: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> pd.Index:
        """Names of the cells as they will be written."""
        return self.file.obs.index if self.obs_names is None else pd.Index(self.obs_names, dtype=object)


def union_names(added: Sequence[Added], new: Sequence[NewModality] = ()) -> list[str]:
    """Return the cells of the whole file that `write_file` will write, in its order.

    Of a single h5mu this is the file's own order, with the cells of modalities
    that are not integrated; else the order of first appearance. Cells of new
    modalities that are not among them follow.
    """
    order = _kept_order(added)
    parts = [a.names for a in added] if order is None else [order]
    every = np.concatenate([p.to_numpy(object) for p in (*parts, *(m.names for m in new))])
    return [str(n) for n in pd.unique(every)]


def write_h5ad(path: Path, new: NewModality, *, keep_bits: int | None = KEEP_BITS) -> Written:
    """Write one new modality as a file of its own, block by block.

    Raises:
        ValueError: The blocks do not fit together, or do not fit obs and var.
        EnvironmentProblem: The folder cannot be written to, or the disk is full.
    """
    with atomic(path) as temporary, writing_h5(temporary, "w") as (h5, check):
        return write_modality(h5, new, keep_bits=keep_bits, check=check)


def write_file(
    path: Path,
    added: Sequence[Added],
    *,
    obsm: Mapping[str, FloatArray],
    uns: Mapping[str, object],
    obs: Mapping[str, Any] | None = None,
    merged: Mapping[str, Any] | None = None,
    new: Sequence[NewModality] = (),
    warn: Callable[[str], None] | None = None,
) -> dict[str, Written]:
    """Write the modalities with their additions; inputs are copied at the level of HDF5.

    Modalities of a single h5mu: the whole file is copied first, also what is
    not in `added`. Otherwise each modality is copied object by object into a
    new file, and what h5mu files hold above their modalities is put together.
    Existing keys are overwritten, all else is kept. For a file split by
    feature type, `raw`, which covers all types, is left out. A modality of
    several files is written anew, see `concatenation`. Where `path` ends in
    `.h5ad` all of that becomes one table, see `flatten`.

    Args:
        obsm, obs, merged: Added on top, rows in the order of `union_names(added, new)`; of `merged` what is
            not there.
        uns: Added on top and to each modality in `added`.
        new: Modalities written after those, block by block.
        warn: Called with what the inputs hold that cannot be carried over.

    Returns:
        Time and size of each of `new`, by name.

    Raises:
        UsageError: The output is one of the inputs, or two modalities share a name, also of those that are
            only copied.
        ValueError: Blocks of a new modality do not fit.
        InputError: An input cannot be read.
        EnvironmentProblem: The folder cannot be written to, or the disk is full.
    """
    refuse_input(path, [p for a in added for p in a.file.paths])
    top = Top(obsm, obs or {}, merged or {}, uns)
    with atomic(path) as temporary:
        if path.suffix == FLAT:
            with beside(path) as whole:
                written, messages = _write_h5mu(whole, added, new, top)
                lost = [slot._replace(path=path) for slot in flatten(whole, temporary)]
            messages += say_lost(lost)
        else:
            written, messages = _write_h5mu(temporary, added, new, top)
    if warn is not None:
        for line in messages:
            warn(line)
    return written


def _write_h5mu(
    temporary: Path, added: Sequence[Added], new: Sequence[NewModality], top: Top
) -> tuple[dict[str, Written], list[str]]:
    """Write an h5mu over an empty file; return what new modalities took, and what is to be told."""
    keeps_order = _kept_order(added) is not None
    names = [a.file.name for a in added]
    _refuse_repeats(names)
    names = [*(_modalities(added[0].file.path) if keeps_order else names), *(m.name for m in new)]
    _refuse_repeats(names)
    if keeps_order:
        source = added[0].file.path
        shutil.copyfile(source, temporary)
        lost: list[Lost] = []
        with writing_h5(temporary, "r+") as (h5, check):
            written = _write_new(h5, new, check)
            if new:
                _set_order(h5["mod"], names)
                parts = [AxisPart(m.name, m.names, m.var.index) for m in new]
                with reading(source, "mod"):
                    lost = append_modalities(h5, parts, source=source)
            with reading(source, "mod"):
                groups = [h5, *(h5[f"mod/{m}"] for m in h5["mod"])]
                renamed = [line for group in groups for line in _without_slashes(group)]
            _add_all(h5, added, top)
        return written, [*renamed, *say_lost(lost)]
    with writing_h5(temporary, "w", userblock_size=_USERBLOCK) as (h5, check):
        mod = h5.create_group("mod")
        lost = []
        renamed = []
        for a in added:
            group = mod.create_group(a.file.name)
            if isinstance(a.file, JoinedModality):
                write_modality(group, concatenated(a.file, a.obs_names), check=check)
                lost += carry_slots(group, a.file, skip={*a.obsm, *top.uns})
            else:
                lost += _copy_modality(a, group)
            renamed += _without_slashes(group)
            check()
        written = _write_new(h5, new, check)
        _set_order(mod, names)
        lost += _write_top(h5, added, new, skip={*top.obsm, *top.obs, *top.uns})
        check()
        _add_all(h5, added, top)
    with temporary.open("r+b") as stream:
        stream.write(_MAGIC.ljust(_USERBLOCK, b"\0"))
    return written, [*renamed, *say_lost(lost)]


def update_file(
    path: Path,
    added: Sequence[Added],
    *,
    obsm: Mapping[str, FloatArray] | None = None,
    obs: Mapping[str, Any] | None = None,
    obsp: Mapping[str, CSR] | None = None,
    uns: Mapping[str, object] | None = None,
) -> None:
    """Add more to a file that `write_file` wrote; a kill leaves it as it was, or with all of it.

    `obsm`, `obs`, `obsp`, `uns`: added on top. Raises `EnvironmentProblem`: the folder cannot be written to,
    or the disk is full.
    """
    with atomic(path) as temporary:
        shutil.copyfile(path, temporary)
        with writing_h5(temporary, "r+") as (h5, _):
            _add_all(h5, added, Top(obsm or {}, obs or {}))
            for key, matrix in (obsp or {}).items():
                put(need_group(h5, "obsp"), key, matrix)
            for key, value in (uns or {}).items():
                put(need_group(h5, "uns"), key, value)


def groups_with(path: Path, key: str) -> set[str]:
    """Return the modalities of an output that have an array of this name in obsm, and `/` for the whole."""
    with open_h5(path) as h5, reading(path, "obsm"):
        groups = {"/": h5, **h5.get("mod", {})}
        return {str(name) for name, group in groups.items() if key in group.get("obsm", {})}


def _without_slashes(group: h5py.Group) -> list[str]:
    """Rename elements whose key has a `/`, which no anndata could read again; log a line for each."""
    lines = []
    for slot in ("layers", "obsm", "varm", "obsp", "varp"):
        node = group.get(slot)
        if isinstance(node, h5py.Group):
            renamed = _rename_keys(node, flat_keys(node))
            lines += [_say_renamed(f"{group.name}/{slot}", *pair) for pair in renamed.items()]
    for axis in ("obs", "var", "raw/var"):
        table = group.get(axis)
        if isinstance(table, h5py.Group):
            columns = column_order(table)
            if renamed := _rename_keys(table, columns):
                set_columns(table, [renamed.get(name, name) for name in columns])
            lines += [_say_renamed(f"{group.name}/{axis}", *pair) for pair in renamed.items()]
    return lines


def _rename_keys(node: h5py.Group, keys: Sequence[str]) -> dict[str, str]:
    """Give elements under keys with a `/` a key without, which is free; returns new keys by old ones."""
    renamed: dict[str, str] = {}
    for key in keys:
        if "/" in key and key in node:
            free = safe_key(key)
            while free in node:
                free += "_"
            node.move(key, free)
            renamed[key] = free
            parent = node.get(key.rpartition("/")[0])
            if isinstance(parent, h5py.Group) and not len(parent.attrs) and not len(parent):
                del node[parent.name]
    return renamed


def _say_renamed(where: str, key: str, new: str) -> str:
    return f"{where}['{key}'] is written as '{new}': a '/' is a path to HDF5"


def _refuse_repeats(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise UsageError("two modalities share a name", found=", ".join(names))


def _modalities(path: Path) -> list[str]:
    """Names of the modalities of an h5mu, in the order in which they are to be shown."""
    with open_h5(path) as h5, reading(path, "mod"):
        return modality_order(h5["mod"])


def _set_order(mod: h5py.Group, names: Sequence[str]) -> None:
    mod.attrs.create("mod-order", np.array(names, dtype=object), dtype=_TEXT)


def _write_new(h5: h5py.File, new: Sequence[NewModality], check: Callable[[], None]) -> dict[str, Written]:
    mod = h5["mod"]
    return {m.name: write_modality(mod.create_group(m.name), m, check=check) for m in new}


def _kept_order(added: Sequence[Added]) -> pd.Index | None:
    """Cell order of the h5mu that all modalities come from, None where a new file is needed."""
    if not added:
        return None
    first = added[0].file
    if any(
        a.file.path != first.path
        or isinstance(a.file, JoinedModality)
        or a.file.format != "h5mu"
        or a.file.input_key is not None
        or a.file.renamed
        or a.file.group != f"/mod/{a.file.name}"
        or (a.obs_names is not None and not a.names.equals(a.file.obs.index))
        for a in added
    ):
        return None
    with open_h5(first.path) as h5:
        if "obs" not in h5 or int(h5.attrs.get("axis", 0)) != 0:
            return None
        with reading(first.path, "obs"):
            names = pd.Index(read_index(h5["obs"]).astype(str))
    if not names.is_unique or not all(a.names.isin(names).all() for a in added):
        return None
    return names


@dataclass(frozen=True, eq=False)
class Top:
    """What is added above the modalities; `uns` to each of them as well."""

    obsm: Mapping[str, FloatArray]
    obs: Mapping[str, Any]
    merged: Mapping[str, Any] = field(default_factory=dict)
    uns: Mapping[str, object] = field(default_factory=dict)


def _add_all(h5: h5py.File, added: Sequence[Added], top: Top) -> None:
    for a in added if "mod" in h5 else ():
        group = h5[f"mod/{a.file.name}"]
        _add(group, a.file.n_obs, a, uns=top.uns)
        for key, column in a.var.items():
            _as_table(group, "var")
            add_column(group["var"], key, column)
    _add(h5, len(read_index(h5["obs"])), top, uns=top.uns)


def _add(group: h5py.Group, n_obs: int, more: Added | Top, *, uns: Mapping[str, object]) -> None:
    for key, values in (*more.obsm.items(), *more.obs.items(), *more.merged.items()):
        if len(values) != n_obs:
            raise ValueError(f"'{key}' has {len(values)} rows, {group.name} has {n_obs} cells")
    if more.obsm:
        node = need_group(group, "obsm")
        for key, array in more.obsm.items():
            put(node, key, array)
    if more.obs or more.merged:
        _as_table(group, "obs")
    absent = {key: column for key, column in more.merged.items() if safe_key(key) not in group["obs"]}
    for key, column in {**absent, **more.obs}.items():
        add_column(group["obs"], key, column)
    if uns:
        node = need_group(group, "uns")
        for key, value in uns.items():
            put(node, key, value)


def _as_table(group: h5py.Group, axis: str) -> None:
    """Write an axis anew where it is a structured array, which takes no new column."""
    if isinstance(group[axis], h5py.Dataset):
        put_table(group, axis, read_table(group[axis]))


def _copy_modality(added: Added, target: h5py.Group) -> list[Lost]:
    """Copy a modality into an empty group, object by object where its file has it whole.

    Returns what a file holds of all its modalities together, which cannot be split.
    """
    file = added.file
    lost: list[Lost] = []
    tag(target, "anndata", "0.1.0")
    if isinstance(file, MemoryModality):
        put_table(target, "obs", file.obs)
        _write_columns(file, target, {})
    else:
        with open_h5(file.path) as h5, reading(file.path, file.group):
            source = h5[file.group]
            if file.format == "10x":
                put_table(target, "obs", file.obs)
                _write_columns(file, target, source)
            else:
                target.attrs.update(source.attrs)
                of_features = {"X", "layers", "var", "varm", "varp", "raw", "raw.X", "raw.var", "raw.varm"}
                for key in source:
                    if file.columns is None or key not in of_features:
                        # old files point from columns to categories with references
                        h5.copy(source[key], target, name=key, expand_soft=True, expand_refs=True)
                if file.columns is not None:
                    _write_columns(file, target, source)
                    lost += [Lost(file.path, key, SPANS) for key in ("raw", "raw.X") if key in source]
    for key in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
        need_group(target, key)
    if file.input_key is not None:
        put_table(target, "obs", file.obs)
    if added.obs_names is not None or file.renamed:
        _rename(target, added.names)
    return lost


def _write_columns(file: ModalityFile, target: h5py.Group, source: h5py.Group | Mapping[str, Any]) -> None:
    """Write what belongs to a modality's features when the file holds others beside them."""
    put_table(target, "var", file.var)
    if file.has_x:
        put(target, "X", file.read(dtype=None))
    layers, varm, varp = (need_group(target, key) for key in ("layers", "varm", "varp"))
    for layer in file.layers:
        put(layers, layer, file.read(layer, dtype=None))
    if file.columns is None or isinstance(file, MemoryModality):
        return
    for key, node in source.get("varm", {}).items():
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "biuf":
            put(varm, key, node[()][file.columns])
        elif text_attr(node, "encoding-type") == "dataframe":
            put_table(varm, key, read_table(node).iloc[file.columns])
        elif text_attr(node, "encoding-type") in {"csr_matrix", "csc_matrix"}:
            put(varm, key, read_csr(locate(node), dtype=None)[file.columns])
    for key, node in source.get("varp", {}).items():
        put(varp, key, read_csr(locate(node), dtype=None)[file.columns][:, file.columns])


def _rename(group: h5py.Group, names: Sequence[str]) -> None:
    _as_table(group, "obs")
    put(group["obs"], text_attr(group["obs"], "_index") or "_index", np.array(names, dtype=object))


def _write_top(
    h5: h5py.File, added: Sequence[Added], new: Sequence[NewModality], *, skip: Collection[str]
) -> list[Lost]:
    """Write the top level of a MuData: the union of cells, all features, and where each modality's are.

    The inputs' contents on that level are carried over; what cannot be is returned.
    """
    tag(h5, "MuData", "0.1.0")
    h5.attrs["axis"] = np.int64(0)
    h5.attrs["encoder"] = "mocli"
    parts = [AxisPart(a.file.name, a.names, a.file.var.index) for a in added]
    parts += [AxisPart(m.name, m.names, m.var.index) for m in new]
    cells = pd.Index(union_names(added, new))
    features = np.concatenate([p.features.to_numpy(object) for p in parts])
    put_table(h5, "obs", _origin(added, cells))
    put_table(h5, "var", pd.DataFrame(index=pd.Index(features)))
    for key in ("obsm", "varm", "obsp", "varp", "uns", "obsmap", "varmap"):
        need_group(h5, key)
    map_modalities(h5, cells, parts, start=0)
    return carry_tops(h5, [(a.file, a.names) for a in added], cells, len(features), skip=skip)


def _origin(added: Sequence[Added], cells: pd.Index) -> pd.DataFrame:
    """Return the input that each cell comes from, where modalities say so; else a table without columns."""
    origins = [a.file.obs[a.file.input_key].set_axis(a.names) for a in added if a.file.input_key is not None]
    if not origins:
        return pd.DataFrame(index=cells)
    every = pd.concat(origins)
    column = every[~every.index.duplicated()].reindex(cells)
    return pd.DataFrame({next(a.file.input_key for a in added if a.file.input_key): column}, index=cells)
