"""Checks an HDF5 file before it is read: no part may lie in another file or make HDF5 crash."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache

import h5py

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
                found = f"the HDF5 filter {_FILTERS.get(code, f'number {code}')}"
                raise _Fault(_COMPRESSED, found, dataset.name) from error


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
