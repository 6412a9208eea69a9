"""An HDF5 file being written: a full disk or a signal ends it cleanly, never in a crash or a gap.

HDF5 does not survive a write that fails. Its caches, written as objects are
freed, fail again; h5py can only print such errors, the file stays open, and the
process crashes at its end. So HDF5 is never told: the stream below keeps the
error, pretends to write, and the error is raised between HDF5's calls.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from io import FileIO
from typing import TYPE_CHECKING, Any

import h5py

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def writing_h5(path: Path, mode: str, **options: Any) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Open an existing file for writing: `w` empties it, `r+` changes it.

    Yields
    ------
    The file, and a function to be called now and then: it raises what the disk
    or a signal had to say since. At the end that is raised in any case.

    Raises
    ------
    OSError
        The disk is full, or fails; the file is closed then, and half written.
    """
    with _Stream(path, "r+") as stream, _hold_signals(stream):
        try:
            with h5py.File(stream, mode, **options) as h5:
                yield h5, stream.check
        finally:
            stream.check()


class _Stream(FileIO):
    """A file that keeps its first failure, and from then on pretends to write."""

    failure: OSError | None = None

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self.held: list[Callable[[], object]] = []

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.failure is None:
                done += super().write(view[done:])
        except OSError as error:
            self.failure = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            if self.failure is None:
                return super().truncate(size)
        except OSError as error:
            self.failure = error
        return self.tell()

    def check(self) -> None:
        """Raise the first failure, and let signals do what they were held from."""
        while self.held:
            self.held.pop(0)()
        if self.failure is not None:
            raise self.failure


_CALLED_BY_HDF5 = frozenset({_Stream.write.__code__, _Stream.truncate.__code__})


@contextmanager
def _hold_signals(stream: _Stream) -> Iterator[None]:
    """Keep handlers of signals from raising inside HDF5, which might lose the exception and the data."""
    old: dict[int, Callable[[int, Any], object]] = {}

    def receive(signum: int, frame: Any) -> None:
        if frame is not None and frame.f_code in _CALLED_BY_HDF5:
            stream.held.append(lambda: old[signum](signum, None))
        else:
            old[signum](signum, frame)

    # handlers can be set in the main thread only, and run there only
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            signum = getattr(signal, name, None)
            handler = None if signum is None else signal.getsignal(signum)
            if signum is not None and callable(handler):
                old[signum] = handler
                signal.signal(signum, receive)
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
