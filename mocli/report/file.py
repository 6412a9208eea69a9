"""Write a text file so that its final name never holds half of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mocli.errors import EnvironmentProblem


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a temporary neighbour, then rename it over `path`.

    A symbolic link keeps pointing where it did. Pipes and devices
    (`/dev/stdout`, `/dev/null`) are written directly: a rename would replace them.

    Raises
    ------
    EnvironmentProblem
        When the folder is absent or cannot be written.
    """
    # names of files that are not valid UTF-8 hold lone surrogates; `\udc80` is their JSON escape
    data = text.encode("utf-8", errors="backslashreplace")
    target = Path(path).resolve()
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except OSError as error:
        raise EnvironmentProblem(
            "cannot write the report",
            file=path,
            found=error.strerror or str(error),
            hint="choose a folder that exists and that you may write to",
        ) from error


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
