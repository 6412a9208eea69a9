"""Opening HDF5 files read-only, and saying in plain words why one cannot be read."""

from __future__ import annotations

import errno
import faulthandler
import importlib
import json
import os
import resource
import signal
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mocli.errors import InputError, MocliError, did_you_mean
from mocli.types import StrArray

_HELD = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", "decompress it first (gunzip)"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"%%MatrixMarket", "a Matrix Market text file", "convert it to .h5ad with anndata"),
    (b"RDX", "an R data file", "convert it to .h5ad"),
)
CPU_SECONDS = 30
"""Time that looking through a file may take: seconds of computing, not of waiting for a slow disk."""

_ELSEWHERE = {
    "message": "the file takes values from another file, which is not followed",
    "expected": "a file that holds its values itself",
    "hint": "open it where it was made, and write it again with anndata or mudata",
}
_COMPRESSED = {
    "message": "the file is compressed in a way that HDF5 does not know here",
    "expected": "gzip, lzf or no compression",
    "hint": "pip install hdf5plugin, which mocli then uses; or write the file again with compression='gzip'",
}
_FILTERS = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
_ANSWER = 60_000  # bytes, which a pipe takes at once
_ANY = "an .h5ad, .h5mu or 10x .h5 file"


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading, without a lock where the file system offers none.

    Raises
    ------
    InputError
        The file is absent, a folder or a pipe, not HDF5, truncated, damaged, locked or
        not readable, or takes what it holds from other files.
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
            fault = _vetted(str(path), (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
            if fault is not None:
                raise InputError(**fault)
        h5 = h5py.File(path, "r", locking="best-effort")
    except FileNotFoundError as error:
        raise _absent(path) from error
    except (OSError, RuntimeError) as error:
        raise _unopenable(path, error) from error
    with h5:
        yield h5


@lru_cache(maxsize=512)
def _vetted(path: str, _identity: tuple[int, ...]) -> dict[str, str] | None:
    """Return what forbids to read a file, in words of `InputError`, None where nothing does.

    A child process looks through it, with a limit on its time: damaged blocks of some files make HDF5 loop
    for ever or crash, and neither can be ended from within.
    """
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        # the child runs Python in one thread, and ends without returning
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
            os.write(writable, json.dumps(_look_through(path)).encode()[:_ANSWER])
        finally:
            os._exit(0)
    try:
        os.close(writable)
        with os.fdopen(readable, "rb") as stream:
            answer = stream.read()
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL if sys.exc_info()[0] else 0)
        status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        endless = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        return {
            "message": "the file is damaged",
            "file": path,
            "found": "HDF5 does not come to an end" if endless else "HDF5 crashes while it reads it",
            "expected": "a complete HDF5 file",
            "hint": "copy or download it again and compare sizes",
        }
    # where the child met an error of its own, the reader will meet it and say more
    fault: dict[str, str] | None = json.loads(answer) if answer else None
    return fault


def _look_through(path: str) -> dict[str, str] | None:
    """Visit every object once; say which cannot or must not be read."""
    with h5py.File(path, "r", locking="best-effort") as h5:
        groups: list[h5py.Group] = [h5["/"]]
        seen: set[int] = set()
        while groups:
            group = groups.pop()
            for name in group:
                fault = None
                try:
                    link = group.get(name, getlink=True)
                    if isinstance(link, h5py.ExternalLink):
                        fault = {**_ELSEWHERE, "found": f"a link to {link.filename}"}
                    elif isinstance(link, h5py.HardLink):
                        fault = _fault_of(group[name], groups, seen)
                except Exception:  # noqa: BLE001 - a damaged object is told of by whoever needs it
                    continue
                if fault is not None:
                    fault["found"] = fault["found"][:500]
                    return {**fault, "file": path, "field": f"{group.name.rstrip('/')}/{name}"[:500]}
    return None


def _fault_of(node: h5py.HLObject, groups: list[h5py.Group], seen: set[int]) -> dict[str, str] | None:
    """Return what forbids to read an object; of a dataset touch the ends, put a group on the list."""
    address = h5py.h5o.get_info(node.id).addr
    if address in seen:
        return None
    seen.add(address)
    for key in node.attrs:
        node.attrs.get_id(key)
    if isinstance(node, h5py.Group):
        groups.append(node)
    elif isinstance(node, h5py.Dataset):
        if node.external:
            return {**_ELSEWHERE, "found": f"values stored in {node.external[0][0]}"}
        if node.is_virtual:
            return {**_ELSEWHERE, "found": f"values of {node.virtual_sources()[0].file_name}"}
        if node.shape and node.size:
            try:
                node[(0,) * node.ndim], node[tuple(n - 1 for n in node.shape)]
            except OSError:
                filters = node.id.get_create_plist()
                for k in range(filters.get_nfilters()):
                    code = filters.get_filter(k)[0]
                    if not h5py.h5z.filter_avail(code):
                        name = _FILTERS.get(code, f"number {code}")
                        return {**_COMPRESSED, "found": f"the HDF5 filter {name}"}
                raise
    return None


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
    """Return keys of the elements of a slot; of a key with `/`, which HDF5 took for a path, the whole."""
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


def _absent(path: Path) -> InputError:
    if not path.parent.is_dir():
        return InputError(
            "the file does not exist",
            file=path,
            found=f"no folder {path.parent}",
            hint="paths are relative to the working folder",
        )
    try:
        there = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".h5ad", ".h5mu", ".h5"))
    except OSError:
        there = []
    return InputError(
        "the file does not exist", file=path, hint=did_you_mean(path.name, there, "data files in that folder")
    )


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
            hint="ask its owner for the right to read it",
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
            expected="a complete HDF5 file",
            hint="copy or download it again and compare sizes",
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
