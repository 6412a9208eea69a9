"""One modality from several files: different cells in each, and the features that all share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from mocli.data.files.frames import agreeing_columns, stack_obs
from mocli.data.files.kinds import naming_hint
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError, UsageError
from mocli.types import CSR, IntArray, ModalityKind

LEAST_SHARED = 0.5
"""Least share of the smallest file's features that all files must have."""


@dataclass(frozen=True, eq=False)
class JoinedModality(ModalityFile):
    """A modality whose cells lie in several files, one after another.

    `path`, `group` and `format` are those of the first file; `rows` counts among
    the cells of all of them.

    Attributes:
        parts: The modality as each file has it.
        selection: For each part the columns of its features that all share, in the order of the first; None
            where they are its features as they are.
    """

    parts: tuple[ModalityFile, ...] = ()
    selection: tuple[IntArray | None, ...] = field(default=(), repr=False)

    def by_part(self) -> list[tuple[ModalityFile, IntArray]]:
        """Return the parts, each with the rows of this modality that are its cells."""
        part_of_row, _ = self.places(np.arange(self.n_obs))
        return [(part, np.flatnonzero(part_of_row == k)) for k, part in enumerate(self.parts)]

    def located(self, rows: IntArray) -> list[tuple[ModalityFile, IntArray, IntArray]]:
        """Return the files that hold some rows; see `ModalityFile.located`."""
        part_of_row, row = self.places(rows)
        located = []
        for k, part in enumerate(self.parts):
            of_part = np.flatnonzero(part_of_row == k)
            located += [
                (file, of_part[wanted_rows], file_rows)
                for file, wanted_rows, file_rows in part.located(row[of_part])
            ]
        return [one for one in located if len(one[1])]

    def as_rounded(self) -> JoinedModality:
        """Return the modality with values rounded in every part."""
        return replace(self, rounded=True, parts=tuple(part.as_rounded() for part in self.parts))

    @property
    def renumbered(self) -> bool:
        """Whether positions of features differ from those in a file."""
        return any(columns is not None for columns in self.selection)

    def read(
        self,
        layer: str | None = None,
        *,
        rows: slice | Sequence[int] | IntArray | None = None,
        dtype: Any = np.float32,
    ) -> CSR:
        """Read a matrix as canonical CSR, file by file; see `ModalityFile.read`."""
        self._place(layer)
        wanted = np.atleast_1d(np.arange(self.n_obs)[slice(None) if rows is None else rows])
        part_of_row, row = self.places(wanted)
        read, order = [], []
        for k, part in enumerate(self.parts):
            of_part = np.flatnonzero(part_of_row == k)
            if not len(of_part) and len(wanted):
                continue
            whole = np.array_equal(row[of_part], np.arange(part.n_obs))
            x = part.read(layer, rows=None if whole else row[of_part], dtype=dtype)
            columns = self.selection[k]
            read.append(x if columns is None else x[:, columns])
            order.append(of_part)
        x = read[0] if len(read) == 1 else sp.vstack(read, format="csr")
        del read
        back = np.concatenate(order)
        if not np.array_equal(back, np.arange(len(back))):
            x = x[np.argsort(back)]
        x.sort_indices()
        return x

    def nbytes(self, layer: str | None = None) -> int:
        """Bytes of a matrix as CSR in memory; from a sample where the files do not say."""
        if self.rows is None and all(columns is None for columns in self.selection):
            return sum(part.nbytes(layer) for part in self.parts)
        sample = self.sample(layer)
        return 8 * round(int(sample.nnz) / int(sample.shape[0]) * self.n_obs) + 4 * (self.n_obs + 1)

    def places(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return which part each row is of, and its row there."""
        stored = rows if self.rows is None else self.rows[rows]
        starts = np.cumsum([0, *(part.n_obs for part in self.parts)])
        part_of_row: IntArray = np.searchsorted(starts, stored, side="right") - 1
        return part_of_row, stored - starts[part_of_row]


def join(name: str, parts: Sequence[ModalityFile], *, kind: ModalityKind | None = None) -> JoinedModality:
    """Join the parts of a modality that several files hold.

    Args:
        parts: Their cell names differ between files; see `cellnames.tell_apart`.
        kind: What it measures, where the user says so.

    Raises:
        UsageError: A file is given twice, or the files measure different kinds of things.
        InputError: Fewer than half of the features of the smallest file are in all files.
    """
    _refuse_twice(name, parts)
    kind = _one_kind(name, parts) if kind is None else kind
    selection, notes = _shared_features(name, parts, kind)
    tables = [
        part.var if columns is None else part.var.iloc[columns]
        for part, columns in zip(parts, selection, strict=True)
    ]
    var, _ = agreeing_columns(tables)
    first = parts[0]
    return JoinedModality(
        name=name,
        kind=kind,
        path=first.path,
        group=first.group,
        format=first.format,
        obs=stack_obs([part.obs for part in parts]),
        var=var,
        layers=tuple(k for k in first.layers if all(k in part.layers for part in parts)),
        raw=all(part.raw for part in parts),
        has_x=all(part.has_x for part in parts),
        input_key=first.input_key,
        notes=tuple(notes),
        parts=tuple(parts),
        selection=tuple(selection),
    )


def _refuse_twice(name: str, parts: Sequence[ModalityFile]) -> None:
    for i, part in enumerate(parts):
        for other in parts[:i]:
            if part.path.samefile(other.path):
                same = part.group == other.group and part.var.index.equals(other.var.index)
                raise UsageError(
                    f"'{name}' is given twice by the same file"
                    if same
                    else f"two modalities of one file are called '{name}'",
                    file=part.path,
                    hint="give it once"
                    if same
                    else "the modalities of one file have the same cells: give each a different name",
                )


def _one_kind(name: str, parts: Sequence[ModalityFile]) -> ModalityKind:
    kinds = list(dict.fromkeys(p.kind for p in parts if p.kind is not ModalityKind.OTHER))
    if len(kinds) > 1:
        raise UsageError(
            f"the files called '{name}' measure different things",
            field=name,
            found="; ".join(f"{part.kind} in {part.path}" for part in parts),
            hint=f"give them different names, or set the kind of both with --kind {name}={kinds[0]}",
        )
    return kinds[0] if kinds else ModalityKind.OTHER


def _shared_features(
    name: str, parts: Sequence[ModalityFile], kind: ModalityKind
) -> tuple[list[IntArray | None], list[str]]:
    """Columns of each part that all have, in the order of the first, and a line that says how many."""
    indices = [pd.Index(part.var.index) for part in parts]
    first = indices[0]
    if all(first.equals(other) for other in indices[1:]):
        return [None] * len(parts), [
            f"{name}: all {len(first):,} features are in each of its {len(parts)} files"
        ]
    shared = first[~first.duplicated()]
    for other in indices[1:]:
        shared = shared[shared.isin(other)]
    smallest = min(indices, key=lambda index: index.nunique())
    if len(shared) < LEAST_SHARED * smallest.nunique() or not len(shared):
        _refuse_few(name, parts, indices, shared, kind)
    selection: list[IntArray | None] = []
    for index in indices:
        places = pd.Series(np.arange(len(index)), index=index)[~index.duplicated()]
        columns = places.reindex(shared).to_numpy(dtype=np.int64)
        selection.append(None if np.array_equal(columns, np.arange(len(index))) else columns)
    same = len({part.path.name for part in parts}) < len(parts)
    counts = ", ".join(
        f"{part.path if same else part.path.name} has {len(index):,}"
        for part, index in zip(parts, indices, strict=True)
    )
    n = len(parts)
    line = f"{name}: {len(shared):,} features are in all of its {n} files ({counts}); the rest is left out"
    return selection, [line]


def _refuse_few(
    name: str,
    parts: Sequence[ModalityFile],
    indices: Sequence[pd.Index],
    shared: pd.Index,
    kind: ModalityKind,
) -> None:
    # the file that shares least with the first is the one to show
    other = min(range(1, len(parts)), key=lambda k: int(indices[k].isin(indices[0]).sum()))
    names, first = indices[other], indices[0]
    hint = naming_hint(names, first, "the other file")
    if hint is None and kind is ModalityKind.ATAC:
        hint = "peaks called separately have different borders: count both over one common set of peaks"
    raise InputError(
        f"'{name}' has only {len(shared):,} features in common between its files"
        if len(shared)
        else f"'{name}' has no feature in common between its files",
        file=parts[other].path,
        field="var_names",
        found=", ".join(map(str, names[:5])),
        expected=f"{', '.join(map(str, first[:5]))} (as in {parts[0].path})",
        hint=hint or f"if they are not the same modality, give one another name: other={_text(parts[other])}",
    )


def _text(part: ModalityFile) -> str:
    """Return the words for an input on the command line."""
    return f"{part.path}::{part.group.removeprefix('/mod/')}" if part.format == "h5mu" else str(part.path)
