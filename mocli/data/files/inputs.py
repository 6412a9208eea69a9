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
    found: Sequence[tuple[Source, list[ModalityFile]]], *, kinds: Mapping[str, ModalityKind]
) -> list[ModalityFile]:
    """Return every modality once, its files joined where several hold it.

    Files are joined where the name is said, by the user (`rna=a.h5ad`) or by the
    files (the modalities of an h5mu, the feature types of a 10x file). Where a name
    was guessed from a file's name or content, a later one that collides is joined if it
    measures the same features of other cells (`is_more_of`), else it takes its file's stem.

    Raises
    ------
    UsageError
        No input; names that collide; one file given twice.
    InputError
        Files that cannot be joined; see `joined.join` and `cellnames.tell_apart`.
    """
    if not found:
        raise UsageError("no input", expected="at least one .h5ad, .h5mu or 10x .h5 file")
    named: dict[str, list[ModalityFile]] = {}
    said: dict[str, bool] = {}
    asked: set[str] = set()
    hints: dict[str, str] = {}
    for source, opened in found:
        for file in opened:
            name = _free_name(source, file, named, said)
            if name != file.name and file.kind is named[file.name][0].kind is not ModalityKind.OTHER:
                first = named[file.name][0].path
                hints[name] = (
                    f"{name}: a modality beside '{file.name}'; if it is {file.name} of other cells, say so: "
                    f"{file.name}={first} {file.name}={file.path}"
                )
            if source.name is not None:
                asked.add(name)
            said[name] = said.get(name, True) and is_said(source, file)
            named.setdefault(name, []).append(file)
    apart = tell_apart(named, order=[source.path for source, _ in found])
    files: list[ModalityFile] = []
    for name, held in apart.items():
        parts = [_without_hashtags(part) for part in held] if _is_prot(name, held, kinds) else held
        notes = (*(note for part in parts for note in part.notes), *([hints[name]] if name in hints else []))
        if len(parts) == 1:
            kind = kinds.get(name, parts[0].kind)
            files.append(replace(parts[0], name=name, kind=kind, notes=notes))
            continue
        one = join(name, parts, kind=kinds.get(name))
        if name not in asked and not any(isinstance(file, JoinedModality) for file in files):
            last = parts[-1]
            which = f"{last.path}" if last.format == "h5ad" else f"{last.path}::{last.name}"
            advice = f"to keep a file's {name} apart, name it: other={which}"
            notes = (*notes, f"files with the same modality are joined; {advice}")
        files.append(replace(one, notes=(*notes, *one.notes)))
    return spell_alike(files)


def _is_prot(name: str, parts: Sequence[ModalityFile], kinds: Mapping[str, ModalityKind]) -> bool:
    return kinds.get(name, parts[0].kind) is ModalityKind.PROT


def _without_hashtags(file: ModalityFile) -> ModalityFile:
    """Leave hashtags among antibodies out: neighbours would share the sample and not the type."""
    hashtags = np.array([is_hashtag(str(name)) for name in file.var.index], dtype=bool)
    if not hashtags.any() or hashtags.all():
        return file
    kept = np.flatnonzero(~hashtags)
    some = ", ".join(map(str, file.var.index[hashtags][:4]))
    line = (
        f"{file.name}: {int(hashtags.sum()):,} hashtags left out ({some}), which say the sample of a cell; "
        f"to keep them, say that these are no antibodies alone: --kind {file.name}=other"
    )
    columns = kept if file.columns is None else file.columns[kept]
    return replace(file, var=file.var.iloc[kept], columns=columns, raw=False, notes=(*file.notes, line))


def is_said(source: Source, file: ModalityFile) -> bool:
    """Whether a modality's name was given by somebody, not guessed."""
    return source.name is not None or file.format != "h5ad" or file.columns is not None


def is_more_of(file: ModalityFile, other: ModalityFile) -> bool:
    """Whether a file measures what another does, of other cells.

    They are of one known kind, have half of the smaller one's features by name in common, and fewer than
    half of the cells; running numbers name no cell.
    """
    if file.kind is not other.kind or file.kind is ModalityKind.OTHER:
        return False
    features, cells = (
        pd.Index(mine).isin(theirs).sum() / min(len(mine), len(theirs))
        for mine, theirs in (
            (pd.unique(file.var.index), pd.unique(other.var.index)),
            (file.obs.index.to_numpy(str), other.obs.index.to_numpy(str)),
        )
    )
    return bool(features >= LEAST_SHARED) and bool(cells < SURE or are_running_numbers(file.obs.index))


def _free_name(
    source: Source, file: ModalityFile, named: Mapping[str, Sequence[ModalityFile]], said: Mapping[str, bool]
) -> str:
    name = file.name
    if name not in named or (said[name] and is_said(source, file)):
        return name
    if source.name is None and all(is_more_of(file, other) for other in named[name]):
        return name
    other = named[name][0]
    if source.name is None and other.path.resolve() == file.path.resolve() and other.group == file.group:
        raise UsageError(f"'{name}' is given twice by the same file", file=file.path, hint="give it once")
    stem = source.path.stem
    if source.name is None and stem not in named:
        return stem
    taken = name if source.name is not None else stem
    path = source.text.rpartition("=")[2]
    raise UsageError(
        f"two inputs are called '{taken if taken in named else name}'",
        file=file.path,
        found=f"'{taken}' is also {named[taken][0].path}",
        hint=f"name one of them: other={path}; or both alike, to join them as one modality: "
        f"{name}={other.path} {name}={path}",
    )


def open_inputs(
    texts: Sequence[str], *, kinds: Mapping[str, ModalityKind] | None = None
) -> list[ModalityFile]:
    """Open every INPUT of the command line.

    Parameters
    ----------
    texts
        `file`, `file::modality`, `name=file` or `name=file::modality`.
    kinds
        What a modality measures, by name, where the guess should be overruled.

    Returns
    -------
    One `ModalityFile` a modality, in the order given, names unique. Where several
    files hold a modality by its name they are one: a `JoinedModality`, and cell
    names are made to differ between files.

    Raises
    ------
    UsageError
        No input, names that collide, a file given twice, or files of one name that
        measure different things.
    InputError
        A file that is absent, no HDF5, damaged, of another format, without
        the modality wanted, with repeated cell names, with fewer than two
        cells or no feature; files of one modality that share too few features.
    """
    found = [(source, open_source(source)) for source in map(parse_source, texts)]
    return gather(found, kinds=kinds or {})


def sha256(path: Path) -> str:
    """Hash a file without holding it in memory; once, while it stays as it is."""
    known = path.stat()
    return _hashed(path.resolve(), (known.st_size, known.st_mtime_ns, known.st_ino))


@cache
def _hashed(path: Path, _stamp: tuple[int, int, int]) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
