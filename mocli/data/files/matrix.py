"""A matrix on disk (CSR, CSC, dense or of Cell Ranger), read as CSR a bounded piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from mocli.data.files.hdf5 import strings, text_attr
from mocli.errors import InputError
from mocli.types import CSR, IntArray

_BLOCK = 1 << 23  # values held at once beside the result
_GAP = 64  # rows read in vain rather than starting a new read


@dataclass(frozen=True, eq=False)
class Stored:
    """A matrix on disk and its form.

    Attributes:
        node: A dense dataset, or the group with `data`, `indices` and `indptr`.
        shape: Cells, features.
    """

    node: h5py.Group | h5py.Dataset
    layout: Literal["csr", "csc", "dense"]
    shape: tuple[int, int]

    @property
    def values(self) -> h5py.Dataset:
        """The stored values."""
        return self.node if self.layout == "dense" else self.node["data"]


def locate(node: h5py.Group | h5py.Dataset) -> Stored:
    """Recognise a matrix written by any anndata.

    Raises `ValueError`: the node is not a matrix of numbers.
    """
    if isinstance(node, h5py.Dataset):
        if node.ndim != 2 or node.dtype.kind not in "biuf":
            raise ValueError(f"not a matrix of numbers: {node.dtype} of shape {node.shape}")
        return Stored(node, "dense", (int(node.shape[0]), int(node.shape[1])))
    # anndata before 0.7 wrote h5sparse_format
    encoding = text_attr(node, "encoding-type") or text_attr(node, "h5sparse_format") or "nothing known"
    if encoding[:3] not in ("csr", "csc"):
        raise ValueError(f"neither dense nor CSR nor CSC: {encoding}")
    shape = node.attrs["shape" if "shape" in node.attrs else "h5sparse_shape"]
    return Stored(node, "csr" if encoding[:3] == "csr" else "csc", (int(shape[0]), int(shape[1])))


def read_csr(stored: Stored, *, rows: IntArray | None = None, dtype: Any = np.float32) -> CSR:
    """Read a matrix, or some of its rows in the order given, as canonical CSR.

    Args:
        rows: Row numbers, `(n,)`, repeats allowed; None for all.
        dtype: The type of the values; None keeps the stored one.

    Returns:
        `scipy.sparse.csr_matrix`, `(n, n_vars)`: indices sorted, int32 where they fit, no stored zeros. A
        dense matrix is never in memory as a whole.

    Raises:
        ValueError: Pointers or indices do not describe a matrix of the stated shape.
    """
    if rows is None:
        x = _all_rows(stored, dtype)
    else:
        wanted, back = np.unique(rows, return_inverse=True)
        read = _rows_of_csc if stored.layout == "csc" else _rows_by_span
        x = read(stored, wanted, dtype)
        if not np.array_equal(back, np.arange(len(wanted))):
            x = x[back]
    x.sum_duplicates()
    x.eliminate_zeros()
    return x


def _all_rows(stored: Stored, dtype: Any) -> CSR:
    n_obs, n_vars = stored.shape
    if stored.layout == "dense":
        step = max(1, _BLOCK // max(1, n_vars))
        parts = [
            sp.csr_matrix(_values(stored.node, dtype, slice(a, a + step))) for a in range(0, n_obs, step)
        ]
        return sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, n_vars), dtype=dtype)
    x = _compressed(stored, 0, n_obs if stored.layout == "csr" else n_vars, _pointers(stored), dtype)
    return x.tocsr()


def _rows_by_span(stored: Stored, wanted: IntArray, dtype: Any) -> CSR:
    pointers = _pointers(stored) if stored.layout == "csr" else None
    parts = []
    for a, b in _spans(wanted):
        inside = wanted[np.searchsorted(wanted, a) : np.searchsorted(wanted, b)] - a
        if pointers is not None:
            part = _compressed(stored, a, b, pointers, dtype)
        else:
            part = sp.csr_matrix(_values(stored.node, dtype, slice(a, b)))
        parts.append(part if len(inside) == b - a else part[inside])
    return sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, stored.shape[1]), dtype=dtype)


def _rows_of_csc(stored: Stored, wanted: IntArray, dtype: Any) -> CSR:
    n_vars = stored.shape[1]
    pointers = _pointers(stored)
    parts, a = [], 0
    while a < n_vars:
        b = max(a + 1, int(np.searchsorted(pointers, pointers[a] + _BLOCK, side="right")) - 1)
        b = min(b, n_vars)
        parts.append(_compressed(stored, a, b, pointers, dtype).tocsr()[wanted])
        a = b
    return sp.hstack(parts, format="csr") if parts else sp.csr_matrix((len(wanted), n_vars), dtype=dtype)


def _compressed(stored: Stored, a: int, b: int, pointers: NDArray[Any], dtype: Any) -> CSR:
    """Rows (CSR) or columns (CSC) `a` to `b` of a compressed matrix."""
    lo, hi = int(pointers[a]), int(pointers[b])
    by_row = stored.layout == "csr"
    across = stored.shape[1] if by_row else stored.shape[0]
    small = max(across, hi - lo) < np.iinfo(np.int32).max
    index = np.int32 if small else np.int64
    values = _values(stored.node["data"], dtype, slice(lo, hi))
    indices = stored.node["indices"].astype(index)[lo:hi]
    indptr = (pointers[a : b + 1] - lo).astype(index)
    make, shape = (sp.csr_matrix, (b - a, across)) if by_row else (sp.csc_matrix, (across, b - a))
    x = make((values, indices, indptr), shape=shape)
    x.check_format(full_check=True)  # a damaged index must not reach compiled code
    return x


def _pointers(stored: Stored) -> NDArray[Any]:
    pointers: IntArray = stored.node["indptr"][()].astype(np.int64)
    length = stored.shape[0] if stored.layout == "csr" else stored.shape[1]
    stored_values = stored.node["data"].shape[0]
    if len(pointers) != length + 1 or pointers[0] != 0 or pointers[-1] != stored_values:
        raise ValueError(f"indptr does not fit a matrix of {stored.shape} with {stored_values} values")
    if np.any(np.diff(pointers) < 0):
        raise ValueError("indptr decreases")
    return pointers


def _values(dataset: h5py.Dataset, dtype: Any, where: slice) -> NDArray[Any]:
    if dtype is None:
        return np.asarray(dataset[where])
    if dataset.dtype.kind == "b":  # an HDF5 enumeration, which HDF5 does not convert
        return np.asarray(dataset[where]).astype(dtype)
    return np.asarray(dataset.astype(dtype)[where])


def _spans(wanted: IntArray) -> Iterator[tuple[int, int]]:
    """Half-open runs that cover sorted row numbers."""
    if len(wanted) == 0:
        return
    cuts = np.flatnonzero(np.diff(wanted) > _GAP) + 1
    for run in np.split(wanted, cuts):
        for a in range(int(run[0]), int(run[-1]) + 1, 65536):
            yield a, min(int(run[-1]) + 1, a + 65536)


_COLUMNS = {
    "id": "gene_ids",
    "feature_type": "feature_types",
    "genome": "genome",
    "interval": "interval",
    "pattern": "pattern",
    "read": "read",
    "sequence": "sequence",
}


MOSTLY_EMPTY = 0.5
"""From this share of empty barcodes on, a matrix counts as the raw one."""


def tenx_group(h5: h5py.File, path: Path, wanted: str | None = None) -> str | None:
    """Name of the group that holds the matrix, None when the file is not from 10x.

    Raises `InputError`: a version 2 file with more than one genome, of which none is wanted.
    """
    if _has(h5.get("matrix"), ("barcodes", "features", "indptr", "shape")):
        return "matrix"
    genomes = [name for name in h5 if _has(h5[name], ("barcodes", "gene_names", "indptr", "shape"))]
    if wanted in genomes:
        return wanted
    if len(genomes) > 1:
        raise InputError(
            "the file holds several genomes",
            file=path,
            found=", ".join(genomes[:3]),
            expected="one genome",
            hint=f"choose one: {path}::{genomes[0]}",
        )
    return genomes[0] if genomes else None


def read_tenx_tables(group: h5py.Group) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read cells and features as obs and var tables; feature names are the index."""
    obs = pd.DataFrame(index=pd.Index(strings(group["barcodes"]), dtype=object))
    if "features" not in group:
        var = pd.DataFrame({"gene_ids": strings(group["genes"])}, index=strings(group["gene_names"]))
        return obs, var
    features = group["features"]
    n_vars = int(group["shape"][0])
    columns = {
        new: strings(features[old])
        for old, new in _COLUMNS.items()
        if old in features and features[old].shape == (n_vars,)
    }
    return obs, pd.DataFrame(columns, index=pd.Index(strings(features["name"]), dtype=object))


def locate_tenx(group: h5py.Group) -> Stored:
    """Find the matrix: columns of features x cells are rows of cells x features."""
    n_vars, n_obs = (int(n) for n in np.asarray(group["shape"][()]))
    return Stored(group, "csr", (n_obs, n_vars))


def raw_note(h5: h5py.File, group: str, path: Path) -> str | None:
    """Return a line where most barcodes hold nothing, as in the matrix before cells are called."""
    node = h5[group]
    if not (isinstance(node, h5py.Group) and "indptr" in node):
        return None
    stored = np.diff(node["indptr"][()])
    empty = float(np.mean(stored == 0)) if len(stored) else 0.0
    if empty < MOSTLY_EMPTY:
        return None
    return (
        f"warning: {path.name}: this looks like the raw matrix: {empty:.1%} of the barcodes are empty; give "
        "filtered_feature_bc_matrix.h5, or the barcodes that cell calling kept"
    )


def _has(node: h5py.Group | h5py.Dataset | None, keys: tuple[str, ...]) -> bool:
    return isinstance(node, h5py.Group) and all(key in node for key in keys)
