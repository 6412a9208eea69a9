"""The folder of one run: what it was made from, and whether what lies in it is still that."""

from __future__ import annotations

import json
import shutil
from functools import cache
from typing import TYPE_CHECKING, Any

from mocli.data.files.inputs import sha256
from mocli.errors import UsageError
from mocli.report.file import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FINGERPRINT = "fingerprint.json"


def is_of(folder: Path, fingerprint: Mapping[str, Any]) -> bool:
    """Whether the folder was begun with this fingerprint."""
    try:
        kept = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(kept == fingerprint)


def begin(folder: Path, fingerprint: Mapping[str, Any], results: Iterable[str]) -> None:
    """Make the folder, without what an earlier run of other words left in it; keep its checkpoint.

    Parameters
    ----------
    results
        Names of files by which the run would be taken for finished.

    Raises
    ------
    UsageError
        The folder holds files that no benchmark made.
    """
    if folder.exists() and not is_of(folder, fingerprint):
        # only what a benchmark made: the fingerprint says so
        if (folder / FINGERPRINT).exists():
            shutil.rmtree(folder)
        elif any(folder.iterdir()):
            raise UsageError(
                "the folder of a run holds other files",
                file=folder,
                hint="choose another output, or empty it",
            )
    folder.mkdir(parents=True, exist_ok=True)
    # a failure must not be scored by what an earlier run wrote
    for name in results:
        (folder / name).unlink(missing_ok=True)
    write_text(folder / FINGERPRINT, json.dumps(fingerprint, indent=1, sort_keys=True) + "\n")


@cache
def _hash_of(path: Path, _size: int, _changed: int) -> str:
    return sha256(path)


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, computed once while it does not change; `none` where there is none."""
    if not path.is_file():
        return "none"
    known = path.stat()
    return _hash_of(path.resolve(), known.st_size, known.st_mtime_ns)
