"""Feature-barcode matrices as Cell Ranger writes them (versions 2 and 3)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from mocli.data.files.hdf5 import strings
from mocli.data.files.matrix import Stored
from mocli.errors import InputError

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
