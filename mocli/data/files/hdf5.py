"""Open HDF5 files read-only, checked before anything is read; say in plain words why one cannot be read."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mocli.data.files.text import absent
from mocli.errors import InputError, MocliError
from mocli.types import StrArray

CPU_SECONDS = 15
"""Most time for checking a file: seconds of computing, not of waiting for a slow disk."""

DAMAGED = {
    "message": "the file is damaged",
    "expected": "a complete HDF5 file",
    "hint": "copy or download it again and compare sizes",
}
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


@lru_cache(maxsize=512)
def vetted(path: str, _identity: tuple[int, ...]) -> dict[str, str] | None:
    """Return why a file must not be read, as arguments of `InputError`; None if it may be.

    A child process looks through it, with a limit on its time: damaged blocks of some files make HDF5 loop
    for ever or crash, and neither can be ended from within. A file on which it does not report is refused.

    Raises `OSError`: what HDF5 says where it cannot open the file at all.
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
            os.write(writable, json.dumps(_answer(path)).encode()[:_ANSWER])
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
        found = "HDF5 does not finish reading it" if endless else "HDF5 crashes when it reads the file"
        return {**DAMAGED, "file": path, "found": found}
    try:
        reply = json.loads(answer)
    except ValueError:
        return {**DAMAGED, "file": path, "found": "the file cannot be checked"}
    if "closed" in reply:
        raise OSError(*reply["closed"])
    fault: dict[str, str] | None = reply["fault"]
    return fault and {**fault, "file": path}


def _answer(path: str) -> dict[str, object]:
    try:
        h5 = h5py.File(path, "r", locking="best-effort")
    except (OSError, RuntimeError) as error:
        return {"closed": error.args}
    try:
        _look_through(h5)
    except _Fault as fault:
        return {"fault": fault.words}
    return {"fault": None}


class _Fault(Exception):
    """The reason why a file must not be read, as arguments of `InputError`."""

    def __init__(self, words: dict[str, str], found: str, field: str | None) -> None:
        self.words = {**words, "found": found[:500], "field": (field or "an object without a name")[:500]}


def _look_through(h5: h5py.File) -> None:
    """Visit every object once.

    Raises `_Fault` at the first object that cannot or must not be read.
    """
    seen: set[int] = set()
    path: list[Iterator[h5py.HLObject]] = [iter([h5["/"]])]
    while path:
        node = next(path[-1], None)
        if node is None:
            path.pop()
            continue
        # what lies beneath, and where values are, comes before all that may be damaged
        if isinstance(node, h5py.Group):
            path.append(_beneath(node, seen))
        elif isinstance(node, h5py.Dataset):
            _check_place(node)
            _check_values(node)
        path.append(iter(_referred(node, seen)))


def _beneath(group: h5py.Group, seen: set[int]) -> Iterator[h5py.HLObject]:
    """Yield the targets of a group's links; links within the file lead to nothing new."""
    field: str = group.name
    try:
        for name in group.id:
            field = f"{group.name.rstrip('/')}/{name.decode(errors='replace')}"
            link = group.id.links.get_info(name)
            if link.type == h5py.h5l.TYPE_HARD:
                if link.u not in seen:
                    seen.add(link.u)
                    yield _opened(group, name, field)
            elif link.type == h5py.h5l.TYPE_SOFT:
                _check_end(group, name, field)
            else:
                target = _or_unknown(lambda key: group.id.links.get_val(key)[0].decode(), name)
                raise _Fault(_ELSEWHERE, f"a link to {target}", field)
    except _Fault:
        raise
    except Exception as error:
        raise _Fault(DAMAGED, f"links that HDF5 cannot list: {error}", field) from error


def _opened(group: h5py.Group, name: bytes, field: str) -> h5py.HLObject:
    """Open an object; one that cannot be opened would be copied, and be in the way of what is written."""
    try:
        return group[name]
    except Exception as error:
        raise _Fault(DAMAGED, f"an object that HDF5 cannot open: {error}", field) from error


def _check_end(group: h5py.Group, name: bytes, field: str) -> None:
    """Refuse a link that leads to itself, at which every reader and writer fails; one to nothing may stay."""
    try:
        group.get(name)
    except KeyError:
        pass
    except RuntimeError as error:
        raise _Fault(DAMAGED, f"a link that leads to itself: {error}", field) from error


def _check_place(dataset: h5py.Dataset) -> None:
    stored = dataset.id.get_create_plist()
    if stored.get_external_count():
        target = _or_unknown(lambda: dataset.external[0][0])
        raise _Fault(_ELSEWHERE, f"values stored in {target}", dataset.name)
    if stored.get_layout() == h5py.h5d.VIRTUAL:
        target = _or_unknown(lambda: dataset.virtual_sources()[0].file_name)
        raise _Fault(_ELSEWHERE, f"values of {target}", dataset.name)


def _check_values(dataset: h5py.Dataset) -> None:
    """Read the first and the last value; if that fails, name the missing filter."""
    try:
        if dataset.shape and dataset.size:
            dataset[(0,) * dataset.ndim], dataset[tuple(n - 1 for n in dataset.shape)]
    except Exception as error:
        # damaged values are told of by whoever needs them
        filters = dataset.id.get_create_plist()
        for k in range(filters.get_nfilters()):
            code = filters.get_filter(k)[0]
            if not h5py.h5z.filter_avail(code):
                name = f"the HDF5 filter {_FILTERS.get(code, f'number {code}')}"
                raise _Fault(_COMPRESSED, name, dataset.name) from error


def _referred(node: h5py.HLObject, seen: set[int]) -> list[h5py.HLObject]:
    """Open all attributes, and return the objects that they refer to: old files point so to categories."""
    names = ["categories"]  # which is there to be read even if a damaged attribute hides the list
    with suppress(Exception):
        names = list(node.attrs)
    objects = []
    for name in names:
        with suppress(Exception):
            value = node.attrs.get_id(name)
            if h5py.check_ref_dtype(value.dtype) is h5py.Reference:
                referred = node.file[node.attrs[name]]
                address = h5py.h5o.get_info(referred.id).addr
                if address not in seen:
                    seen.add(address)
                    objects.append(referred)
    return objects


def _or_unknown(name: Callable[..., str], *arguments: object) -> str:
    try:
        return name(*arguments)
    except Exception:  # noqa: BLE001 - what is refused anyway may be damaged, too
        return "a file whose name cannot be read"


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
    for signature, content, hint in _SIGNATURES:
        if head.startswith(signature):
            return content, hint
    if all(9 <= b < 127 for b in head):
        return "text", "convert tables to .h5ad with anndata.read_csv(...).write_h5ad(...)"
    return f"bytes {head[:8].hex(' ')}", "convert it to .h5ad with anndata"
