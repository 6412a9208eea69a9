"""Names of files that are being written, by which what a killed run has left is known."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.tmp")
_LONG = 200  # bytes that leave room for what is added to a name


def temporary_beside(path: Path) -> Path:
    """Return a name that no user gives, and that tells what a killed run has left; see `left_beside`."""
    return path.with_name(f"{_start(path)}.{secrets.token_hex(6)}.tmp")


def left_beside(path: Path) -> list[Path]:
    """Return what stands beside a path under a name of `temporary_beside`."""
    if not path.parent.is_dir():
        return []
    start = _start(path)
    beside = [p for p in path.parent.iterdir() if p.name.startswith(start)]
    return [p for p in beside if _TEMPORARY.fullmatch(p.name[len(start) :])]


def _start(path: Path) -> str:
    name = path.name
    if len(os.fsencode(name)) > _LONG:  # of another output with the same first letters it differs
        name = f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
    return f".{name}"
