"""A modality that mocli makes, written block by block, so that it is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from mocli.data.write.encode import need_group, put, put_array, put_table, safe_key, tag
from mocli.data.write.filling import DenseMatrix, SparseMatrix
from mocli.types import CSR, FloatArray

KEEP_BITS = 12
"""Bits of the 23-bit mantissa that dense values keep by default."""

Block: TypeAlias = "Mapping[str, FloatArray | CSR]"


@dataclass(frozen=True, eq=False)
class NewModality:
    """A modality to be written whose matrices come in blocks of consecutive rows.

    Attributes
    ----------
    name
        Its name, without `/`.
    obs, var
        Cells `(n_obs, ...)` and features `(n_vars, ...)`, index = names; those
        of cells differ.
    blocks
        Returns an iterator over the rows from the first to the last. A block holds `X` and layers by name,
        each `(b, n_vars)` for any `b`: dense float32, or CSR of any type. Keys and their forms are the same
        in every block.
    obsm
        Arrays `(n_obs, d)` by key.
    uns
        Unstructured annotation of the modality.
    """

    name: str
    obs: pd.DataFrame = field(repr=False)
    var: pd.DataFrame = field(repr=False)
    blocks: Callable[[], Iterator[Block]] = field(repr=False)
    obsm: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    uns: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.name or safe_key(self.name) != self.name:
            raise ValueError(f"'{self.name}' cannot name a modality")
        if not self.obs.index.is_unique:
            raise ValueError(f"names of cells of '{self.name}' repeat")
        for key, array in self.obsm.items():
            if len(array) != self.n_obs:
                raise ValueError(f"'{key}' has {len(array)} rows, '{self.name}' has {self.n_obs} cells")

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        """Number of features."""
        return len(self.var)

    @property
    def names(self) -> pd.Index:
        """Names of the cells."""
        return self.obs.index.astype(str)


@dataclass(frozen=True)
class Written:
    """Time and size of writing a modality's matrices.

    Attributes
    ----------
    n_values
        Values written: all of a dense matrix, the stored ones of a sparse one.
    decode_s, write_s
        Seconds spent by the blocks in being made, and in being compressed and
        written.
    bytes
        Size of the matrices in the file.
    """

    n_values: int
    decode_s: float
    write_s: float
    bytes: int


def write_modality(
    group: h5py.Group, new: NewModality, *, keep_bits: int | None = KEEP_BITS, check: Callable[[], None]
) -> Written:
    """Write a modality into an empty group, in the encoding of anndata.

    Parameters
    ----------
    keep_bits
        Bits of the mantissa that dense values keep, see `filling.round_mantissa`; None
        keeps all. Sparse values are never rounded.
    check
        Called after each block; raises when the file can no longer be written.

    Raises
    ------
    ValueError
        The blocks do not fit together, or do not fit obs and var.
    """
    tag(group, "anndata", "0.1.0")
    put_table(group, "obs", new.obs)
    put_table(group, "var", new.var)
    for key in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        need_group(group, key)
    for key, array in new.obsm.items():
        put_array(group["obsm"], key, array)
    for key, value in new.uns.items():
        put(group["uns"], key, value)
    return _write_blocks(group, new, keep_bits, check)


def _write_blocks(
    group: h5py.Group, new: NewModality, keep_bits: int | None, check: Callable[[], None]
) -> Written:
    decode_s = write_s = 0.0
    matrices: dict[str, DenseMatrix | SparseMatrix] = {}
    n_rows = 0
    blocks = iter(new.blocks())
    while True:
        start = perf_counter()
        block = next(blocks, None)
        decoded_at = perf_counter()
        decode_s += decoded_at - start
        if block is None:
            break
        n_rows += _check_block(block, new, n_rows, matrices)
        if not matrices:
            matrices = {key: _begin(group, key, value, new, keep_bits) for key, value in block.items()}
        for key, matrix in matrices.items():
            matrix.append(block[key])
        check()
        del block  # before the next one is made
        write_s += perf_counter() - decoded_at
    if n_rows != new.n_obs:
        raise ValueError(f"the blocks of '{new.name}' have {n_rows} rows, obs has {new.n_obs}")
    start = perf_counter()
    if not matrices:
        matrices = {"X": DenseMatrix(group, "X", (0, new.n_vars), keep_bits)}
    for matrix in matrices.values():
        matrix.finish()
    group.file.flush()
    size = sum(d.id.get_storage_size() for matrix in matrices.values() for d in matrix.datasets)
    write_s += perf_counter() - start
    return Written(sum(m.n_values for m in matrices.values()), decode_s, write_s, size)


def _check_block(
    block: Block, new: NewModality, n_rows: int, matrices: Mapping[str, DenseMatrix | SparseMatrix]
) -> int:
    """Return the number of rows of a block that fits what was written before it."""
    if "X" not in block or (matrices and block.keys() != matrices.keys()):
        expected = sorted(matrices) or ["X"]
        raise ValueError(f"a block of '{new.name}' holds {sorted(block)}, not {expected}")
    b = int(block["X"].shape[0])
    for key, value in block.items():
        if value.shape != (b, new.n_vars) or n_rows + b > new.n_obs:
            raise ValueError(
                f"'{key}' of '{new.name}' is {value.shape} from row {n_rows} on,"
                f" of {new.n_obs} cells x {new.n_vars} features"
            )
        if not (getattr(value, "format", None) == "csr" if sp.issparse(value) else value.dtype == np.float32):
            raise ValueError(f"'{key}' of '{new.name}' is neither CSR nor dense float32")
        if matrices and not matrices[key].takes(value):
            raise ValueError(f"'{key}' of '{new.name}' changes its form between blocks")
    return b


def _begin(
    group: h5py.Group, key: str, value: FloatArray | CSR, new: NewModality, keep_bits: int | None
) -> DenseMatrix | SparseMatrix:
    parent = group if key == "X" else group["layers"]
    shape = (new.n_obs, new.n_vars)
    if sp.issparse(value):
        return SparseMatrix(parent, safe_key(key), shape, value.dtype)
    return DenseMatrix(parent, safe_key(key), shape, keep_bits)
