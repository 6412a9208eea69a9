"""Columns of obs over all cells: labels, batches and other categories as codes; numbers; weights of cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.bundle import Codes, Continuous
from mocli.data.files.frames import words
from mocli.data.files.inspect import batch_like, conditions_told_by, nesting, tells
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import column_of_each, find_column, find_labels
from mocli.errors import InputError, some
from mocli.report.figures import plural
from mocli.tasks.run.options import DataOptions
from mocli.types import DoubleArray, FloatArray, IntArray

NAMED_ALIKE = 0.5
"""Share of cells with a label of the other modality from which on labels count as the same words."""


@dataclass(frozen=True, eq=False)
class ObsColumn:
    """One column, from the modalities that have it.

    Attributes:
        key: Its name in the model: `batch`, `label`, or its own name.
        by_modality: Rows as in the modality's file; None where it has no such column.
    """

    key: str
    by_modality: Mapping[str, pd.Series | None]

    @classmethod
    def find(
        cls, files: Sequence[ModalityFile], name: str | None, option: str, key: str | None = None
    ) -> ObsColumn | None:
        """Look up a column by the user's name; None without one, `InputError` if there is no such column."""
        return None if name is None else cls(key or name, find_column(files, name, option=option))

    @property
    def name(self) -> str:
        """What it is called in obs."""
        return next(
            (str(values.name) for values in self.by_modality.values() if values is not None), self.key
        )

    def of_cells(self) -> pd.Series:
        """Return its values as text by cell name, None where missing; of equal names, the first counts."""
        present = [values for values in self.by_modality.values() if values is not None]
        by_cell = pd.concat([pd.Series(words(values), index=values.index) for values in present])
        return by_cell[~by_cell.index.duplicated()]

    def codes(self, files: Sequence[ModalityFile], rows: IntArray, *, by_name: bool) -> Codes:
        """Return it as categories, one code for each cell.

        Args:
            rows: The index map, `(n_cells, n_modalities)`.
            by_name: Whether equal names mean equal cells, so that a label kept in one modality holds for the
                same cell in the others.
        """
        values = np.full(len(rows), None, dtype=object)
        named: dict[str, str] = {}
        for position, f in enumerate(files):
            column = self.by_modality.get(f.name)
            if column is None:
                continue
            present = np.flatnonzero(rows[:, position] >= 0)
            texts = words(column)[rows[present, position]]
            has = texts != None  # noqa: E711 - element by element
            values[present[has]] = texts[has]
            if by_name:
                names = f.obs.index.to_numpy()[rows[present[has], position]]
                named.update(zip(map(str, names), texts[has], strict=True))
        for position, f in enumerate(files):
            open_cells = np.flatnonzero((rows[:, position] >= 0) & (values == None))  # noqa: E711
            if named and len(open_cells):
                names = f.obs.index.to_numpy()[rows[open_cells, position]]
                values[open_cells] = [named.get(str(name)) for name in names]
        levels = sorted({v for v in values if v is not None})
        where = {level: code for code, level in enumerate(levels)}
        codes = np.fromiter((where.get(v, -1) for v in values), dtype=np.int64, count=len(values))
        return Codes(self.key, codes, tuple(levels))

    def numbers(self, files: Sequence[ModalityFile], rows: IntArray) -> tuple[dict[str, DoubleArray], Any]:
        """Read it as numbers, NaN where missing: of each modality that has it, and `(n_cells,)`.

        For a cell, the first modality that has a number counts.
        """
        by_modality = {
            name: _as_numbers(values) for name, values in self.by_modality.items() if values is not None
        }
        whole = np.full(len(rows), np.nan)
        for position, f in enumerate(files):
            if f.name in by_modality:
                cells = np.flatnonzero((rows[:, position] >= 0) & np.isnan(whole))
                whole[cells] = by_modality[f.name][rows[cells, position]]
        return by_modality, whole


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of obs that a run uses."""

    batch: ObsColumn | None = None
    label: ObsColumn | None = None
    covariates: tuple[ObsColumn, ...] = ()
    continuous: tuple[ObsColumn, ...] = ()
    weight: ObsColumn | None = None

    @property
    def categorical(self) -> tuple[ObsColumn, ...]:
        """The batch, if there is one, and the other categorical covariates."""
        return (() if self.batch is None else (self.batch,)) + self.covariates

    @classmethod
    def find(cls, files: Sequence[ModalityFile], data: DataOptions, *, weighted: bool) -> Columns:
        """Look up all columns; the weights only if the model uses them."""

        def several(keys: Sequence[str], option: str) -> tuple[ObsColumn, ...]:
            return tuple(ObsColumn(key, find_column(files, key, option=option)) for key in keys)

        return cls(
            batch=ObsColumn.find(files, data.batch_key or None, "--batch-key", "batch"),
            label=None
            if data.label_key is None
            else ObsColumn(
                "label", find_labels(files, data.label_key, option="--label-key", unlabeled=data.unlabeled)
            ),
            covariates=several(data.covariate, "--covariate"),
            continuous=several(data.continuous, "--continuous"),
            weight=ObsColumn.find(files, data.weight_key if weighted else None, "--weight-key"),
        )


def inputs_as_batch(files: Sequence[ModalityFile], data: DataOptions) -> tuple[DataOptions, str]:
    """Use each cell's input as its batch, if no batch is given and all inputs hold the same modalities.

    Returns the options, and a line that says so, empty where nothing changes. Inputs that hold different
    modalities are not batches: they differ in what was measured.
    """
    keys = {f.input_key for f in files}
    if data.batch_key is not None or keys == {None} or len({f.paths for f in files}) > 1:
        return data, ""
    key = next(iter(keys))
    line = (
        f"batch: obs['{key}'], the input that a cell comes from; --batch-key COLUMN uses another column; "
        "use --batch-key none if the inputs differ in what you want to compare (conditions)"
    )
    return replace(data, batch_key=key), line


def unused_batches(files: Sequence[ModalityFile], data: DataOptions, compared: Collection[str] = ()) -> str:
    """Return a line on columns that look like batches if no batch is given; empty if none does.

    One that tells apart conditions, or values of the columns that are `compared`, is no batch.
    """
    labels = data.label_key or ""
    used = {*data.covariate, labels, *column_of_each(labels).values(), data.pair_key, *compared}
    like = {
        column: n
        for f in files
        for column, n in batch_like(f.obs).items()
        if column not in used
        and column != f.input_key
        and not any(tells(f.obs[column], f.obs[other]) for other in compared if other in f.obs)
        and not {*conditions_told_by(f.obs, column)} - used
    }
    if data.batch_key is not None or not like:
        return ""
    shown = ", ".join(f"'{column}' ({n:,} levels)" for column, n in list(like.items())[:4])
    are = "which is" if len(like) == 1 else "which are"
    return (
        f"obs has {shown}, {are} not used: if it says how cells were measured (batch, donor), and "
        f"not what you compare, --batch-key {next(iter(like))} accounts for it"
    )


def confounded(columns: Columns, files: Sequence[ModalityFile]) -> list[str]:
    """Return doubts about columns to correct for, each level of which lies in one level of a condition.

    Conditions that the user corrects for as well do not count.
    """
    names = {column.name for column in columns.categorical}
    lines = []
    for column in (*columns.covariates, *columns.categorical[: columns.batch is not None]):
        having = [f for f in files if column.name in f.obs]
        told = [c for f in having for c in conditions_told_by(f.obs, column.name) if c not in names]
        if not told:
            continue
        better = [
            other
            for f in having
            for other in batch_like(f.obs)
            if other not in names and not conditions_told_by(f.obs, other)
        ]
        option = "--batch-key" if column is columns.batch else "--covariate"
        instead = f", or give one whose levels they share ({option} {better[0]})" if better else ""
        without = "use --batch-key none" if option == "--batch-key" else "leave it out"
        told = list(dict.fromkeys(told))
        lines.append(f"{nesting(column.name, told)}; {without} if that is what you compare{instead}")
    return lines


def summaries(columns: Columns) -> list[str]:
    """Return a line on the batch, and on each covariate: how many cells its levels have."""
    lines = []
    for column in columns.categorical:
        counts = column.of_cells().value_counts()
        what = "batch" if column is columns.batch else "covariate"
        lines.append(f"{what}: obs['{column.name}'], {plural(len(counts), 'level')}: {_sizes(counts)}")
    return lines


def _sizes(counts: pd.Series) -> str:
    """Show the largest levels with their number of cells."""
    return some((f"{level} ({n:,})" for level, n in counts.items()), 6)


def _taken_for_missing(column: ObsColumn, files: Sequence[ModalityFile]) -> str:
    """Return in brackets the words that count as missing in a column; empty without any."""
    found: dict[str, None] = {}
    for f in files:
        values = column.by_modality.get(f.name)
        if values is not None:
            gone = f.obs.loc[values.isna().to_numpy(), values.name].dropna()
            found |= dict.fromkeys(str(word).strip() or "empty" for word in gone.unique())
    return f" ({some(found, 4)})" if found else ""


def doubts(columns: Columns, files: Sequence[ModalityFile]) -> list[str]:
    """Return doubts about categorical columns: missing values, far too many levels."""
    lines = []
    labels = () if columns.label is None else (columns.label,)
    for column in (*columns.categorical, *labels):
        present = [values for values in column.by_modality.values() if values is not None]
        by_cell, named = column.of_cells(), column.name
        counts = by_cell.value_counts()
        n_missing, n_single = int(by_cell.isna().sum()), int((counts == 1).sum())
        if n_missing:
            lines.append(
                f"obs['{named}']: {n_missing:,} of {len(by_cell):,} cells have no value"
                f"{_taken_for_missing(column, files)}"
                + (f"; levels: {_sizes(counts)}" if column in labels else "")
            )
        if any(values.dtype.kind == "f" for values in present) and len(counts) > max(50, len(by_cell) // 10):
            lines.append(
                f"obs['{named}'] holds numbers, {len(counts):,} different ones, not a {column.key}: "
                + ("metrics of labels need categories" if column in labels else "give it with --continuous")
            )
        elif column not in labels and n_single and len(counts) > 1:
            lines.append(
                f"obs['{named}']: {n_single:,} of {len(counts):,} levels have a single cell, which says "
                "nothing about what the cells of a level share"
            )
        if column in labels:
            lines += _named_apart(column)
    return lines


def _named_apart(column: ObsColumn) -> list[str]:
    """Return a line for two modalities of different cells whose labels are mostly words of their own.

    A type that is only spelt otherwise in the other modality counts as another in every metric of labels.
    """
    lines = []
    present = {name: values for name, values in column.by_modality.items() if values is not None}
    for (one, first), (other, second) in combinations(present.items(), 2):
        labels = [pd.Series(words(values)).dropna() for values in (first, second)]
        shared = set(labels[0]) & set(labels[1])
        known = [float(values.isin(shared).mean()) for values in labels if len(values)]
        if len(known) < 2 or max(known) >= NAMED_ALIKE or not first.index.intersection(second.index).empty:
            continue
        alone = [_sizes(values[~values.isin(shared)].value_counts()) for values in labels]
        lines.append(
            f"{one} and {other} call their cells by different labels: only {known[0]:.0%} of the cells of "
            f"{one} and {known[1]:.0%} of {other} have one that both know "
            f"({', '.join(sorted(shared)) or 'none'}); {one} alone has {alone[0]}, {other} alone {alone[1]}; "
            "label transfer cannot exceed these shares, and other metrics of labels suffer: give a type the "
            "same name in both"
        )
    return lines


def numbers_of_cells(
    columns: Sequence[ObsColumn], files: Sequence[ModalityFile], rows: IntArray
) -> Continuous | None:
    """Collect columns of numbers from the modalities that have them; the first with a value wins.

    Raises `InputError`: a column holds no numbers, or none for some cells.
    """
    if not columns:
        return None
    values = np.stack([column.numbers(files, rows)[1] for column in columns], axis=1)
    for column, numbers in zip(columns, values.T, strict=True):
        missing = np.flatnonzero(~np.isfinite(numbers))
        if len(missing):
            position = int((rows[missing[0]] >= 0).argmax())
            name = files[position].obs.index[rows[missing[0], position]]
            raise InputError(
                f"the continuous covariate '{column.key}' is not a number for every cell",
                file=files[position].where,
                field=f"obs['{column.key}']",
                found=f"{len(missing):,} of {len(rows):,} cells without one, the first '{name}'",
                hint="fill it in, leave out those cells, or give it as a category with --covariate",
            )
    return Continuous(tuple(column.key for column in columns), values.astype(np.float32))


def weights_of_rows(
    column: ObsColumn | None, files: Sequence[ModalityFile], rows: IntArray, say: Callable[[str], None]
) -> dict[str, FloatArray]:
    """Return what every modality's cells weigh in discriminators, `(n_obs,)`, of mean 1 over all of them.

    A modality's own column wins; missing values come from the same cell in another modality.

    `rows`: the index map, `(n_cells, n_modalities)`. Raises `InputError`: a weight is missing, not finite or
    negative, or all weights of a modality are 0.
    """
    if column is None:
        return {}
    of_modality, shared = column.numbers(files, rows)
    weights: dict[str, DoubleArray] = {}
    for position, f in enumerate(files):
        cells = np.flatnonzero(rows[:, position] >= 0)
        weight = of_modality.get(f.name, np.full(f.n_obs, np.nan)).copy()
        lacking = cells[np.isnan(weight[rows[cells, position]])]
        weight[rows[lacking, position]] = shared[lacking]
        _check_weights(weight, column.key, f)
        weights[f.name] = weight
    mean = float(np.concatenate(list(weights.values())).mean())
    for name, weight in weights.items():
        say(
            f"{name}: cells weigh {weight.min():.4g} to {weight.max():.4g} in discriminators, by "
            f"obs['{column.key}']"
        )
    return {name: (weight / mean).astype(np.float32) for name, weight in weights.items()}


def _check_weights(weight: DoubleArray, key: str, f: ModalityFile) -> None:
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        value = weight[bad[0]]
        what = "no number" if np.isnan(value) else f"{value:g}"
        raise InputError(
            f"--weight-key names a column of '{f.name}' that is not a weight for every cell",
            file=f.where,
            field=f"obs['{key}']",
            found=f"{what} for cell '{f.obs.index[bad[0]]}'"
            + (f" and {len(bad) - 1:,} cells more like it" * (len(bad) > 1)),
            expected="a finite number >= 0 for every cell",
            hint="give every modality the column; 0 keeps a cell out of the discriminators",
        )
    if not weight.any():
        raise InputError(
            f"all cells of '{f.name}' have weight 0",
            file=f.where,
            field=f"obs['{key}']",
            expected="some weight > 0",
        )


def _as_numbers(column: pd.Series) -> DoubleArray:
    plain = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
    return pd.to_numeric(plain, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
