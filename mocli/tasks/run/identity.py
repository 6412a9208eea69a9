"""What a result is made from: options in words, the contents of the files that are read, the version."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mocli import __version__
from mocli.data.files.inputs import sha256
from mocli.data.files.source import parse_source
from mocli.data.links.route import link_files
from mocli.options import Options, declared_in

Origin = dict[str, Any]
"""`words` of the options that shape the result, `files` with their hashes, `version`."""


def files_read(groups: Sequence[Options]) -> list[Path]:
    """Return every file that options name to be read, in their order; of a folder, the files in it."""
    return list(dict.fromkeys(path for group in groups for path in _files_of(group)))


def _files_of(group: Options) -> Iterator[Path]:
    for name, declared in declared_in(type(group)).items():
        value = getattr(group, name)
        if not value or "volatile" in declared.option.marks:
            continue
        if name == "inputs":
            yield from (parse_source(text).path for text in value)
        elif name == "links":
            yield from link_files(value)
        elif declared.base is Path:
            yield from sorted(value.glob("*")) if value.is_dir() else [value]


def origin_of(task: str, groups: Sequence[Options]) -> Origin:
    """Return what a result is made from; equal only where the same would be made again.

    Options that change nothing of a result (`volatile`) do not count; what is no file, such as a pipe, has
    no contents to compare, and its hash is None.
    """
    words = [task]
    for group in groups:
        declared = declared_in(type(group))
        words += group.words(without={n for n, d in declared.items() if "volatile" in d.option.marks})
    files = {str(path): sha256(path) if path.is_file() else None for path in files_read(groups)}
    return {"words": words, "files": files, "version": __version__}


def made_from(report: Path, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a run of this origin, ended well or not; None where there is none."""
    try:
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("made_from") == origin else None


def is_whole(report: Mapping[str, Any] | None, output: Path) -> bool:
    """Whether a run ended well and left its output as the report says, to the byte count."""
    if report is None or report["status"] != "ok" or None in report["made_from"]["files"].values():
        return False
    size = next((o["bytes"] for o in report["outputs"] if o["path"] == str(output)), None)
    return output.is_file() and output.stat().st_size == size
