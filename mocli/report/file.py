"""A run's values in a form that JSON knows, and text files that are never incomplete."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from pathlib import Path

import numpy as np

from mocli.errors import EnvironmentProblem
from mocli.leftovers import temporary_beside
from mocli.types import Json

# an indented array of nothing but numbers; strings cannot match, their newlines are escaped
_NUMBERS = re.compile(r"\[\n *(?:-?\d[\d.eE+-]*|null)(?:,\n *(?:-?\d[\d.eE+-]*|null))*\n *\]")


def plain(value: object) -> Json:
    """Return `value` as dict, list, str, int, float, bool or None.

    NaN and infinities become None, numpy scalars Python's, arrays and tuples
    lists, sets sorted lists, paths and enum members strings. A float32 keeps
    its own shortest digits (0.62, not 0.6200000047683716).

    Raises `TypeError` for anything else: a bug in the caller.
    """
    match value:
        case Enum():
            return plain(value.value)
        case None | bool() | int():
            return value
        case str():
            return str(value)
        case np.floating() if value.dtype.itemsize < 8:
            return float(str(value)) if np.isfinite(value) else None
        case float():
            return float(value) if math.isfinite(value) else None
        case np.generic():
            return plain(value.item())
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case np.ndarray():
            return [plain(item) for item in value] if value.ndim else plain(value[()])
        case AbstractSet():
            return [plain(item) for item in sorted(value, key=str)]
        case list() | tuple():
            return [plain(item) for item in value]
        case os.PathLike():
            return os.fsdecode(value)
    raise TypeError(f"a report cannot hold a {type(value).__name__}: {value!r}")


def dumps(value: object) -> str:
    """Return indented JSON with sorted keys; arrays of numbers stay on one line."""
    text = json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(_one_line, text) + "\n"


def _one_line(array: re.Match[str]) -> str:
    return "[" + ", ".join(re.findall(r"[^\s,\[\]]+", array[0])) + "]"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a temporary neighbour, then rename it over `path`.

    A symbolic link keeps pointing where it did. Pipes and devices
    (`/dev/stdout`, `/dev/null`) are written directly: a rename would replace them.

    Raises `EnvironmentProblem` when the folder is absent or cannot be written.
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
            hint="choose an existing folder that you may write to",
        ) from error


def _replace(target: Path, data: bytes) -> None:
    temporary = temporary_beside(target)
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
