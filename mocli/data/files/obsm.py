"""A matrix of obsm of one file, read as CSR, whatever it is stored as: dense, sparse or a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from mocli.data.files.hdf5 import open_h5, reading
from mocli.data.files.matrix import Stored, locate, read_csr
from mocli.data.files.modality import ModalityFile
from mocli.data.files.tables import read_index, read_table
from mocli.errors import InputError, did_you_mean
from mocli.types import CSR, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class ObsmPart:
    """An open matrix of obsm.

    Attributes
    ----------
    place
        What to call it: `mod/rna/obsm['X_linked']`.
    names
        Names of its columns, None where it has none.
    """

    place: str
    n_columns: int
    names: tuple[str, ...] | None
    stored: Stored | CSR = field(repr=False)

    def read(self, rows: IntArray) -> CSR:
        """Return rows in the order given as canonical CSR float32, `(len(rows), n_columns)`."""
        return read_csr(self.stored, rows=rows) if isinstance(self.stored, Stored) else self.stored[rows]


@contextmanager
def open_obsm(file: ModalityFile, key: str) -> Iterator[ObsmPart]:
    """Open a matrix of obsm of one file.

    Raises
    ------
    InputError
        It is absent, no table of numbers, or of other cells than obs.
    """
    place = f"{file.group.strip('/')}/obsm['{key}']".removeprefix("/")
    with open_h5(file.path) as h5, reading(file.path, place):
        group = h5[file.group]
        node = _find(h5, group, file, key, place)
        if isinstance(node, h5py.Group) and "_index" in node.attrs:
            table = read_table(node)
            _check_names(table, pd.Index(read_index(group["obs"]).astype(str)), file, place)
            names = tuple(map(str, table.columns))
            yield ObsmPart(place, len(names), names, _numbers(table, file, place))
            return
        stored = _located(node, file, place)
        n_cells = len(read_index(group["obs"])) if file.rows is not None else file.n_obs
        if stored.shape[0] != n_cells:
            raise InputError(
                "the matrix of obsm is of other cells than obs",
                file=file.path,
                field=place,
                found=f"{stored.shape[0]:,} rows",
                expected=f"{n_cells:,} cells",
            )
        yield ObsmPart(place, stored.shape[1], None, stored)


def _find(
    h5: h5py.File, group: h5py.Group, file: ModalityFile, key: str, place: str
) -> h5py.Group | h5py.Dataset:
    obsm = group.get("obsm") if file.format != "10x" else None
    keys: list[str] = []
    if isinstance(obsm, h5py.Group):
        keys = list(obsm)
        if key in keys:
            return obsm[key]
    hint = did_you_mean(key, keys, "matrices of obsm")
    if file.format == "10x":
        hint = "a 10x file holds counts alone: write an .h5ad with the matrix in obsm"
    elif file.format == "h5mu" and isinstance(h5.get("obsm"), h5py.Group) and key in h5["obsm"]:
        hint = f"the whole file has one: store a matrix of each modality, in mod/{file.name}/obsm"
    raise InputError(
        f"obsm of '{file.name}' holds no '{key}'",
        file=file.path,
        field=place,
        found=", ".join(keys[:12]) or "no obsm at all",
        hint=hint,
    )


def _located(node: h5py.Group | h5py.Dataset, file: ModalityFile, place: str) -> Stored:
    try:
        return locate(node)
    except ValueError as error:
        raise InputError(
            "this is no matrix of numbers",
            file=file.path,
            field=place,
            found=str(error),
            expected="cells x linked features: a dense or sparse matrix, or a table",
        ) from None


def _check_names(table: pd.DataFrame, cells: pd.Index, file: ModalityFile, place: str) -> None:
    if table.index.equals(cells):
        return
    differ = len(table) if len(table) != len(cells) else int((table.index != cells).sum())
    same = len(table) == len(cells) and sorted(table.index) == sorted(cells)
    raise InputError(
        "the table of obsm is of other cells than obs" + (", or in another order" if same else ""),
        file=file.path,
        field=place,
        found=f"{len(table):,} rows, {differ:,} of them named otherwise"
        if len(table) == len(cells)
        else f"{len(table):,} rows",
        expected=f"{len(cells):,} cells, in the order of obs",
    )


def _numbers(table: pd.DataFrame, file: ModalityFile, place: str) -> CSR:
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name].dtype):
            raise InputError(
                "a column of the table of obsm holds no numbers",
                file=file.path,
                field=place,
                found=f"column '{name}' of {table[name].dtype}",
                expected="numbers in every column",
            )
    values = table.to_numpy(dtype=np.float32, na_value=np.nan)
    x = sparse.csr_matrix(values)
    x.eliminate_zeros()
    return x


@dataclass(frozen=True, eq=False)
class Places:
    """Where some cells lie.

    Attributes
    ----------
    modality
        Whose cells they are in a file of several; None for the cells of the whole file.
    names
        `(n,)`, obs_names.
    z
        `(n, d)`.
    """

    modality: str | None
    names: pd.Index = field(repr=False)
    z: FloatArray = field(repr=False)


def read_places(path: Path, key: str) -> list[Places]:
    """Read an array of obsm: of every modality of an h5mu that has it, else of the whole file.

    Raises
    ------
    InputError
        The file is none, has no such array, or the array is no table of numbers.
    """
    with open_h5(path) as h5:
        mod = h5.get("mod")
        nodes: list[tuple[str | None, h5py.Group]] = [(None, h5)]
        if isinstance(mod, h5py.Group):
            nodes = [*((str(m), mod[m]) for m in mod), (None, h5)]
        having = [(m, node) for m, node in nodes if _keys(node).count(key)]
        if not having:
            keys = list(dict.fromkeys(k for _, node in nodes for k in _keys(node)))
            raise InputError(
                f"obsm holds no '{key}'",
                file=path,
                field=f"obsm['{key}']",
                found=", ".join(keys[:12]) or "no obsm at all",
                hint=did_you_mean(key, keys, "arrays of obsm"),
            )
        parts = [(m, node) for m, node in having if m is not None]
        return [_read(path, m, node, key) for m, node in (parts or having)]


def _keys(node: h5py.Group) -> list[str]:
    obsm = node.get("obsm")
    return list(obsm) if isinstance(obsm, h5py.Group) else []


def _read(path: Path, modality: str | None, node: h5py.Group, key: str) -> Places:
    place = f"obsm['{key}']" if modality is None else f"mod/{modality}/obsm['{key}']"
    with reading(path, place):
        names = pd.Index(read_index(node["obs"]).astype(str))
        found = node["obsm"][key]
        values = (
            read_table(found).to_numpy()
            if isinstance(found, h5py.Group) and "_index" in found.attrs
            else found
        )
        if isinstance(values, h5py.Group) or values.ndim != 2 or values.dtype.kind not in "iuf":
            raise InputError(
                "the embedding is no dense table of numbers",
                file=path,
                field=place,
                found="a group"
                if isinstance(values, h5py.Group)
                else f"{values.dtype}, shape {values.shape}",
                expected="cells x dimensions",
            )
        z = np.asarray(values[...], dtype=np.float32)
    if len(z) != len(names):
        raise InputError(
            "the embedding has another number of rows than obs",
            file=path,
            field=place,
            found=f"{len(z):,} rows",
            expected=f"{len(names):,} cells",
        )
    return Places(modality, names, z)
