"""What a result is made from: options as given, their defaults, the files read, the version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from mocli import __version__
from mocli.data.files.inputs import sha256
from mocli.data.files.source import parse_source
from mocli.data.links.route import link_files
from mocli.models.parameters import as_dict, resolve
from mocli.models.registry import available
from mocli.options import Options, declared_in, plain
from mocli.tasks.run.options import UNNAMED, TrainOptions

Origin = dict[str, Any]
"""`words` of the options that shape the result, hash of `defaults`, `files` with theirs, `version`."""

TRAINED = ("from_model", "reference")
"""Options that name a trained model, which keeps its own hyper-parameters."""


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
    """Return what a result is made from; equal only if the same result would be made again.

    Options that do not change a result (`volatile`) do not count; a pipe has no contents to compare, so its
    hash is None.
    """
    words = [task]
    for group in groups:
        declared = declared_in(type(group))
        words += group.words(without={n for n, d in declared.items() if "volatile" in d.option.marks})
    files = {str(path): contents_of(path) for path in files_read(groups)}
    defaults = hashlib.sha256(json.dumps(_defaults(groups), sort_keys=True).encode()).hexdigest()
    return {"words": words, "defaults": defaults, "files": files, "version": __version__}


def contents_of(path: Path) -> str | None:
    """Return the hash of a file; None if it is not a file or cannot be read."""
    try:
        return sha256(path) if path.is_file() else None
    except OSError:  # the run itself will say what is wrong with it
        return None


def _defaults(groups: Sequence[Options]) -> dict[str, Any]:
    """Return the defaults of options, and of the models that may be trained."""
    defaults = {
        name: plain(declared.default)
        for group in groups
        for name, declared in declared_in(type(group)).items()
        if "volatile" not in declared.option.marks and declared.default is not MISSING
    }
    if any(getattr(group, name, None) is not None for group in groups for name in TRAINED):
        return defaults
    for train in (group for group in groups if isinstance(group, TrainOptions)):
        models = [t for name, t in available().items() if train.model in (name, *UNNAMED)]
        defaults |= {f"model {t.name}": plain(as_dict(resolve(t, {}, train.preset))) for t in models}
    return defaults


def made_from(report: Path, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a run of this origin, ended well or not; None where there is none."""
    try:
        record: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("made_from") == origin else None


def is_whole(report: Mapping[str, Any] | None, output: Path) -> bool:
    """Say whether a run ended well and all its outputs have the sizes that the report gives."""
    if report is None or report["status"] != "ok" or None in report["made_from"]["files"].values():
        return False
    sizes = {o["path"]: o["bytes"] for o in report["outputs"]}
    return str(output) in sizes and all(_size(Path(path)) == size for path, size in sizes.items())


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or of those in a folder; None where there is neither."""
    files = list(path.iterdir()) if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files) if all(f.is_file() for f in files) else None
