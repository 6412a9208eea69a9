"""The file to be written: may it be, and never only half of it."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mocli.errors import EnvironmentProblem, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`, renamed to it on success and removed on failure.

    Raises
    ------
    EnvironmentProblem
        The folder is absent or not writable, or the disk is full.
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


def check_writable(path: Path, *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Find out before the work whether `path` can be written after it.

    Raises
    ------
    UsageError
        It exists and `force` is not given; it is a folder; it is an input.
    EnvironmentProblem
        Its folder is absent or not writable.
    """
    _refuse_input(path, inputs)
    if path.is_dir():
        raise UsageError("the output is a folder", file=path, expected="a file name, such as out.h5mu")
    if path.exists() and not force:
        raise UsageError(
            "the output exists", file=path, hint="choose another name, or overwrite it with --force"
        )
    _create_beside(path).unlink()


def _refuse_input(path: Path, inputs: Iterable[Path]) -> None:
    for given in inputs:
        if path.exists() and given.exists() and path.samefile(given):
            raise UsageError(
                "the output is also an input",
                file=path,
                hint="inputs are never changed: choose another output",
            )


def _create_beside(path: Path) -> Path:
    """Create an empty temporary file in the folder of `path`, with the user's own permissions."""
    folder = path.parent
    # a name of its own rather than tempfile's, whose files nobody else may read
    temporary = folder / f".{path.name[:200]}.{secrets.token_hex(6)}.tmp"
    try:
        with temporary.open("xb"):
            return temporary
    except (OSError, ValueError) as error:
        there = (
            sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        )
        if not folder.is_dir():
            message, found = "the output's folder is not there", f"no folder {folder}"
            hint = did_you_mean(folder.name, there, "folders beside it") + " (mkdir -p makes one)"
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
