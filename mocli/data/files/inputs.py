"""The inputs of the command line become modalities, each under one name, from one file or from several."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from mocli.data.files.cellnames import SURE, are_running_numbers, spell_alike, tell_apart
from mocli.data.files.container import open_source
from mocli.data.files.joined import LEAST_SHARED, JoinedModality, join
from mocli.data.files.kinds import is_hashtag
from mocli.data.files.modality import ModalityFile
from mocli.data.files.source import Source, parse_source
from mocli.errors import UsageError
from mocli.types import ModalityKind


def gather(
    sources: Sequence[tuple[Source, list[ModalityFile]]], *, kinds: Mapping[str, ModalityKind]
) -> list[ModalityFile]:
    """Return every modality once, its files joined where several hold it.

    Files are joined where the name is given, by the user (`rna=a.h5ad`) or by the files (the modalities of
    an h5mu, the feature types of a 10x file). Where a name was guessed from a file's name or content, a
    later one that collides is joined if it measures the same features of other cells (`is_more_of`), else
    it takes its file's stem.

    Raises:
        UsageError: No input; names that collide; one file given twice.
        InputError: Files that cannot be joined; see `joined.join` and `cellnames.tell_apart`.
    """
    if not sources:
        raise UsageError("no input", expected="at least one .h5ad, .h5mu or 10x .h5 file")
    named: dict[str, list[ModalityFile]] = {}
    all_named: dict[str, bool] = {}
    asked_names: set[str] = set()
    hints: dict[str, str] = {}
    for source, opened in sources:
        for file in opened:
            name = _free_name(source, file, named, all_named)
            if name != file.name and file.kind is named[file.name][0].kind is not ModalityKind.OTHER:
                first = named[file.name][0].path
                hints[name] = (
                    f"{name}: a modality beside '{file.name}'; if it holds {file.name} of other cells, "
                    f"write {file.name}={first} {file.name}={file.path}"
                )
            if source.name is not None:
                asked_names.add(name)
            all_named[name] = all_named.get(name, True) and is_said(source, file)
            named.setdefault(name, []).append(file)
    by_modality = tell_apart(named, order=[source.path for source, _ in sources])
    files: list[ModalityFile] = []
    for name, files_of_one in by_modality.items():
        parts = (
            [_without_hashtags(part) for part in files_of_one]
            if kinds.get(name, files_of_one[0].kind) is ModalityKind.PROT
            else files_of_one
        )
        notes = (*(note for part in parts for note in part.notes), *([hints[name]] if name in hints else []))
        if len(parts) == 1:
            kind = kinds.get(name, parts[0].kind)
            files.append(replace(parts[0], name=name, kind=kind, notes=notes))
            continue
        one = join(name, parts, kind=kinds.get(name))
        if name not in asked_names and not any(isinstance(file, JoinedModality) for file in files):
            last = parts[-1]
            spelling = f"{last.path}" if last.format == "h5ad" else f"{last.path}::{last.name}"
            advice = f"to keep a file's {name} separate, name it: other={spelling}"
            notes = (*notes, f"files with the same modality are joined; {advice}")
        files.append(replace(one, notes=(*notes, *one.notes)))
    return spell_alike(files)


def _without_hashtags(file: ModalityFile) -> ModalityFile:
    """Leave out hashtags among antibodies: they would make neighbours of cells of one sample, not type."""
    hashtags = np.array([is_hashtag(str(name)) for name in file.var.index], dtype=bool)
    if not hashtags.any() or hashtags.all():
        return file
    others = np.flatnonzero(~hashtags)
    some = ", ".join(map(str, file.var.index[hashtags][:4]))
    line = (
        f"{file.name}: {int(hashtags.sum()):,} hashtags left out ({some}), which mark the sample of a cell; "
        f"to keep them, give --kind {file.name}=other"
    )
    columns = others if file.columns is None else file.columns[others]
    return replace(file, var=file.var.iloc[others], columns=columns, raw=False, notes=(*file.notes, line))


def is_said(source: Source, file: ModalityFile) -> bool:
    """Say whether a modality's name was given, by the user or the file, and not guessed."""
    return source.name is not None or file.format != "h5ad" or file.columns is not None


def is_more_of(file: ModalityFile, other: ModalityFile) -> bool:
    """Say whether a file measures the same as another, in other cells.

    They are of one known kind, have half of the smaller one's features by name in common, and fewer than
    half of the cells; running numbers do not count as names.
    """
    if file.kind is not other.kind or file.kind is ModalityKind.OTHER:
        return False
    features, cells = (
        pd.Index(ours).isin(others).sum() / min(len(ours), len(others))
        for ours, others in (
            (pd.unique(file.var.index), pd.unique(other.var.index)),
            (file.obs.index.to_numpy(str), other.obs.index.to_numpy(str)),
        )
    )
    return bool(features >= LEAST_SHARED) and bool(cells < SURE or are_running_numbers(file.obs.index))


def _free_name(
    source: Source,
    file: ModalityFile,
    named: Mapping[str, Sequence[ModalityFile]],
    all_named: Mapping[str, bool],
) -> str:
    name = file.name
    if name not in named or (all_named[name] and is_said(source, file)):
        return name
    if source.name is None and all(is_more_of(file, other) for other in named[name]):
        return name
    other = named[name][0]
    if source.name is None and other.path.resolve() == file.path.resolve() and other.group == file.group:
        raise UsageError(f"'{name}' is given twice by the same file", file=file.path, hint="give it once")
    stem = source.path.stem
    if source.name is None and stem not in named:
        return stem
    name_tried = name if source.name is not None else stem
    path = source.text.rpartition("=")[2]
    raise UsageError(
        f"two inputs are called '{name_tried if name_tried in named else name}'",
        file=file.path,
        found=f"'{name_tried}' is also {named[name_tried][0].path}",
        hint=f"name one of them: other={path}; or name both alike to join them as one modality: "
        f"{name}={other.path} {name}={path}",
    )


def open_inputs(
    texts: Sequence[str], *, kinds: Mapping[str, ModalityKind] | None = None
) -> list[ModalityFile]:
    """Open every INPUT of the command line.

    Args:
        texts: `file`, `file::modality`, `file::obsm:key`, or one of them behind `name=`.
        kinds: What a modality measures, by name, where the guess should be overruled.

    Returns:
        One `ModalityFile` a modality, in the order given, names unique. Where several files hold a modality
        by its name they are one: a `JoinedModality`, and cell names are made to differ between files.

    Raises:
        UsageError: No input, names that collide, a file given twice, or files of one name that measure
            different things.
        InputError: A file is missing, not HDF5, damaged, of another format, without the modality wanted, with
            repeated cell names, with fewer than two cells or without features; or files of one modality share
            too few features.
    """
    opened = [(source, open_source(source)) for source in map(parse_source, texts)]
    return gather(opened, kinds=kinds or {})


def sha256(path: Path) -> str:
    """Hash a file without loading it into memory; only once while it does not change."""
    stat = path.stat()
    return _hashed(path.resolve(), (stat.st_size, stat.st_mtime_ns, stat.st_ino))


@cache
def _hashed(path: Path, _stamp: tuple[int, int, int]) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
