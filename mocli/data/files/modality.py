"""One modality, of a file or in memory: its tables, and its matrix, left on disk until it is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.io import mminfo, mmread

from mocli.data.files.frames import read_index
from mocli.data.files.hdf5 import open_h5, reading
from mocli.data.files.kinds import kind_of, kind_of_features
from mocli.data.files.matrix import Stored, locate, locate_tenx, read_csr
from mocli.data.files.text import text_lines
from mocli.errors import InputError, did_you_mean
from mocli.types import CSR, IntArray, ModalityKind

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class ModalityFile:
    """One modality of a file: its tables, and the way to its matrix, which stays on disk.

    Attributes:
        group: HDF5 group that holds it: `/`, `/mod/rna`, `/matrix`.
        format: `h5ad`, `h5mu`, `10x`, `mtx` (text files of 10x), `obsm` (a matrix there) or `memory`.
        obs: Cells, index `obs_names`; of an h5mu with the columns of the whole file's obs that the modality
            lacks.
        raw: Whether `raw` holds the same cells and all of these features.
        has_x: Whether there is an `X`.
        columns: Columns of the stored matrix that are this modality's, None for all.
        rows: Rows of the stored matrix that are these cells, None for all.
        input_key: Column that mocli added to obs, saying which input a cell is of; None where obs is as in
            the file.
        renamed: Whether cells have other names than in the file.
        rounded: Whether values are read as whole numbers, negative ones as 0.
        notes: What a user should know about how it was opened, one line each.
    """

    name: str
    kind: ModalityKind
    path: Path
    group: str
    format: str
    obs: pd.DataFrame = field(repr=False)
    var: pd.DataFrame = field(repr=False)
    layers: tuple[str, ...] = ()
    raw: bool = False
    has_x: bool = True
    columns: IntArray | None = field(default=None, repr=False)
    rows: IntArray | None = field(default=None, repr=False)
    input_key: str | None = None
    renamed: bool = False
    rounded: bool = False
    notes: tuple[str, ...] = ()

    def by_part(self) -> list[tuple[ModalityFile, IntArray]]:
        """Return the files behind it, each with the rows of this modality that are its cells."""
        return [(self, np.arange(self.n_obs))]

    def located(self, rows: IntArray) -> list[tuple[ModalityFile, IntArray, IntArray]]:
        """Return the files that hold some rows: each with which of `rows` it has, and where it has them."""
        return [(self, np.arange(len(rows)), rows if self.rows is None else self.rows[rows])]

    @property
    def renumbered(self) -> bool:
        """Whether features have other positions here than in a file."""
        return False

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that holds a part of it."""
        return tuple(dict.fromkeys(part.path for part, _ in self.by_part()))

    @property
    def where(self) -> str:
        """Its files, in words."""
        return ", ".join(map(str, self.paths))

    @property
    def summary(self) -> str:
        """What the modality holds, and where."""
        return f"{self.name}: {self.n_obs:,} cells x {self.n_vars:,} {self.kind} features from {self.where}"

    def as_rounded(self) -> ModalityFile:
        """Return the modality with values rounded to whole numbers, negative ones to 0."""
        return replace(self, rounded=True)

    def take(self, rows: IntArray) -> ModalityFile:
        """Return the modality with some of its cells only, `rows` counted among those it has."""
        stored = rows if self.rows is None else self.rows[rows]
        return replace(self, obs=self.obs.iloc[rows], rows=stored)

    @property
    def holds_tables(self) -> bool:
        """Say whether its file holds more about cells and features than names; 10x files do not."""
        return self.format not in ("10x", "mtx", "obsm", "memory")

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        """Number of features."""
        return len(self.var)

    @property
    def matrices(self) -> tuple[str, ...]:
        """What `read` accepts: `X`, the layers, `raw`."""
        return (("X",) if self.has_x else ()) + self.layers + (("raw",) if self.raw else ())

    def read(
        self,
        layer: str | None = None,
        *,
        rows: slice | Sequence[int] | IntArray | None = None,
        dtype: Any = np.float32,
    ) -> CSR:
        """Read a matrix as canonical CSR.

        Args:
            layer: A layer's name; `X` or None for `X`; `raw` for `raw.X`, cut to the features of `var`.
            rows: Rows wanted, in this order; None for all.
            dtype: Of the values; None keeps what is stored.

        Returns:
            `scipy.sparse.csr_matrix`, `(n_obs or len(rows), n_vars)`, sorted indices, no stored zeros.

        Raises:
            InputError: The layer is missing, of another shape, or damaged.
        """
        wanted = None if rows is None else np.atleast_1d(np.arange(self.n_obs)[rows])
        if self.rows is not None:
            wanted = self.rows if wanted is None else self.rows[wanted]
        with self._stored(layer) as (stored, columns, place), reading(self.path, place):
            x = read_csr(stored, rows=wanted, dtype=dtype)
            if self.rounded:
                x.data = np.maximum(np.rint(x.data), 0)
                x.eliminate_zeros()
            return x if columns is None else x[:, columns]

    def sample(self, layer: str | None = None, *, n_rows: int = 256) -> CSR:
        """Read about `n_rows` rows, in short runs spread evenly over the file."""
        return self.sampled(n_rows).read(layer)

    def sampled(self, n_rows: int = 256) -> ModalityFile:
        """Return the modality with the cells that `sample` reads."""
        if self.n_obs <= n_rows:
            return self
        run = 8
        starts = np.linspace(0, self.n_obs - run, max(1, n_rows // run)).astype(np.int64)
        return self.take(np.unique(starts[:, None] + np.arange(run)))

    def nbytes(self, layer: str | None = None) -> int:
        """Bytes of a matrix as CSR in memory; from a sample where the file does not say."""
        nnz = self._n_stored(layer)
        if nnz is None:
            sample = self.sample(layer)
            nnz = round(sample.nnz / sample.shape[0] * self.n_obs)
        return 8 * nnz + 4 * (self.n_obs + 1)

    def _n_stored(self, layer: str | None) -> int | None:
        """Return the number of values of a sparse matrix that is wanted as a whole, None for any other."""
        with self._stored(layer) as (stored, columns, place), reading(self.path, place):
            if stored.layout == "dense" or columns is not None or self.rows is not None:
                return None
            return int(stored.values.shape[0])

    def stored_as(self, layer: str | None = None) -> tuple[str, np.dtype[Any]]:
        """Return how a matrix lies on disk (`csr`, `csc` or `dense`) and the type of its values."""
        with self._stored(layer) as (stored, _, place), reading(self.path, place):
            return stored.layout, np.dtype(stored.values.dtype)

    @contextmanager
    def _stored(self, layer: str | None) -> Iterator[tuple[Stored, IntArray | None, str]]:
        """Find a matrix on disk, the columns wanted of it, and its name for messages."""
        place, key = self._place(layer)
        with open_h5(self.path) as h5:
            with reading(self.path, place):
                group = h5[self.group]
                stored = locate_tenx(group) if self.format == "10x" else locate(group[key])
                columns = raw_columns(group, self) if place == "raw.X" else self.columns
            n_stored = self.n_obs if self.rows is None else stored.shape[0]
            if stored.shape[0] != n_stored or (columns is None and stored.shape[1] != self.n_vars):
                raise InputError(
                    "the matrix does not have the shape of obs and var",
                    file=self.path,
                    field=place,
                    found=f"{stored.shape[0]} x {stored.shape[1]}",
                    expected=f"{self.n_obs} cells x {self.n_vars} features",
                )
            yield stored, columns, place

    def _place(self, layer: str | None) -> tuple[str, str]:
        if layer == "raw" and self.raw:
            return "raw.X", "raw/X"
        if (layer is None or layer == "X") and self.has_x:
            return "X", "X"
        if layer in self.layers:
            return f"layers['{layer}']", f"layers/{layer}"
        wanted = "X" if layer is None else layer
        raise InputError(
            f"'{self.name}' has no layer '{wanted}'",
            file=self.where,
            field=f"layers['{wanted}']" if wanted not in ("X", "raw") else wanted,
            found=", ".join(self.matrices) or "no matrix at all",
            hint=did_you_mean(wanted, self.matrices, "layers"),
        )


def raw_columns(group: h5py.Group, file: ModalityFile) -> IntArray | None:
    """Columns of `raw.X` that are the features of `var`, None where they are the same.

    Raises `ValueError`: some feature is absent from `raw`, or names repeat so that columns are ambiguous.
    """
    names = pd.Index(read_index(group["raw/var"]).astype(str))
    features = pd.Index(file.var.index)
    if names.equals(features):
        return None
    if not (names.is_unique and features.is_unique):
        raise ValueError("feature names repeat: columns of raw cannot be told apart")
    columns: IntArray = names.get_indexer(features).astype(np.int64)
    if np.any(columns < 0):
        raise ValueError("raw lacks some of the features of var")
    return columns


_MATRIX = re.compile(r"matrix\.mtx(?:\.gz)?$")
_SHORTEST = {"coordinate": 4, "array": 2}  # characters of a value with its place, and its end of line
_GZIP = 1032  # characters that a byte may stand for


@dataclass(frozen=True, eq=False)
class MemoryModality(ModalityFile):
    """A modality whose matrices are in memory.

    `arrays`: matrices `(n_obs, n_vars)` by name, `X` among them.
    """

    arrays: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file that it was read from; none for an AnnData."""
        return () if self.format == "memory" else (self.path,)

    @property
    def where(self) -> str:
        """The source, in words, for messages."""
        return f"the AnnData of '{self.name}'" if self.format == "memory" else str(self.path)

    def read(
        self,
        layer: str | None = None,
        *,
        rows: slice | Sequence[int] | IntArray | None = None,
        dtype: Any = np.float32,
    ) -> CSR:
        """Return a matrix as canonical CSR; see `ModalityFile.read`."""
        self._place(layer)
        wanted: Any = slice(None) if rows is None else rows
        if self.rows is not None:
            wanted = self.rows[wanted]
        x = sp.csr_matrix(self.arrays["X" if layer is None else layer][wanted], dtype=dtype, copy=True)
        x.sum_duplicates()
        if self.columns is not None:
            x = x[:, self.columns]
        if self.rounded:
            x.data = np.maximum(np.rint(x.data), 0)
        x.eliminate_zeros()
        x.sort_indices()
        return x

    def stored_as(self, layer: str | None = None) -> tuple[str, np.dtype[Any]]:
        """Return how a matrix is stored and the type of its values; see `ModalityFile.stored_as`."""
        return "csr", np.dtype(self.arrays["X" if layer is None else layer].dtype)

    def _n_stored(self, layer: str | None) -> int | None:
        self._place(layer)
        x = self.arrays["X" if layer is None else layer]
        return int(x.nnz) if sp.issparse(x) and self.columns is None and self.rows is None else None


def find_tenx_folder(path: Path) -> Path | None:
    """Return the matrix of a folder as Cell Ranger writes it, or of its path; None where there is none."""
    if path.is_dir():
        matrices = sorted(p for p in path.iterdir() if _MATRIX.search(p.name))
        return matrices[0] if len(matrices) == 1 else None
    return path if path.is_file() and _MATRIX.search(path.name) else None


def of_tenx_folder(matrix: Path) -> MemoryModality:
    """Read `matrix.mtx`, `barcodes.tsv` and `features.tsv` (or `genes.tsv`) of one folder, gzipped or not.

    Raises `InputError`: one of them is missing or damaged, or they do not fit each other. The first lines of
    the matrix are checked before it is read, because memory for what they promise is allocated at once.
    """
    stem = _MATRIX.sub("", matrix.name)

    def beside(*names: str) -> list[list[str]]:
        places = [matrix.with_name(f"{stem}{name}{end}") for name in names for end in (".tsv.gz", ".tsv")]
        place = next((p for p in places if p.exists()), places[0])
        return [line.split("\t") for _, line in text_lines(place, f"the table {place.name}") if line]

    barcodes, features = beside("barcodes"), beside("features", "genes")
    with reading(matrix, "the matrix"):
        n_vars, n_obs, n_values, layout = mminfo(matrix)[:4]
    if (n_obs, n_vars) != (len(barcodes), len(features)):
        raise InputError(
            "the matrix does not fit its barcodes and features",
            file=matrix,
            found=f"{n_obs:,} x {n_vars:,}",
            expected=f"{len(barcodes):,} barcodes x {len(features):,} features",
        )
    most = matrix.stat().st_size * (_GZIP if matrix.suffix == ".gz" else 1) // _SHORTEST[layout]
    if n_values > most:
        raise InputError(
            "the matrix is cut off",
            file=matrix,
            found=f"{matrix.stat().st_size:,} bytes, of {most:,} values at most",
            expected=f"the {n_values:,} values that its first lines promise",
            hint="copy or download it again",
        )
    with reading(matrix, "the matrix"):
        x = sp.csr_matrix(mmread(matrix).T)
    var = pd.DataFrame(
        {"gene_ids": [f[0] for f in features]},
        index=pd.Index([f[1] if len(f) > 1 else f[0] for f in features], dtype=object),
    )
    if all(len(f) > 2 for f in features):
        var["feature_types"] = [f[2] for f in features]
    if all(len(f) > 5 for f in features):
        var["interval"] = [f"{f[3]}:{f[4]}-{f[5]}" for f in features]
    obs = pd.DataFrame(index=pd.Index([b[0] for b in barcodes], dtype=object))
    kind = ModalityKind.OTHER
    return MemoryModality("", kind, matrix, "/", "mtx", obs, var, has_x=True, arrays={"X": x})


def of_anndata(adata: AnnData, name: str, kind: ModalityKind | str | None = None) -> MemoryModality:
    """Return an AnnData as a modality; the kind follows from names where it is not said."""
    if kind is None:
        kind = kind_of(name)
        if kind is ModalityKind.OTHER:
            kind = kind_of_features([str(v) for v in adata.var_names])
    matrices = {} if adata.X is None else {"X": adata.X}
    matrices |= {str(layer): values for layer, values in adata.layers.items()}
    return MemoryModality(
        name=name,
        kind=ModalityKind(kind),
        path=Path(f"<{name}>"),
        group="/",
        format="memory",
        obs=adata.obs,
        var=adata.var,
        layers=tuple(key for key in matrices if key != "X"),
        has_x="X" in matrices,
        arrays=matrices,
    )
