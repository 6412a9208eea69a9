"""A modality that mocli makes, written block by block, so that it is never in memory as a whole.

Its matrices grow in the file row by row: chunked, gzip, each chunk compressed once.
"""

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

from mocli.data.write.carry import need_group, put, put_table, safe_key, tag
from mocli.types import CSR, FloatArray

_CHUNK = 1 << 17  # values in a chunk: 512 KiB of float32
_CHUNK_COLUMNS = 2048
_MANTISSA = 23
_GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def round_mantissa(values: FloatArray, keep_bits: int) -> FloatArray:
    """Round float32 to `keep_bits` bits of mantissa, ties to even, so that gzip finds the zeros.

    The relative error of a normal number is at most `2 ** -(keep_bits + 1)`;
    integers up to `2 ** (keep_bits + 1)`, infinities and NaN stay as they are,
    and so does a finite number that would round to infinity.

    Raises `ValueError`: `keep_bits` is not within 1 to 23.
    """
    if not 1 <= keep_bits <= _MANTISSA:
        raise ValueError(f"keep_bits is {keep_bits}, not within 1 to {_MANTISSA}")
    values = np.ascontiguousarray(values, np.float32)
    drop = _MANTISSA - keep_bits
    if drop == 0:
        return values.copy()
    bits = values.view(np.uint32)
    rounded = bits >> np.uint32(drop)
    rounded &= np.uint32(1)  # a tie moves up only where the last bit kept is odd
    rounded += np.uint32((1 << (drop - 1)) - 1)
    rounded += bits
    rounded &= np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    out: FloatArray = rounded.view(np.float32)
    sound = np.isfinite(values)
    sound &= np.isfinite(out)
    if not sound.all():
        np.copyto(out, values, where=~sound)
    return out


class _Filling:
    """A dataset filled from its first row on in whole chunks, so that none is compressed twice."""

    def __init__(
        self,
        group: h5py.Group,
        key: str,
        *,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        dtype: Any,
        keep_bits: int | None = None,
    ) -> None:
        # how many values a sparse matrix will have is not known before
        most = (None, *shape[1:]) if shape[0] == 0 else None
        self.dataset = group.create_dataset(
            key, shape=shape, maxshape=most, chunks=chunks, dtype=dtype, **_GZIP
        )
        self._keep_bits = keep_bits
        self._held = np.empty((chunks[0], *shape[1:]), dtype)
        self._n_held = 0
        self.n_written = 0

    def append(self, values: NDArray[Any]) -> None:
        start, room = 0, len(self._held)
        while start < len(values):
            n = min(room - self._n_held, len(values) - start)
            self._held[self._n_held : self._n_held + n] = values[start : start + n]
            self._n_held += n
            start += n
            if self._n_held == room:
                self.flush()

    def flush(self) -> None:
        end = self.n_written + self._n_held
        if end > len(self.dataset):
            self.dataset.resize(end, axis=0)
        if self._n_held:
            values = self._held[: self._n_held]
            if self._keep_bits is not None:
                values = round_mantissa(values, self._keep_bits)
            self.dataset[self.n_written : end] = values
        self.n_written, self._n_held = end, 0


class DenseMatrix:
    """A dense float32 matrix being written."""

    def __init__(self, group: h5py.Group, key: str, shape: tuple[int, int], keep_bits: int | None) -> None:
        self.n_values = shape[0] * shape[1]
        self._filling = None
        if self.n_values == 0:  # HDF5 has no chunks of nothing
            put(group, key, np.empty(shape, np.float32))
            self.datasets = [group[key]]
            return
        columns = _even(shape[1], _CHUNK_COLUMNS)
        rows = _even(shape[0], max(1, _CHUNK // columns))
        self._filling = _Filling(
            group, key, shape=shape, chunks=(rows, columns), dtype=np.float32, keep_bits=keep_bits
        )
        self.datasets = [self._filling.dataset]
        tag(self._filling.dataset, "array", "0.2.0")

    def takes(self, value: FloatArray | CSR) -> bool:
        """Whether a block has the form of those before it."""
        return not sp.issparse(value)

    def append(self, value: FloatArray | CSR) -> None:
        """Take the next rows."""
        if self._filling is not None:
            self._filling.append(value)

    def finish(self) -> None:
        """Write what is still held."""
        if self._filling is not None:
            self._filling.flush()


class SparseMatrix:
    """A CSR matrix being written; only its row pointers are held, 8 bytes a row."""

    def __init__(self, group: h5py.Group, key: str, shape: tuple[int, int], dtype: Any) -> None:
        self._node = group.create_group(key)
        tag(self._node, "csr_matrix", "0.1.0")
        self._node.attrs["shape"] = np.asarray(shape, np.int64)
        self._data = _Filling(self._node, "data", shape=(0,), chunks=(_CHUNK,), dtype=dtype)
        self._indices = _Filling(self._node, "indices", shape=(0,), chunks=(_CHUNK,), dtype=np.int32)
        self._pointers = np.zeros(shape[0] + 1, np.int64)
        self._n_rows = 0
        self.n_values = 0

    @property
    def datasets(self) -> list[h5py.Dataset]:
        """Where the matrix lies."""
        return [self._node[part] for part in ("data", "indices", "indptr")]

    def takes(self, value: FloatArray | CSR) -> bool:
        """Whether a block has the form of those before it."""
        return bool(sp.issparse(value) and value.dtype == self._data.dataset.dtype)

    def append(self, value: FloatArray | CSR) -> None:
        """Take the next rows."""
        x: CSR = value if value.has_canonical_format else value.copy()  # type: ignore[union-attr]
        x.sum_duplicates()
        first, b = int(x.indptr[0]), x.shape[0]
        self._data.append(x.data[first : int(x.indptr[-1])])
        self._indices.append(x.indices[first : int(x.indptr[-1])])
        # numpy adds in the type of the pointers of a block, which may be too small for the sum
        pointers = x.indptr[1:].astype(np.int64) - first + self.n_values
        self._pointers[self._n_rows + 1 : self._n_rows + b + 1] = pointers
        self._n_rows += b
        self.n_values = int(self._pointers[self._n_rows])

    def finish(self) -> None:
        """Write what is still held."""
        self._data.flush()
        self._indices.flush()
        small = self.n_values <= np.iinfo(np.int32).max
        pointers = self._pointers.astype(np.int32) if small else self._pointers
        self._node.create_dataset("indptr", data=pointers, chunks=True, **_GZIP)


def _even(total: int, most: int) -> int:
    """Return a length of at most `most` that cuts `total` into pieces as alike as can be."""
    n_pieces = -(-total // most)
    return -(-total // n_pieces)


KEEP_BITS = 12
"""Bits of the 23-bit mantissa that dense values keep by default."""

Block: TypeAlias = "Mapping[str, FloatArray | CSR]"


@dataclass(frozen=True, eq=False)
class NewModality:
    """A modality to be written whose matrices come in blocks of consecutive rows.

    Attributes:
        name: Its name, without `/`.
        obs, var: Cells `(n_obs, ...)` and features `(n_vars, ...)`, index = names; those of cells differ.
        blocks: Returns an iterator over the rows from the first to the last. A block holds `X` and layers by
            name, each `(b, n_vars)` for any `b`: dense float32, or CSR of any type. Keys and their forms are
            the same in every block.
        obsm: Arrays `(n_obs, d)` by key.
        uns: Unstructured annotation of the modality.
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

    Attributes:
        n_values: Values written: all of a dense matrix, the stored ones of a sparse one.
        decode_s, write_s: Seconds spent by the blocks in being made, and in being compressed and written.
        bytes: Size of the matrices in the file.
    """

    n_values: int
    decode_s: float
    write_s: float
    bytes: int


def write_modality(
    group: h5py.Group, new: NewModality, *, keep_bits: int | None = KEEP_BITS, check: Callable[[], None]
) -> Written:
    """Write a modality into an empty group, in the encoding of anndata.

    Args:
        keep_bits: Bits of the mantissa that dense values keep, see `filling.round_mantissa`; None keeps all.
            Sparse values are never rounded.
        check: Called after each block; raises when the file can no longer be written.

    Raises:
        ValueError: The blocks do not fit together, or do not fit obs and var.
    """
    tag(group, "anndata", "0.1.0")
    put_table(group, "obs", new.obs)
    put_table(group, "var", new.var)
    for key in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        need_group(group, key)
    for key, array in new.obsm.items():
        put(group["obsm"], key, array)
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
