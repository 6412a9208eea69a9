"""Which modalities a file holds: h5ad, h5mu or 10x."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pandas as pd

from mocli.data.files.frames import read_table, top_columns
from mocli.data.files.hdf5 import flat_keys, open_h5, reading, text_attr
from mocli.data.files.joined import join
from mocli.data.files.kinds import (
    feature_type_name,
    is_aside,
    kind_of,
    kind_of_features,
    may_hold_genes,
    name_in_stem,
)
from mocli.data.files.matrix import locate, raw_note, read_tenx_tables, tenx_group
from mocli.data.files.modality import ModalityFile, find_tenx_folder, of_tenx_folder, raw_columns
from mocli.data.files.obs import note_on_obsm, of_obsm
from mocli.data.files.source import Source
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.types import IntArray, ModalityKind

MODALITY = "modality"
"""Column that says what a feature is of, or what was measured of a cell."""

_FOREIGN = (
    (
        ("matrix", "row_attrs", "col_attrs"),
        "a Loom file",
        "convert it: anndata.io.read_loom(...).write_h5ad(...)",
    ),
    (("assays", "cell.names"), "an h5Seurat file", "convert it to .h5ad in R"),
    (("barcode_idx", "umi"), "a 10x molecule_info file", "give filtered_feature_bc_matrix.h5 instead"),
    (("mod",), "'mod' is not a group", "write it again with mudata"),
)


def open_source(source: Source, used: Collection[str] = ()) -> list[ModalityFile]:
    """Open the modalities of one file that its text asks for, imputed ones left out.

    `used`: keys of the file's obsm that are inputs of their own.

    Raises:
        UsageError: One name for several modalities.
        InputError: See `open_inputs`.
    """
    if (matrix := find_tenx_folder(source.path)) is not None:
        return _named(source, _pick(source, _by_feature_type(of_tenx_folder(matrix), None)))
    if (source.modality or "").startswith("obsm:"):
        return _named(source, [of_obsm(source.path, str(source.modality).removeprefix("obsm:"))])
    note = None
    with open_h5(source.path) as h5, reading(source.path, "the file"):
        if isinstance(h5.get("mod"), h5py.Group):
            files = _open_h5mu(source, h5)
        elif (group := tenx_group(h5, source.path, source.modality)) is not None:
            if group == source.modality:  # a genome was chosen, whose features are all one modality
                source = replace(source, modality=None)
            with reading(source.path, group):
                obs, var = read_tenx_tables(h5[group])
            whole = ModalityFile("", ModalityKind.OTHER, source.path, f"/{group}", "10x", obs, var)
            files = _pick(source, _by_feature_type(whole, None))
            note = raw_note(h5, group, source.path)
        elif "obs" in h5 and "var" in h5:
            whole = _open_anndata(source.path, h5, "/", format="h5ad")
            files = _pick(source, _by_feature_type(whole, _said_in_uns(h5)))
            if "X" in h5 and (text_attr(h5["X"], "encoding-type") or "").startswith("csr"):
                note = raw_note(h5, "X", source.path)
            if source.modality is None and len(files) == 1:
                note = note or note_on_obsm(source.path, h5, used)
        else:
            raise _foreign(source, list(h5))
    if note is not None:
        files[0] = replace(files[0], notes=(*files[0].notes, note))
    return _named(source, files)


def _named(source: Source, files: list[ModalityFile]) -> list[ModalityFile]:
    """Give the modality the user's name for it, and check its contents."""
    if source.name is not None:
        if len(files) > 1:
            raise UsageError(
                f"'{source.text}' gives one name to {len(files)} modalities",
                file=source.path,
                found=", ".join(f.name for f in files),
                hint=f"name them one by one: {source.name}={source.path}::{files[0].name}",
            )
        kind = kind_of(source.name)
        files = [
            replace(files[0], name=source.name, kind=files[0].kind if kind is ModalityKind.OTHER else kind)
        ]
    for file in files:
        _check(file)
    return files


def _open_h5mu(source: Source, h5: h5py.File) -> list[ModalityFile]:
    mod = h5["mod"]
    with reading(source.path, "mod"):
        order = [str(m) for m in np.atleast_1d(mod.attrs.get("mod-order", []))]
        keys = order if sorted(order) == sorted(mod) else list(mod)
    wanted = [k for k in keys if not k.endswith("_imputed")]
    aside = [k for k in wanted if is_aside(k)]
    wanted = [k for k in wanted if k not in aside] or wanted
    if source.modality is not None:
        wanted = [_wanted(source, keys, {k: kind_of(k) for k in keys})]
    if not wanted:
        raise InputError("the file holds no modality", file=source.path, field="mod")
    top = {}
    for axis in ("obs", "var"):  # var is read for what adds a modality to the file, and makes it longer
        if axis in h5:  # also as a link to nothing
            with reading(source.path, axis):
                top[axis] = read_table(h5[axis])
    files = []
    for key in wanted:
        file = _open_anndata(source.path, h5, f"/mod/{key}", format="h5mu")
        kind = kind_of(key)
        if kind is ModalityKind.OTHER:
            kind = _kind_by_content(file.var, source)
        obs = file.obs
        if "obs" in top:
            obsmap = h5[f"obsmap/{key}"][()].ravel() if f"obsmap/{key}" in h5 else None
            obs = top_columns(top["obs"], obs, modality=key, modalities=keys, obsmap=obsmap)
        files.append(replace(file, name=key, kind=kind, obs=obs))
    return _telling_aside(source, files, aside)


def _open_anndata(path: Any, h5: h5py.File, group: str, *, format: str) -> ModalityFile:
    prefix = "" if group == "/" else f"{group[1:]}/"
    node = h5[group]
    tables = {}
    for key in ("obs", "var"):
        if key not in node:
            raise InputError(
                f"there is no {key}", file=path, field=f"{prefix}{key}", found=", ".join(list(node)[:8])
            )
        with reading(path, f"{prefix}{key}"):
            tables[key] = read_table(node[key])
    layers: tuple[str, ...] = ()
    if "layers" in node:
        layers = tuple(k for k in flat_keys(node["layers"]) if _is_matrix(node["layers"][k]))
    file = ModalityFile(
        name="",
        kind=ModalityKind.OTHER,
        path=path,
        group=group,
        format=format,
        obs=tables["obs"],
        var=tables["var"],
        layers=layers,
        has_x="X" in node and text_attr(node["X"], "encoding-type") != "null",
    )
    return replace(file, raw=_raw_fits(node, file))


def _is_matrix(node: h5py.Group | h5py.Dataset) -> bool:
    try:
        locate(node)
    except (ValueError, KeyError):
        return False
    return True


def _raw_fits(group: h5py.Group, file: ModalityFile) -> bool:
    if "raw" not in group or not {"X", "var"} <= set(group["raw"]):
        return False
    try:
        raw_columns(group, file)
        return locate(group["raw/X"]).shape[0] == file.n_obs
    except (ValueError, KeyError, OSError):
        return False


def _by_feature_type(whole: ModalityFile, file_name: str | None) -> list[ModalityFile]:
    """Split by feature type, or name the whole file by the first thing that tells its kind."""
    types = _feature_types(whole.var)
    names = types.unique() if types is not None else []
    if types is not None and len(names) > 1:
        return [_part(whole, str(name), np.flatnonzero(types == name)) for name in names]
    stem = whole.path.stem
    by_content = kind_of_features(whole.var.index)
    by_stem = name_in_stem(stem)
    if by_content is ModalityKind.RNA and may_hold_genes(stem):
        by_stem = None  # as of genes in cite.h5ad, or in rna5k_adt29.h5ad
    by_type = str(names[0]) if len(names) and kind_of(str(names[0])) is not ModalityKind.OTHER else None
    told = None if by_content is ModalityKind.OTHER else by_content.value
    name = next((n for n in (by_type, file_name, by_stem, told) if n is not None), stem)
    kind = kind_of(name)
    return [replace(whole, name=name, kind=by_content if kind is ModalityKind.OTHER else kind)]


def _part(whole: ModalityFile, name: str, columns: IntArray) -> ModalityFile:
    var = whole.var.iloc[columns]
    if MODALITY in var:  # as `mocli.data.write.flat` names features whose name modalities share
        var = var.set_axis(var.index.astype(str).str.removeprefix(f"{name}:"))
    kind = kind_of(name)
    # raw has features of its own, which var's types do not split
    part = replace(whole, name=name, kind=kind, var=var, columns=columns.astype(np.int64), raw=False)
    rows = _measured(whole.obs, name)
    # what is joined is written anew; a single file's modality is copied as it is, with all of its cells
    return part if rows is None else join(name, [part], kind=kind).take(rows)


def _measured(obs: pd.DataFrame, name: str) -> IntArray | None:
    """Return the cells of which `obs["modality"]` says that a modality was measured, None for all.

    In one table of all cells the others have no values, which are no zeros.
    """
    if MODALITY not in obs:
        return None
    said = obs[MODALITY].astype(object)
    holds = np.array([isinstance(words, str) and name in words.split("+") for words in said])
    return None if holds.all() or not holds.any() else np.flatnonzero(holds)


def _feature_types(var: pd.DataFrame) -> pd.Series | None:
    """Modality name of each feature, None where the table does not say."""
    for column in ("feature_types", "feature_type", MODALITY):
        if column in var:
            values = var[column].astype(object).where(var[column].notna(), "other").astype(str)
            names = values.map({v: feature_type_name(v) for v in values.unique()})
            tells_kinds = any(kind_of(n) is not ModalityKind.OTHER for n in names.unique())
            if tells_kinds or column == "feature_types":
                return names
    return None


def _kind_by_content(var: pd.DataFrame, source: Source) -> ModalityKind:
    types = _feature_types(var)
    if types is not None and types.nunique() == 1 and kind_of(types.iloc[0]) is not ModalityKind.OTHER:
        return kind_of(types.iloc[0])
    return kind_of_features(var.index)


def _said_in_uns(h5: h5py.File) -> str | None:
    uns = h5.get("uns")
    for key in ("modality", "omic"):
        node = uns.get(key) if isinstance(uns, h5py.Group) else None
        if isinstance(node, h5py.Dataset) and node.shape == ():
            value = node[()]
            text = value.decode() if isinstance(value, bytes) else str(value)
            if kind_of(text) is not ModalityKind.OTHER:
                return text
    return None


def _pick(source: Source, files: list[ModalityFile]) -> list[ModalityFile]:
    if source.modality is None:
        aside = [f.name for f in files if is_aside(f.name)]
        return _telling_aside(source, [f for f in files if f.name not in aside] or files, aside)
    key = _wanted(source, [f.name for f in files], {f.name: f.kind for f in files})
    return [f for f in files if f.name == key]


def _telling_aside(source: Source, files: list[ModalityFile], aside: Sequence[str]) -> list[ModalityFile]:
    """Note at the first modality which others of the file are left out, and how to use them."""
    left_out = [name for name in aside if all(f.name != name for f in files)]
    if source.modality is not None or not left_out:
        return files
    line = (
        f"{source.path.name}: {' and '.join(left_out)} left out, as hashtags and guides label cells and do "
        f"not measure them; to use one all the same, name it: {source.path}::{left_out[0]}"
    )
    return [replace(files[0], notes=(*files[0].notes, line)), *files[1:]]


def _wanted(source: Source, names: Sequence[str], kinds: Mapping[str, ModalityKind]) -> str:
    """Choose the modality that `::modality` means: by name, else the only one of that kind."""
    wanted = source.modality or ""
    if wanted in names:
        return wanted
    kind = kind_of(wanted)
    alike = [n for n in names if kinds[n] is kind and not n.endswith("_imputed")]
    if kind is not ModalityKind.OTHER and len(alike) == 1:
        return alike[0]
    raise InputError(
        f"there is no modality '{wanted}'",
        file=source.path,
        field=f"::{wanted}",
        found=", ".join(list(names)[:8]),
        hint=did_you_mean(wanted, names, "modalities"),
    )


def _check(file: ModalityFile) -> None:
    """Refuse a modality that cannot be analysed."""
    where = "obs_names" if file.holds_tables else "barcodes"
    if file.n_obs < 2:
        found = "no cells" if file.n_obs == 0 else "one cell"
        raise InputError(
            f"'{file.name}' has {found}", file=file.path, field=where, found=found, expected="many cells"
        )
    if file.n_vars == 0:
        raise InputError(
            f"'{file.name}' has no features", file=file.path, field="var_names", found="no features"
        )
    repeated = file.obs.index.duplicated()
    if repeated.any():
        examples = list(dict.fromkeys(file.obs.index[repeated]))[:3]
        raise InputError(
            f"'{file.name}' has repeated cell names",
            file=file.path,
            field=where,
            found=f"{int(repeated.sum())} repeats, such as {', '.join(map(repr, examples))}",
            expected="each cell named once",
            hint="name cells by sample and barcode, for example adata.obs_names = adata.obs['sample'] + '_' +"
            " adata.obs_names",
        )


def _foreign(source: Source, keys: list[str]) -> InputError:
    unknown = f"groups {', '.join(keys[:6])}" if keys else "an empty HDF5 file"
    known = ((name, advice) for signature, name, advice in _FOREIGN if {*signature} <= {*keys})
    found, hint = next(known, (unknown, "convert it to .h5ad with anndata"))
    return InputError(
        "the HDF5 file is neither h5ad, h5mu nor 10x",
        file=source.path,
        found=found,
        expected="obs and var (h5ad), mod (h5mu) or matrix (10x)",
        hint=hint,
    )
