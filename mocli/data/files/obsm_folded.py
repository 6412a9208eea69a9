"""Places of cells that any tool wrote: an array of obsm, with the names of the cells it is of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from mocli.data.files.hdf5 import open_h5, reading
from mocli.data.files.table import read_index, read_table
from mocli.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from mocli.types import FloatArray


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
