"""Open HDF5 files read-only, and say in plain words why one cannot be read."""

from __future__ import annotations

import errno
import importlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mocli.data.files.text import absent
from mocli.data.files.vet import DAMAGED, vetted
from mocli.errors import InputError, MocliError
from mocli.types import StrArray

_HELD = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", "decompress it first (gunzip)"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"%%MatrixMarket", "a Matrix Market text file", "convert it to .h5ad with anndata"),
    (b"RDX", "an R data file", "convert it to .h5ad"),
)
_ANY = "an .h5ad, .h5mu or 10x .h5 file"


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading, without a lock where the file system offers none.

    Raises `InputError`: the file is missing, a folder or a pipe, not HDF5, truncated, damaged, locked or not
    readable, or it takes its values from other files.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not path.is_dir():
            raise InputError(
                "the input is not a file that can be read twice",
                file=path,
                found="a pipe, a socket or a device",
                expected=_ANY,
                hint="save it as a file first",
            )
        if stat.S_ISREG(status.st_mode):
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")  # registers the filters it brings
            fault = vetted(str(path), (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
            if fault is not None:
                raise InputError(**fault)
        h5 = h5py.File(path, "r", locking="best-effort")
    except FileNotFoundError as error:
        raise absent(path, "the file", (".h5ad", ".h5mu", ".h5"), "data files") from error
    except (OSError, RuntimeError) as error:
        raise _unopenable(path, error) from error
    with h5:
        yield h5


@contextmanager
def reading(path: Path, field: str) -> Iterator[None]:
    """Turn whatever goes wrong while `field` is read into an `InputError` that names it."""
    try:
        yield
    except (MocliError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{field} cannot be read",
            file=path,
            field=field,
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200],
            hint="the file may be truncated, damaged or written by a newer anndata: open it with anndata and"
            " write it again",
        ) from error


def flat_keys(group: h5py.Group) -> list[str]:
    """Return the keys of a slot's elements, with `/` where HDF5 took a key for a path."""
    keys: list[str] = []
    for key in group:
        node = group.get(key)
        nested = isinstance(node, h5py.Group) and not len(node.attrs)
        keys += [f"{key}/{inner}" for inner in flat_keys(node)] if nested else [key]
    return keys


def text_attr(node: h5py.HLObject, key: str) -> str | None:
    """Return an attribute as text, None when it is not there."""
    value: Any = node.attrs.get(key)
    return None if value is None else value.decode() if isinstance(value, bytes) else str(value)


def strings(dataset: h5py.Dataset) -> StrArray:
    """Return a dataset of strings, of fixed or variable length, as an object array of `str`."""
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr()[()], dtype=object)
    return np.asarray([str(v) for v in dataset[()]], dtype=object)


def _unopenable(path: Path, error: Exception) -> InputError:
    number = getattr(error, "errno", None)
    if number == errno.ELOOP:
        return InputError("the path is a loop of symbolic links", file=path, hint="name the file itself")
    if path.is_dir():
        return InputError(
            "a folder was given, not a file",
            file=path,
            found="a zarr store" if path.suffix == ".zarr" else "a folder",
            expected=_ANY,
            hint="write it as .h5ad or .h5mu, or name the .h5 file inside",
        )
    if number in _FORBIDDEN:
        return InputError(
            "the file may not be read",
            file=path,
            found="permission denied",
            hint="ask its owner for permission to read it",
        )
    if number in _HELD or "unable to lock" in str(error):
        return InputError(
            "the file is locked",
            file=path,
            found="another program is writing it",
            hint="wait until it is done",
        )
    if h5py.is_hdf5(path):
        return InputError(
            "the file is truncated or damaged",
            file=path,
            found=str(error).splitlines()[0][:200],
            expected=DAMAGED["expected"],
            hint=DAMAGED["hint"],
        )
    found, hint = _what_it_is(path)
    return InputError("the file is not HDF5", file=path, found=found, expected=_ANY, hint=hint)


def _what_it_is(path: Path) -> tuple[str, str]:
    with path.open("rb") as stream:
        head = stream.read(64)
    if not head:
        return "an empty file", "write or download it again"
    for signature, found, hint in _SIGNATURES:
        if head.startswith(signature):
            return found, hint
    if all(9 <= b < 127 for b in head):
        return "text", "convert tables to .h5ad with anndata.read_csv(...).write_h5ad(...)"
    return f"bytes {head[:8].hex(' ')}", "convert it to .h5ad with anndata"
