"""The output file: check that it may be written, never leave half of one; tables as TSV.

HDF5 does not survive a write that fails. Its caches, written as objects are freed, fail again; h5py can only
print such errors, the file stays open, and the process crashes at its end. So HDF5 is never told: `_Stream`
keeps the error, pretends to write, and the error is raised between HDF5's calls.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from mocli.errors import ENDING, EnvironmentProblem, UsageError, did_you_mean
from mocli.leftovers import temporary_beside

LONGEST_NAME = 255
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`, renamed to it on success and removed on failure.

    Raises `EnvironmentProblem`: the folder is absent or not writable, or the disk is full.
    """
    temporary = _create_beside(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)) and _is_full(error):
            raise EnvironmentProblem(
                "the disk is full",
                file=path,
                found=str(error).splitlines()[0][:200],
                hint="free space, or write elsewhere",
            ) from error
        raise


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`, removed at the end: a step on the way to an output."""
    temporary = _create_beside(path)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Check before the work that `path` can be written after it.

    Raises:
        UsageError: It exists and `force` is not given; it is an input; what `check_place` refuses.
        EnvironmentProblem: Its folder is absent or not writable.
    """
    refuse_input(path, inputs)
    check_place(path)
    if path.exists() and not force:
        raise UsageError(
            "the output exists", file=path, hint="choose another name, or overwrite it with --force"
        )
    _create_beside(path).unlink()


def check_place(path: Path, *, folder: bool = False) -> None:
    """Make sure that a file, or a folder, of this name can be written: for every output before the work.

    Raises `UsageError`: the name is too long or not UTF-8; a symbolic link or something other than a plain
    file, or folder, stands there. Links are not followed, so nothing is written elsewhere than the name says.
    """
    try:
        length = len(path.name.encode())
    except UnicodeEncodeError:
        raise UsageError(
            "the name of the output is not UTF-8",
            file=path,
            found=repr(path.name),
            hint="choose another name",
        ) from None
    if length > LONGEST_NAME:
        raise UsageError(
            "the name of the output is too long",
            file=path,
            found=f"{length} bytes",
            expected=f"at most {LONGEST_NAME} with its ending",
        )
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):  # nothing there; why it cannot be is for who tries to write
        return
    wanted = stat.S_ISDIR if folder else stat.S_ISREG
    if not wanted(mode):
        kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file"}
        found = kinds.get(stat.S_IFMT(mode), "a pipe, socket or device")
        raise UsageError(
            f"the output is {found}",
            file=path,
            expected="a folder" if folder else "a file name, such as out.h5mu",
            hint="name what it points to" if stat.S_ISLNK(mode) else "choose another name",
        )


def is_pipe(path: Path) -> bool:
    """Say whether the path is a pipe, socket or device, which is written to directly; links are followed."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_input(path: Path, inputs: Iterable[Path]) -> None:
    """Raise `UsageError` if the output is one of the inputs."""
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise UsageError(
                "the output is also an input",
                file=path,
                hint="inputs are never changed: choose another output",
            )


def _create_beside(path: Path) -> Path:
    """Create an empty temporary file in the folder of `path`, with the user's own permissions."""
    folder = path.parent
    # a name of its own rather than tempfile's, whose files nobody else may read
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb"):
            return temporary
    except (OSError, ValueError) as error:
        folders = (
            sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        )
        if not folder.is_dir():
            message, found = "the output's folder is not there", f"no folder {folder}"
            close = did_you_mean(folder.name, folders, "folders beside it") + ", or m" if folders else "m"
            hint = f"{close}ake it: mkdir -p {shlex.quote(str(folder))}"
        else:
            message, found, hint = "the output's folder cannot be written to", str(error), "write elsewhere"
        raise EnvironmentProblem(message, file=path, found=found, hint=hint) from error


def _is_full(error: Exception) -> bool:
    return (
        getattr(error, "errno", None) in _FULL
        or "No space left" in str(error)
        or "quota exceeded" in str(error)
    )


def _sync(path: Path) -> None:
    """Have the system write a file, or a folder's entries, to disk."""
    with suppress(OSError):  # some network file systems do not sync folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def writing_h5(path: Path, mode: str, **options: Any) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Open an existing file for writing: `w` empties it, `r+` changes it.

    Yields:
        The file, and a function to be called now and then: it raises errors of the disk and signals that came
        since. At the end they are raised in any case.

    Raises:
        OSError: The disk is full, or fails; the file is closed then, and half written.
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
        """Raise the first failure, and deliver the signals held back."""
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
        for name in ENDING:
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


_FORMULA = ("=", "+", "-", "@")


def write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Write a table, numbers with 6 significant digits, undefined ones as NA; atomic.

    A name that a spreadsheet would take for a formula (`=`, `+`, `-` or `@` before more than a sign or a
    number) gets an apostrophe before it, as spreadsheets write such text themselves.
    """
    names = table.select_dtypes(include=["object", "string", "category"]).columns
    table = table.assign(**{str(c): table[c].astype(object).map(inert) for c in names}).rename(columns=inert)
    with atomic(path) as temporary:
        table.to_csv(
            temporary,
            sep="\t",
            index=False,
            float_format="%.6g",
            na_rep="NA",
            lineterminator="\n",
            encoding="utf-8",
        )


def inert(value: Any) -> Any:
    """Return text in a form that no spreadsheet computes; other values are returned unchanged."""
    if not isinstance(value, str) or len(value) < 2 or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
