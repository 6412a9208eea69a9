"""Columns of obs: one that the user names, in whichever modality, or one of a file that mocli wrote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from mocli.data.files.frames import read_table
from mocli.data.files.hdf5 import open_h5, reading
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError, did_you_mean, some

MISSING = frozenset({"", "nan", "NaN", "NAN", "NA", "na", "<NA>", "N/A", "n/a", "NaT"})
"""Words that exports write for a missing value."""

NO_LABEL = frozenset(
    ["unassigned", "unlabeled", "unlabelled", "unknown", "ambiguous", "doublet", "doublets", "undetermined"]
)
"""Words, in lower case, that mark a cell as unlabelled."""

_R_MISSING = -(2**31)  # R's missing integer, as zellkonverter writes it


def find_column(
    files: Sequence[ModalityFile], key: str, *, option: str | None = None
) -> dict[str, pd.Series | None]:
    """Look a column up in every modality's obs; words for a missing value, and R's integer, are missing.

    Args:
        key: A column, `rna:column` for the column of one modality, or `rna=column,prot=other` for one of
            each.
        option: The option that named it, for the message.

    Returns:
        By modality: the column, index `obs_names`, or None where the modality has none.

    Raises:
        InputError: No modality has it, or one that was named with a column of its own lacks that; or no cell
            has a value.
    """
    by_modality = {f.name: f.obs.get(key) for f in files}
    own = column_of_each(key)
    if own and all(column is None for column in by_modality.values()):
        by_modality = dict.fromkeys(by_modality) | _own_columns(files, own, option)
    owner, colon, rest = key.partition(":")
    if colon and all(column is None for column in by_modality.values()):
        by_modality = {f.name: f.obs[rest] if f.name == owner and rest in f.obs else None for f in files}
    by_modality = {
        name: None if column is None else with_missing(column) for name, column in by_modality.items()
    }
    if any(column is not None and column.notna().any() for column in by_modality.values()):
        return by_modality
    if any(column is not None for column in by_modality.values()):
        raise InputError(
            f"no cell has a value in the column '{key}'" + (f" of {option}" if option else ""),
            file=", ".join(dict.fromkeys(str(path) for f in files for path in f.paths)),
            field=f"obs['{key}']",
            found="missing values only",
            hint="joining tables by names that do not agree leaves such columns: fill it, or leave the "
            "option out",
        )
    columns = list(dict.fromkeys(str(c) for f in files for c in f.obs.columns))
    raise InputError(
        f"no modality has the column '{key}'" + (f" of {option}" if option else ""),
        file=", ".join(dict.fromkeys(str(path) for f in files for path in f.paths)),
        field=f"obs['{key}']",
        found=some(columns, 12) or "no columns",
        hint=did_you_mean(key, columns, "columns"),
    )


def column_of_each(key: str) -> dict[str, str]:
    """Return the columns of `rna=column,prot=other` by modality; none for a key that is not of this form."""
    parts = [part.strip().partition("=") for part in key.split(",")]
    return {name: column for name, _, column in parts} if all(n and c for n, _, c in parts) else {}


def name_of_column(key: str) -> str:
    """Return what a column is called in outputs: of `rna=column,prot=other`, as the first."""
    return next(iter(column_of_each(key).values()), key)


def _own_columns(
    files: Sequence[ModalityFile], own: dict[str, str], option: str | None
) -> dict[str, pd.Series | None]:
    by_name = {f.name: f for f in files}
    columns: dict[str, pd.Series | None] = {}
    for name, column in own.items():
        f = by_name.get(name)
        if f is None or column not in f.obs:
            there = list(by_name) if f is None else list(map(str, f.obs.columns))
            raise InputError(
                f"there is no modality '{name}'" if f is None else f"{name} has no column '{column}'",
                file=None if f is None else ", ".join(map(str, f.paths)),
                field=option or f"obs['{column}']",
                found=f"{name}={column}",
                hint=did_you_mean(
                    name if f is None else column, there, "modalities" if f is None else "columns"
                ),
            )
        columns[name] = f.obs[column]
    return columns


def find_labels(
    files: Sequence[ModalityFile], key: str, *, option: str, unlabeled: Collection[str] = ()
) -> dict[str, pd.Series | None]:
    """Look up a column of labels, see `find_column`; words for unlabelled cells count as missing.

    `unlabeled`: further such words, as they are written. Raises `InputError`: no modality has the column, or
    no cell a label.
    """
    columns = find_column(files, key, option=option)
    labels: dict[str, pd.Series | None] = {}
    words: dict[str, None] = {}
    for name, column in columns.items():
        labels[name] = column
        if column is not None:
            labels[name] = labels_of(column, unlabeled)
            words |= dict.fromkeys(map(str, column.dropna().unique()[:5]))
    if any(column is not None and column.notna().any() for column in labels.values()):
        return labels
    raise InputError(
        f"the column '{key}' of {option} labels no cell",
        file=", ".join(dict.fromkeys(str(path) for f in files for path in f.paths)),
        field=f"obs['{key}']",
        found=", ".join(words),
    )


def labels_of(column: pd.Series, unlabeled: Collection[str] = ()) -> pd.Series:
    """Return a column of obs in which words for unlabelled cells are missing values."""
    return _without(with_missing(column), lambda w: w in unlabeled or w.casefold() in NO_LABEL)


def with_missing(column: pd.Series) -> pd.Series:
    """Return a column of obs in which words for a missing value, and R's integer, are missing values."""
    if column.dtype.kind == "i":
        r_missing = (column == _R_MISSING).to_numpy(dtype=bool, na_value=False)
        return column.astype("Int64").mask(r_missing) if r_missing.any() else column
    return _without(column, MISSING.__contains__)


def _without(column: pd.Series, is_missing: Callable[[str], bool]) -> pd.Series:
    """Return a column in which some words are missing."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        gone = [
            level for level in column.cat.categories if isinstance(level, str) and is_missing(level.strip())
        ]
        return column.cat.remove_categories(gone) if gone else column
    if column.dtype.kind in "biufc":
        return column
    absent = np.array([isinstance(value, str) and is_missing(value.strip()) for value in column], bool)
    return column.mask(absent) if absent.any() else column


def read_column(path: Path, column: str) -> dict[str, pd.Series]:
    """Read a column of obs of every modality of an h5mu that has it, by modality; `(n_obs,)` each, by name.

    Raises `InputError`: the file cannot be read.
    """
    columns = {}
    with open_h5(path) as h5:
        mod = h5.get("mod")
        for name in mod if isinstance(mod, h5py.Group) else ():
            with reading(path, f"mod/{name}/obs"):
                table = read_table(mod[name]["obs"])
            if column in table:
                columns[str(name)] = table[column]
    return columns
