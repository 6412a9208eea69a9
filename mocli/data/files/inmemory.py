"""Modalities in memory, used like those of a file: an AnnData, or a folder of text files from 10x."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.io import mminfo, mmread

from mocli.data.files.hdf5 import reading
from mocli.data.files.kinds import kind_of, kind_of_features
from mocli.data.files.modality import ModalityFile
from mocli.data.files.text import text_lines
from mocli.errors import InputError
from mocli.types import CSR, IntArray, ModalityKind

if TYPE_CHECKING:
    from anndata import AnnData


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
