"""Columns of obs: a user's, wherever it is among the modalities, and one of a file that mocli wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import pandas as pd

from mocli.data.files.frames import read_table
from mocli.data.files.hdf5 import open_h5, reading
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError, did_you_mean


def find_column(
    files: Sequence[ModalityFile], key: str, *, option: str | None = None
) -> dict[str, pd.Series | None]:
    """Look a column up in every modality's obs.

    Parameters
    ----------
    key
        A column, or `rna:column` for the column of one modality.
    option
        The option that named it, for the message.

    Returns
    -------
    By modality: the column, index `obs_names`, or None where the modality has none.

    Raises
    ------
    InputError
        No modality has it.
    """
    found = {f.name: f.obs.get(key) for f in files}
    owner, colon, rest = key.partition(":")
    if colon and all(column is None for column in found.values()):
        found = {f.name: f.obs[rest] if f.name == owner and rest in f.obs else None for f in files}
    if any(column is not None for column in found.values()):
        return found
    columns = list(dict.fromkeys(str(c) for f in files for c in f.obs.columns))
    raise InputError(
        f"no modality has the column '{key}'" + (f" of {option}" if option else ""),
        file=", ".join(dict.fromkeys(str(path) for f in files for path in f.paths)),
        field=f"obs['{key}']",
        found=", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "") or "no columns",
        hint=did_you_mean(key, columns, "columns"),
    )


def read_column(path: Path, column: str) -> dict[str, pd.Series]:
    """Read a column of obs of every modality of an h5mu that has it, by modality; `(n_obs,)` each, by name.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    found = {}
    with open_h5(path) as h5:
        mod = h5.get("mod")
        for name in mod if isinstance(mod, h5py.Group) else ():
            with reading(path, f"mod/{name}/obs"):
                table = read_table(mod[name]["obs"])
            if column in table:
                found[str(name)] = table[column]
    return found
