"""The obs and var tables of a file, as written by any anndata."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from mocli.data.files.hdf5 import strings, text_attr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.types import StrArray


def read_table(node: h5py.Group | h5py.Dataset) -> pd.DataFrame:
    """Read a table with its index as `str`."""
    if isinstance(node, h5py.Dataset):
        table = _compound(node)
    else:
        from anndata.io import read_elem

        with warnings.catch_warnings():
            # old encodings are read as well as new ones: no need to announce them
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            table = read_elem(node)
    table.index = table.index.astype(str)
    return table


def read_index(node: h5py.Group | h5py.Dataset) -> StrArray:
    """Read only the row names of a table, `(n,)`."""
    if isinstance(node, h5py.Dataset):
        return np.asarray(_compound(node).index, dtype=object)
    return strings(node[text_attr(node, "_index") or "_index"])


def top_columns(
    top: pd.DataFrame,
    own: pd.DataFrame,
    *,
    modality: str,
    modalities: Sequence[str],
    obsmap: np.ndarray | None,
) -> pd.DataFrame:
    """Add to a modality's obs the columns of the whole file's obs that it lacks.

    `rna:batch` on top is `batch` of `rna` and of no other modality; the
    modality's own column wins.

    Parameters
    ----------
    top, own
        Tables of the file and of the modality.
    obsmap
        For each row of `top` the row of `own` from 1, 0 where there is none;
        used where names alone are ambiguous.
    """
    names: dict[str, str] = {}
    for column in map(str, top.columns):
        owner, colon, rest = column.partition(":")
        if colon and owner in modalities:
            if owner == modality:
                names[rest] = column  # the column meant for this modality beats a shared one
        else:
            names.setdefault(column, column)
    wanted = {new: old for new, old in names.items() if new not in own.columns}
    if not wanted:
        return own
    if top.index.is_unique:
        found = top[list(wanted.values())].reindex(own.index)
    elif obsmap is not None and np.count_nonzero(obsmap) == len(own):
        rows = np.flatnonzero(obsmap)
        found = top[list(wanted.values())].iloc[rows[np.argsort(obsmap[rows], kind="stable")]]
        found.index = own.index
    else:
        return own
    found.columns = list(wanted)
    return pd.concat([own, found], axis=1)


def _compound(dataset: h5py.Dataset) -> pd.DataFrame:
    """Read the structured array that anndata before 0.7 wrote."""
    rows = dataset[()]
    columns = {}
    for name in rows.dtype.names:
        column = rows[name]
        if column.dtype.kind in "SO":
            column = np.asarray([v.decode() if isinstance(v, bytes) else v for v in column], dtype=object)
        columns[name] = column
    return pd.DataFrame(columns).set_index(rows.dtype.names[0])
