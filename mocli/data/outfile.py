"""An HDF5 file being written, which can be closed even when the disk is full."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import h5py

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def writing_h5(path: Path, mode: str, **options: Any) -> Iterator[h5py.File]:
    """Open a file for writing; on failure close it without writing what HDF5 still holds.

    HDF5 writes its caches when a file is closed. On a full disk that fails too,
    the file stays open, and the process crashes where HDF5 tries again at its
    end: a failed file is therefore closed onto the null device.
    """
    h5 = h5py.File(path, mode, locking="best-effort", **options)
    try:
        yield h5
        h5.flush()
    except BaseException:
        with suppress(Exception):
            _divert(h5.id.get_vfd_handle())
        with suppress(OSError, RuntimeError):
            h5.close()
        raise
    h5.close()


def _divert(handle: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null, handle, inheritable=False)
    finally:
        os.close(null)
