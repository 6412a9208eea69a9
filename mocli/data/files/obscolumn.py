"""One column of obs of a file that mocli wrote, with the names of the cells it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py

from mocli.data.files.hdf5 import open_h5, reading
from mocli.data.files.table import read_table

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


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
