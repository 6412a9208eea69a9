"""Matrices that grow in a file row by row: chunked, gzip, each chunk compressed once."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mocli.data.write.encode import put_array, tag
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

    Raises
    ------
    ValueError
        `keep_bits` is not within 1 to 23.
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
            put_array(group, key, np.empty(shape, np.float32))
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
