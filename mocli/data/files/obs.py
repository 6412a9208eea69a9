"""Columns of obs, and matrices in obsm with the names of their cells, in whichever form they are stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from mocli.data.files.frames import read_index, read_table
from mocli.data.files.hdf5 import flat_keys, open_h5, reading, strings
from mocli.data.files.kinds import kind_of, kind_of_features, name_in_stem
from mocli.data.files.matrix import Stored, locate, read_csr
from mocli.data.files.modality import MemoryModality, ModalityFile
from mocli.errors import InputError, did_you_mean, some
from mocli.types import CSR, FloatArray, IntArray, ModalityKind

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
    column_by_modality = column_of_each(key)
    if column_by_modality and all(column is None for column in by_modality.values()):
        by_modality = dict.fromkeys(by_modality) | _own_columns(files, column_by_modality, option)
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
        hint=did_you_mean(key, columns, "columns")
        if columns
        else "files of 10x hold no columns of cells: write an .h5ad or .h5mu with the column in obs, or "
        "leave the option out",
    )


def column_of_each(key: str) -> dict[str, str]:
    """Return the columns of `rna=column,prot=other` by modality; none for a key that is not of this form."""
    parts = [part.strip().partition("=") for part in key.split(",")]
    return {name: column for name, _, column in parts} if all(n and c for n, _, c in parts) else {}


def name_of_column(key: str) -> str:
    """Return what a column is called in outputs: of `rna=column,prot=other`, as the first."""
    return next(iter(column_of_each(key).values()), key)


def _own_columns(
    files: Sequence[ModalityFile], column_by_modality: dict[str, str], option: str | None
) -> dict[str, pd.Series | None]:
    by_name = {f.name: f for f in files}
    columns: dict[str, pd.Series | None] = {}
    for name, column in column_by_modality.items():
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


@dataclass(frozen=True, eq=False)
class ObsmPart:
    """An open matrix of obsm.

    Attributes:
        place: Its name for messages: `mod/rna/obsm['X_linked']`.
        cells: obs_names of the group that holds it, `(n_cells,)`.
        names: Names of its columns, None where it has none.
    """

    place: str
    cells: pd.Index = field(repr=False)
    n_columns: int
    names: tuple[str, ...] | None
    stored: Stored | CSR = field(repr=False)

    def read(self, rows: IntArray | None = None) -> CSR:
        """Return all rows, or some in the order given, as canonical CSR float32, `(n_rows, n_columns)`."""
        if isinstance(self.stored, Stored):
            return read_csr(self.stored, rows=rows)
        return self.stored if rows is None else self.stored[rows]


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Coordinates of some cells, from any tool.

    Attributes:
        modality: Whose cells they are in a file of several; None for the cells of the whole file.
        names: `(n,)`, obs_names.
        z: `(n, d)`.
    """

    modality: str | None
    names: pd.Index = field(repr=False)
    z: FloatArray = field(repr=False)


@contextmanager
def open_obsm(file: ModalityFile, key: str) -> Iterator[ObsmPart]:
    """Open a matrix of obsm of one modality.

    Raises `InputError`: it is missing, not a table of numbers, or of other cells than obs.
    """
    place = _place(file.group, key)
    if not file.holds_tables:
        write = "a 10x file holds only counts: write an .h5ad with the matrix in obsm"
        raise _absent(file.path, key, [], place=place, whose=f" of '{file.name}'", hint=write)
    with open_h5(file.path) as h5, reading(file.path, place):
        keys = _keys(h5[file.group])
        hint = None
        if file.format == "h5mu" and key in _keys(h5):
            hint = f"the whole file has one: store a matrix of each modality, in mod/{file.name}/obsm"
        if key not in keys:
            raise _absent(file.path, key, keys, place=place, whose=f" of '{file.name}'", hint=hint)
        yield _open(file.path, h5[file.group], key, place)


def read_coordinates(path: Path, key: str) -> list[Coordinates]:
    """Read a matrix of obsm: of every modality of an h5mu that has it, else of the whole file.

    Raises `InputError`: the file cannot be read, has no such matrix, or it is no table of numbers.
    """
    with open_h5(path) as h5:
        mod = h5.get("mod")
        nodes: dict[str | None, h5py.Group] = {None: h5}
        if isinstance(mod, h5py.Group):
            nodes = {**{str(m): mod[m] for m in mod}, None: h5}
        having = {m: node for m, node in nodes.items() if key in _keys(node)}
        if not having:
            keys = list(dict.fromkeys(k for node in nodes.values() for k in _keys(node)))
            raise _absent(path, key, keys, place=_place("/", key))
        coordinates = []
        parts: list[str | None] = [m for m in having if m is not None]
        for modality in parts or [None]:
            place = _place("/" if modality is None else f"/mod/{modality}", key)
            with reading(path, place):
                part = _open(path, having[modality], key, place)
                z = np.zeros((len(part.cells), part.n_columns), np.float32)
                x = part.read().tocoo()
                z[x.row, x.col] = x.data
            coordinates.append(Coordinates(modality, part.cells, z))
        return coordinates


def of_obsm(path: Path, key: str) -> MemoryModality:
    """Return a matrix in obsm of an h5ad as a modality of its own, as totalVI's users keep proteins.

    Columns without names take those of `uns["protein_names"]` where these are as many, else numbers.

    Raises `InputError`: it is missing, not a table of numbers, or of other cells than obs.
    """
    place = _place("/", key)
    with open_h5(path) as h5, reading(path, place):
        if key not in _keys(h5):
            raise _absent(path, key, _keys(h5), place=place)
        part = _open(path, h5, key, place)
        obs, x, names = read_table(h5["obs"]), part.read(), part.names
        if names is None and "uns/protein_names" in h5 and h5["uns/protein_names"].shape == (part.n_columns,):
            names = tuple(strings(h5["uns/protein_names"]))
    var = pd.DataFrame(
        index=pd.Index(names or [f"{key}_{i + 1}" for i in range(part.n_columns)], dtype=object)
    )
    name = name_in_stem(key) or key
    kind = kind_of(name)
    kind = kind_of_features(var.index) if kind is ModalityKind.OTHER else kind
    return MemoryModality(name, kind, path, f"obsm:{key}", "obsm", obs, var, arrays={"X": x})


def note_on_obsm(path: Path, h5: h5py.File, used: Collection[str] = ()) -> str | None:
    """Say which matrix of obsm is named like a modality, and how it is used as one; None where none is.

    `used`: keys that are inputs already.
    """
    for key in (k for k in _keys(h5) if k not in used):
        kind = None if key.startswith("X_") else name_in_stem(key)
        if kind is not None:
            return (
                f"{path.name}: obsm['{key}'] is named like a modality ({kind}) and is not used; to use it, "
                f"add the input {path}::obsm:{key}"
            )
    return None


def _place(group: str, key: str) -> str:
    return f"{group.strip('/')}/obsm['{key}']".removeprefix("/")


def _keys(group: h5py.Group) -> list[str]:
    obsm = group.get("obsm")
    return flat_keys(obsm) if isinstance(obsm, h5py.Group) else []


def _absent(
    path: Path, key: str, keys: list[str], *, place: str, whose: str = "", hint: str | None = None
) -> InputError:
    return InputError(
        f"obsm{whose} holds no '{key}'",
        file=path,
        field=place,
        found=", ".join(keys[:12]) or "no obsm at all",
        hint=hint or did_you_mean(key, keys, "matrices of obsm"),
    )


def _open(path: Path, group: h5py.Group, key: str, place: str) -> ObsmPart:
    cells = pd.Index(read_index(group["obs"]).astype(str))
    node = group["obsm"][key]
    if isinstance(node, h5py.Group) and "_index" in node.attrs:
        table = read_table(node)
        if not table.index.equals(cells):
            raise _other_cells(table.index, cells, path, place)
        names = tuple(map(str, table.columns))
        return ObsmPart(place, cells, len(names), names, _numbers(table, path, place))
    try:
        stored = locate(node)
    except ValueError as error:
        raise InputError(
            "the matrix in obsm does not hold numbers",
            file=path,
            field=place,
            found=str(error),
            expected="cells x columns: a dense or sparse matrix, or a table",
        ) from None
    if stored.shape[0] != len(cells):
        raise _other_cells(pd.RangeIndex(stored.shape[0]), cells, path, place)
    return ObsmPart(place, cells, stored.shape[1], None, stored)


def _other_cells(rows: pd.Index, cells: pd.Index, path: Path, place: str) -> InputError:
    alike = len(rows) == len(cells)
    same = alike and sorted(rows) == sorted(cells)
    differ = f", {int((rows != cells).sum()):,} of them named otherwise" if alike else ""
    return InputError(
        "the matrix in obsm has other cells than obs" + (", or in another order" if same else ""),
        file=path,
        field=place,
        found=f"{len(rows):,} rows{differ}",
        expected=f"{len(cells):,} cells" + (", in the order of obs" if alike else ""),
    )


def _numbers(table: pd.DataFrame, path: Path, place: str) -> CSR:
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name].dtype):
            raise InputError(
                "a column of the table in obsm does not hold numbers",
                file=path,
                field=place,
                found=f"column '{name}' of {table[name].dtype}",
                expected="numbers in every column",
            )
    x = sparse.csr_matrix(table.to_numpy(dtype=np.float32, na_value=np.nan))
    x.eliminate_zeros()
    return x
