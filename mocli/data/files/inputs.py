"""The inputs of the command line become modalities, each under one name, with one name for each cell.

Barcodes recur between experiments. Two files that hold the same modality hold
different cells, whatever their names; two files of different modalities may hold
the same cells under the same names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from mocli.data.files.container import open_source
from mocli.data.files.joined import LEAST_SHARED, JoinedModality, join
from mocli.data.files.kinds import is_hashtag
from mocli.data.files.modality import ModalityFile
from mocli.data.files.source import Source, parse_source
from mocli.errors import InputError, UsageError
from mocli.types import ModalityKind

INPUT_KEY = "input"
"""Column of obs that says which input a cell is of; `mocli_input` where a file has it already."""

CHANCE = 0.05
"""If two files share fewer names than this share of the smaller file's cells, that is chance."""

SURE = 0.5
"""The same, used where the lower bound would merge two experiments."""


AGREE = 0.9
"""Share of the smaller file's cells that must agree, once names are written alike, to be the same cells."""

_BARCODE = re.compile(r"[ACGT]{10,}")
_AS_IT_IS = "as it is"
_SPELLINGS: dict[str, Callable[[str], str]] = {
    _AS_IT_IS: str,
    "with its separators made alike": lambda name: re.sub(r"[^0-9A-Za-z]+", "-", name),
    "without its last ending": lambda name: re.sub(r"[-_.]\d{1,3}$", "", name),
    "without its endings": lambda name: re.sub(r"([-_.]\d{1,3})+$", "", name),
    "without what stands before the barcode": lambda name: (
        name[m.start() :] if (m := _BARCODE.search(name)) else name
    ),
    "by its barcode alone": lambda name: m[0] if (m := _BARCODE.search(name)) else name,
}


@dataclass(frozen=True, eq=False)
class _Input:
    """What matters of a file here: its cell names and the modalities it holds."""

    path: Path
    label: str
    cells: pd.Index
    modalities: frozenset[str]

    def excludes(self, other: _Input) -> bool:
        """Say whether the cells must differ, because both files hold the same modality."""
        return bool(self.modalities & other.modalities)

    def share(self, other: _Input) -> float:
        common = int(self.cells.isin(other.cells).sum())
        return common / min(len(self.cells), len(other.cells))


def tell_apart(
    files: Mapping[str, Sequence[ModalityFile]], *, order: Sequence[Path]
) -> dict[str, list[ModalityFile]]:
    """Name cells so that equal names mean equal cells, and add to obs which input each comes from.

    Files of which some hold the same modality are sorted into experiments: two
    files of different modalities belong together where they share cell names.
    If a name occurs in two experiments, all names get their experiment's name as
    a suffix, the same in every modality.

    Args:
        files: By modality, those that hold it.
        order: The files as given.

    Returns:
        The same with obs changed; as they were if no modality is in several files.

    Raises:
        InputError: Names recur between files that hold the same modality, and a third file has them as well,
            so that it is ambiguous which cells these are.
    """
    if all(len(parts) == 1 for parts in files.values()):
        return {name: list(parts) for name, parts in files.items()}
    inputs = _inputs(files, order)
    experiments = _experiments(inputs)
    labels = {k: inputs[k].label for k in dict.fromkeys(experiments)}
    recurring = _recurring(inputs, experiments)
    suffix = {
        one.path: f"-{labels[k]}" if recurring else "" for k, one in zip(experiments, inputs, strict=True)
    }
    key = INPUT_KEY
    if any(INPUT_KEY in file.obs for parts in files.values() for file in parts):
        key = f"mocli_{INPUT_KEY}"
    named = [(one.cells + suffix[one.path], k) for k, one in enumerate(inputs)]
    every = pd.concat([pd.Series(k, index=cells) for cells, k in named])
    origin = every[~every.index.duplicated()]
    levels = [one.label for one in inputs]
    changed = {}
    for name, parts in files.items():
        changed[name] = [_changed(file, suffix[file.path.resolve()], key, origin, levels) for file in parts]
    first = next(iter(changed))
    changed[first][0] = replace(
        changed[first][0], notes=tuple(_notes(inputs, experiments, labels, recurring, key))
    )
    return changed


def are_running_numbers(names: pd.Index) -> bool:
    """Say whether cell names are merely running numbers, perhaps with gaps, as in data without names."""
    text = names.astype(str)
    if not len(text) or not text.str.fullmatch(r"0|[1-9]\d{0,8}").all():
        return False
    numbers = text.to_numpy(dtype=np.int64)
    return bool(np.all(np.diff(numbers) > 0)) and int(numbers[-1]) < 20 * len(numbers) + 100


def spell_alike(files: Sequence[ModalityFile]) -> list[ModalityFile]:
    """Give cells of separate files one name where their names differ in spelling alone.

    Tools add endings (`-1`, `-1_1`), sample prefixes, or write `.` for `-`. Where two files share hardly a
    name, but nearly all cells once such marks are off, each such name on one cell only, the later file's
    cells take the names of the earlier. Where fewer agree nothing is changed; either is noted.
    """
    named: list[ModalityFile] = []
    for file in files:
        renamed = file
        for other in named:
            if file.input_key is not None or file.path == other.path:
                continue
            renamed = _spelled_as(renamed, other)
            if renamed.obs is not file.obs:
                break
        named.append(renamed)
    return named


def _spelled_as(file: ModalityFile, other: ModalityFile) -> ModalityFile:
    names, wanted = (pd.Index(f.obs.index.astype(str)) for f in (file, other))
    smaller = min(len(names), len(wanted))
    if names.isin(wanted).sum() >= CHANCE * smaller or are_running_numbers(names):
        return file
    spelled, wanted_as = (
        {how: pd.Index([spell(name) for name in index]) for how, spell in _SPELLINGS.items()}
        for index in (names, wanted)
    )
    n, how, how_other = max(
        (
            (int(a.isin(b).sum()), how, how_other)
            for how, a in spelled.items()
            for how_other, b in wanted_as.items()
            if a.is_unique and b.is_unique and not are_running_numbers(a)
        ),
        key=lambda overlap: overlap[0],
        default=(0, "", ""),
    )
    if n < CHANCE * smaller:
        return file
    places = wanted_as[how_other].get_indexer(spelled[how])
    k = int(np.flatnonzero(places >= 0)[0])
    pair = ((names[k], how), (wanted[places[k]], how_other))
    changes = " and ".join(f"'{name}' {spelling}" for name, spelling in pair if spelling != _AS_IT_IS)
    line = f"{n:,} of {smaller:,} cells of {file.name} and {other.name} agree in name, read {changes}: "
    if n < AGREE * smaller:
        line += "too few to count as the same cells; if they are, write the names alike"
        return replace(file, notes=(*file.notes, line))
    obs = file.obs.copy()
    alike = np.where(places >= 0, wanted.to_numpy(object)[places], names.to_numpy(object))
    obs.index = pd.Index(alike, name=obs.index.name)
    if not obs.index.is_unique:
        return file
    line += f"they count as the same cells, named as in {other.name}; if not, add --pairing unpaired"
    return replace(file, obs=obs, renamed=True, notes=(*file.notes, line))


def _changed(
    file: ModalityFile, suffix: str, key: str, origin: pd.Series, levels: Sequence[str]
) -> ModalityFile:
    obs = file.obs.copy()
    obs.index = pd.Index(obs.index.astype(str) + suffix, name=obs.index.name)
    codes = origin.reindex(obs.index).to_numpy()
    obs[key] = pd.Categorical.from_codes(codes, levels)
    return replace(file, obs=obs, input_key=key)


def _inputs(files: Mapping[str, Sequence[ModalityFile]], order: Sequence[Path]) -> list[_Input]:
    by_path: dict[Path, list[tuple[str, ModalityFile]]] = {path.resolve(): [] for path in order}
    for name, parts in files.items():
        for file in parts:
            by_path[file.path.resolve()].append((name, file))
    labels = _labels(list(by_path))
    return [
        _Input(
            path=path,
            label=label,
            cells=pd.Index(
                pd.unique(np.concatenate([f.obs.index.to_numpy(object) for _, f in files_of_path]))
            ),
            modalities=frozenset(name for name, _ in files_of_path),
        )
        for label, (path, files_of_path) in zip(labels, by_path.items(), strict=True)
    ]


def _labels(paths: Sequence[Path]) -> list[str]:
    """Short names that differ: the stems, else the nearest folders whose names differ."""
    longest = max(len(path.parts) for path in paths)
    for depth in range(longest):
        names = [p.stem if depth == 0 else p.parts[-1 - depth] if depth < len(p.parts) else "" for p in paths]
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"{path.stem}{k}" for k, path in enumerate(paths, 1)]


def _experiments(inputs: Sequence[_Input]) -> list[int]:
    """Experiment of each input, numbered by its first input."""
    groups = _groups(inputs, CHANCE)
    if _clash(inputs, groups) is None:
        return groups
    groups = _groups(inputs, SURE)
    clash = _clash(inputs, groups)
    if clash is None:
        return groups
    a, b, name = clash
    raise InputError(
        f"it is ambiguous which cell '{name}' is: two files of one modality have it, and so has a third",
        file=f"{a.path}, {b.path}",
        field="obs_names",
        found=f"{int(a.cells.isin(b.cells).sum()):,} names that both have",
        expected="different names for different cells",
        hint="make obs_names unique in each file, such as sample and barcode, or put the modalities "
        "of each experiment into one h5mu",
    )


def _groups(inputs: Sequence[_Input], least: float) -> list[int]:
    """Group files of different modalities that share at least this many names."""
    groups = list(range(len(inputs)))
    for i, j in combinations(range(len(inputs)), 2):
        if not inputs[i].excludes(inputs[j]) and inputs[i].share(inputs[j]) >= least:
            old, new = max(groups[i], groups[j]), min(groups[i], groups[j])
            groups = [new if group == old else group for group in groups]
    return groups


def _clash(inputs: Sequence[_Input], groups: Sequence[int]) -> tuple[_Input, _Input, str] | None:
    """Two inputs of one experiment whose cells differ but share a name."""
    for i, j in combinations(range(len(inputs)), 2):
        if groups[i] == groups[j] and inputs[i].excludes(inputs[j]):
            common = inputs[i].cells[inputs[i].cells.isin(inputs[j].cells)]
            if len(common):
                return inputs[i], inputs[j], str(common[0])
    return None


def _recurring(inputs: Sequence[_Input], experiments: Sequence[int]) -> list[str]:
    """Names that occur in two experiments."""
    seen = pd.Index([], dtype=object)
    names: list[str] = []
    for k in dict.fromkeys(experiments):
        same_experiment = [one.cells for one, group in zip(inputs, experiments, strict=True) if group == k]
        distinct = pd.Index(pd.unique(np.concatenate([cells.to_numpy(object) for cells in same_experiment])))
        names.extend(map(str, distinct[distinct.isin(seen)]))
        seen = seen.append(distinct)
    return list(dict.fromkeys(names))


def _notes(
    inputs: Sequence[_Input],
    experiments: Sequence[int],
    labels: Mapping[int, str],
    recurring: Sequence[str],
    key: str,
) -> list[str]:
    notes = []
    if recurring:
        suffixes = []
        for k, label in labels.items():
            file_names = [one.path.name for one, group in zip(inputs, experiments, strict=True) if group == k]
            suffixes.append(f"-{label}" + (f" ({' and '.join(file_names)})" if len(file_names) > 1 else ""))
        notes.append(
            f"{len(recurring):,} cell names recur in files that hold different cells, such as "
            f"'{recurring[0]}': every name gets a suffix, {', '.join(suffixes)}"
        )
    for one, other in combinations(inputs, 2):
        if one.excludes(other) and one.share(other) >= SURE:
            notes.append(
                f"{one.label} and {other.label} share most of their cell names: if these are the same "
                f"cells, take from one file only what the other lacks ({other.path.name}::MODALITY)"
            )
    of_files = "" if key == INPUT_KEY else f"; obs['{INPUT_KEY}'] is the files' own"
    notes.append(
        f"obs['{key}'] says which input a cell is of: {', '.join(one.label for one in inputs)}{of_files}"
    )
    return notes


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
    sources = list(map(parse_source, texts))
    opened = []
    for source in sources:
        others = [s.modality or "" for s in sources if s.path == source.path]
        used = [of.removeprefix("obsm:") for of in others if of.startswith("obsm:")]
        opened.append((source, open_source(source, used)))
    return gather(opened, kinds=kinds or {})


def sha256(path: Path) -> str:
    """Hash a file without loading it into memory; only once while it does not change."""
    stat = path.stat()
    return _hashed(path.resolve(), (stat.st_size, stat.st_mtime_ns, stat.st_ino))


@cache
def _hashed(path: Path, _stamp: tuple[int, int, int]) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
