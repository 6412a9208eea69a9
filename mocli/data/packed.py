"""Rows of a matrix packed on disk, for data beyond memory: written once, read a minibatch at a time.

Values take as few bytes as hold them (counts up to 255 take one), those of a row lie together, so that a
row is one read and rows that follow one another are one as well. The file has no name: it is gone with the
process, however that ends.
"""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from scipy import sparse

from mocli.errors import EnvironmentProblem
from mocli.types import CSR, FloatArray, IntArray

BLOCK_VALUES = 1 << 22
"""Stored values that are held at a time."""

BLOCKS_TO_FIT = 8
"""As many blocks of a matrix on disk, at most, are held while something is fitted to them."""

RUN = 64
"""Rows that are read ahead together: what lies between them is not worth a gap."""

_TYPES: tuple[type[Any], ...] = (np.uint8, np.uint16, np.float32)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class PackedRows:
    """A matrix on disk, `(n_obs, n_vars)`: rows by number give CSR float32, or dense rows where it is dense.

    `dense`: whether rows come back as a dense array, and no column numbers are kept. Raises
    `EnvironmentProblem`: the folder for temporary files cannot be written to, or the disk is full.
    """

    def __init__(self, n_vars: int, *, dense: bool = False) -> None:
        self.n_vars, self.dense = n_vars, dense
        self._level = 0
        self._ends = [np.zeros(1, np.int64)]
        self._file = _closed_with(self, _temporary())

    @property
    def _bounds(self) -> IntArray:
        """Where rows start among the stored values, and where the last one ends, `(n_obs + 1,)`."""
        if len(self._ends) > 1:
            self._ends = [np.concatenate(self._ends)]
        return self._ends[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return len(self._bounds) - 1, self.n_vars

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return int(self._bounds[-1])

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.nnz * self._record.itemsize

    @property
    def _record(self) -> np.dtype[Any]:
        value = _TYPES[self._level]
        column = np.uint16 if self.n_vars <= np.iinfo(np.uint16).max + 1 else np.uint32
        return np.dtype(value) if self.dense else np.dtype([("column", column), ("value", value)])

    def append(self, x: CSR | FloatArray) -> None:
        """Add rows `(n, n_vars)` below those that are there."""
        if x.shape[1] != self.n_vars:
            raise ValueError(f"{x.shape[1]} columns, not {self.n_vars}")
        if not isinstance(x, np.ndarray) and not x.has_canonical_format:
            x = x.copy()
            x.sum_duplicates()
        values = x.ravel() if isinstance(x, np.ndarray) else x.data
        level = next(i for i, kind in enumerate(_TYPES) if i >= self._level and _fits(values, kind))
        if level > self._level:
            self._widen(level)
        if isinstance(x, np.ndarray):
            lengths = np.full(len(x), self.n_vars, np.int64)
            records = values.astype(self._record)
        else:
            lengths = np.diff(x.indptr).astype(np.int64)
            records = np.empty(len(values), self._record)
            records["column"], records["value"] = x.indices, values
        self._write(self._file, records)
        self._ends.append(self._ends[-1][-1] + lengths.cumsum())

    def _widen(self, level: int) -> None:
        """Write what is there once more with larger values."""
        old, self._level = self._record, level
        wider = _temporary()
        for start in range(0, self.nnz, BLOCK_VALUES):
            stop = min(start + BLOCK_VALUES, self.nnz)
            read = self._read(np.array([start]), np.array([stop]), old)
            self._write(wider, read.astype(self._record))
        self._file.close()
        self._file = _closed_with(self, wider)

    def _write(self, file: BinaryIO, records: Any) -> None:
        try:
            file.write(records.tobytes())
            file.flush()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise EnvironmentProblem(
                "the disk for temporary files is full",
                file=tempfile.gettempdir(),
                found=f"{self.nbytes:,} bytes of one modality written so far",
                hint="set TMPDIR to a folder with more space, best on a local disk",
            ) from error

    def _read(self, starts: IntArray, stops: IntArray, record: np.dtype[Any]) -> Any:
        """Read stored values, each time from one number to another, one after the other."""
        file, size = self._file.fileno(), record.itemsize
        where = zip((starts * size).tolist(), (stops * size).tolist(), strict=True)
        parts = [os.pread(file, end - at, at) for at, end in where]
        raw = parts[0] if len(parts) == 1 else b"".join(parts)
        wanted = int((stops - starts).sum()) * size
        if len(raw) < wanted and len(parts) == 1 and raw:
            # a system reads two gigabytes at most
            got = len(raw) // size
            rest = self._read(starts + got, stops, record)
            return np.concatenate([np.frombuffer(raw[: got * size], record), rest])
        if len(raw) != wanted:
            raise OSError(f"{len(raw):,} bytes of packed values are there, not {wanted:,}")
        return np.frombuffer(raw, record)

    def __getitem__(self, rows: IntArray | slice) -> CSR | FloatArray:
        """Read rows by number, in the order given, as `(n, n_vars)` float32."""
        bounds = self._bounds
        rows = np.arange(self.shape[0])[rows] if isinstance(rows, slice) else rows
        starts, stops = bounds[rows], bounds[rows + 1]
        # rows that follow one another are one read
        ends = np.diff(rows, append=-1) != 1 if len(rows) else np.zeros(0, bool)
        values = self._read(starts[np.roll(ends, 1)], stops[ends], self._record)
        if self.dense:
            return cast("FloatArray", values.astype(np.float32).reshape(len(rows), self.n_vars))
        indptr = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(stops - starts, out=indptr[1:])
        parts = (values["value"].astype(np.float32), values["column"].astype(np.int32), indptr)
        x = sparse.csr_matrix(parts, shape=(len(rows), self.n_vars))
        x.has_sorted_indices = x.has_canonical_format = True
        return x

    def blocks(self) -> Iterator[CSR | FloatArray]:
        """Yield all rows in order, some at a time."""
        for start in range(0, self.shape[0], step := rows_at_a_time(self.nnz, self.shape[0])):
            yield self[start : start + step]

    def expect(self, rows: IntArray) -> None:
        """Let the system read rows ahead, where it does such a thing; `rows` in any order."""
        if not hasattr(os, "posix_fadvise") or not len(rows):
            return
        rows, size = np.sort(rows), self._record.itemsize
        cuts = [0, *(np.flatnonzero(np.diff(rows) > RUN) + 1).tolist(), len(rows)]
        starts, stops = self._bounds[rows] * size, self._bounds[rows + 1] * size
        for a, b in pairwise(cuts):
            start, stop = int(starts[a]), int(stops[b - 1])
            os.posix_fadvise(self._file.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)


class MappedRows:
    """A matrix on disk whose rows go through a function when they are read.

    Args:
        function: From some rows to as many, each by itself.
        n_vars: Number of columns that it gives.
    """

    def __init__(
        self, rows: OnDisk, function: Callable[[Any], Any], n_vars: int, *, dense: bool = False
    ) -> None:
        self.rows, self.function, self.n_vars, self.dense = rows, function, n_vars, dense

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.rows.shape[0], self.n_vars

    def __getitem__(self, rows: IntArray | slice) -> Any:
        """Return rows by number."""
        return self.function(self.rows[rows])

    def blocks(self) -> Iterator[Any]:
        """Yield all rows in order, some at a time."""
        return map(self.function, self.rows.blocks())

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return sum(int(block.nnz) for block in self.blocks())

    def packed(self) -> PackedRows:
        """Write what the function gives."""
        rows = PackedRows(self.shape[1], dense=self.dense)
        for block in self.blocks():
            rows.append(block)
        return rows


OnDisk: TypeAlias = PackedRows | MappedRows


def on_disk(x: object) -> bool:
    """Whether a matrix lies on disk."""
    return isinstance(x, OnDisk)


def is_dense(x: Any) -> bool:
    """Whether rows of a matrix, in memory or on disk, are dense."""
    return isinstance(x, np.ndarray) or (on_disk(x) and x.dense)


def blocks_of(x: Any) -> Iterator[Any]:
    """Yield a matrix in blocks of rows: in one, where it is in memory."""
    return x.blocks() if on_disk(x) else iter([x])


def some_rows(x: Any, most: int, *, seed: int) -> Any:
    """Return at most so many rows in memory, drawn where there are more; fewer if full and on disk.

    So what is fitted to them is bounded as well.
    """
    n = x.shape[0]
    if on_disk(x):
        source = x
        while isinstance(source, MappedRows):
            source = source.rows
        most = min(most, BLOCKS_TO_FIT * rows_at_a_time(source.nnz, n))
    if n <= most:
        return x[:] if on_disk(x) else x
    return x[np.sort(np.random.default_rng(seed).choice(n, most, replace=False))]


def rows_at_a_time(n_values: int, n_rows: int) -> int:
    """Return how many rows of a matrix hold as many values as are held at a time."""
    return max(1, BLOCK_VALUES * n_rows // max(n_values, 1)) if n_rows else 1


def _fits(values: Any, kind: type[Any]) -> bool:
    if kind is np.float32 or not len(values):
        return True
    return bool(
        values.min() >= 0 and values.max() <= np.iinfo(kind).max and (values == np.rint(values)).all()
    )


def _closed_with(owner: object, file: BinaryIO) -> BinaryIO:
    weakref.finalize(owner, file.close)
    return file


def _temporary() -> BinaryIO:
    try:
        return cast("BinaryIO", tempfile.TemporaryFile(prefix="mocli-"))
    except OSError as error:
        raise EnvironmentProblem(
            "the folder for temporary files cannot be written to",
            file=os.environ.get("TMPDIR", "/tmp"),
            found=str(error),
            hint="set TMPDIR to a folder on a local disk",
        ) from error
