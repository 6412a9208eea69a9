"""Keeps runs apart and results whole: locks, outputs of unfinished runs, inputs that stay the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mocli.errors import InputError, UsageError
from mocli.leftovers import left_beside
from mocli.tasks.run.paths import FILES, WEIGHTS

UNFINISHED = "unfinished.json"
"""File in the checkpoint folder that lists the outputs of a run with more work to do."""

Stamp = tuple[int, int, int]
"""Size, time of the last change in nanoseconds, and inode of a file."""


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs from writing the outputs that share a stem with this one.

    The system releases the lock when the process ends, however it ends; the file alone means nothing. Where
    the folder or the file system allows no lock, there is none.

    Raises:
        UsageError: Another run is writing them now.
    """
    path = output.with_name(f".{output.stem[:200]}.lock")
    try:
        handle = _lock(path)
    except BlockingIOError as error:
        raise UsageError(
            "another run is writing this output now",
            file=output,
            found=f"it holds a lock on {path.name}",
            hint="wait for it to end, or choose another output",
        ) from error
    try:
        yield
    finally:
        if handle is not None:
            # deleted while it is locked: who opened it meanwhile notices, and tries again
            if _is_at(handle, path):
                with suppress(OSError):
                    path.unlink()
            os.close(handle)


def _lock(path: Path) -> int | None:
    """Open a file and lock it; None where that is not possible, `BlockingIOError` where another has it."""
    try:
        import fcntl
    except ImportError:  # not on this system
        return None
    while True:
        try:
            handle = _opened(path)
        except OSError:  # the check of the folder says what is wrong with it
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise
            return None  # a file system without locks
        # a lock on a file that its holder has deleted meanwhile keeps nobody out
        if _is_at(handle, path):
            return handle
        os.close(handle)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except PermissionError:  # of another user in the same folder: to lock it, reading is enough
        return os.open(path, os.O_RDONLY)


def _is_at(handle: int, path: Path) -> bool:
    """Say whether an open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def stamp(path: Path) -> Stamp | None:
    """Return a stamp that changes when a file is written anew; None if there is no file."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns, about.st_ino


def check_unchanged(stamps: Mapping[Path, Stamp | None]) -> None:
    """Make sure that files are still those that were opened; `InputError` for one that is not."""
    for path, before in stamps.items():
        if before is not None and stamp(path) != before:
            raise InputError(
                "the input changed while the run was reading it",
                file=path,
                found=f"{stamp(path) or 'no file'} (size, time of change, inode)",
                expected=str(before),
                hint="repeat the command once the file no longer changes",
            )


def mark(folder: Path, paths: Iterable[Path]) -> None:
    """Note in the checkpoint folder that outputs are written, and that there is more to do."""
    folder.mkdir(parents=True, exist_ok=True)
    stamps = {str(p.absolute()): stamp(p / WEIGHTS if p.is_dir() else p) for p in paths}
    temporary = folder / f".{UNFINISHED}.tmp"
    temporary.write_text(json.dumps(stamps), encoding="utf-8")
    temporary.replace(folder / UNFINISHED)


def unfinished(folder: Path) -> frozenset[Path]:
    """Return the outputs of an unfinished run that are still as it left them, as absolute paths."""
    try:
        stamps = json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))
        stamp_of = {Path(p): tuple(s) for p, s in stamps.items() if s}
    except (OSError, ValueError, AttributeError, TypeError):
        return frozenset()
    return frozenset(p for p, s in stamp_of.items() if stamp(p / WEIGHTS if p.is_dir() else p) == s)


def clear_mark(folder: Path) -> None:
    """Remove the note of an unfinished run."""
    (folder / UNFINISHED).unlink(missing_ok=True)


def remove_leftovers(outputs: Sequence[Path]) -> list[Path]:
    """Delete half-written files of a run that was killed; call it only while holding the lock.

    They are recognised by their names, `.OUTPUT.<12 hexadecimal digits>.tmp`; a folder also by its
    contents.
    """
    removed = []
    for output in outputs:
        for path in left_beside(output):
            with suppress(OSError):
                if not path.is_dir():
                    path.unlink()
                elif {p.name for p in path.iterdir()} <= FILES:
                    shutil.rmtree(path)
                removed.append(path)
    return removed
