"""Turn what a run collects into values that JSON knows."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mocli.types import Json

# an indented array of nothing but numbers; strings cannot match, their newlines are escaped
_NUMBERS = re.compile(r"\[\n *(?:-?\d[\d.eE+-]*|null)(?:,\n *(?:-?\d[\d.eE+-]*|null))*\n *\]")


def plain(value: object) -> Json:
    """Return `value` as dict, list, str, int, float, bool or None.

    NaN and infinities become None, numpy scalars Python's, arrays and tuples
    lists, sets sorted lists, paths and enum members strings. A float32 keeps
    its own shortest digits (0.62, not 0.6200000047683716).

    Raises
    ------
    TypeError
        For anything else: a bug in the caller.
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
