"""Cells of a query in the form a saved model needs, and their latent coordinates.

Cells are encoded, or where a model has no encoders their coordinates are trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.autograd import forward_ad

from mocli.data.bundle import Codes, FeatureMatrix, Modality, MultiOmics
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.errors import InputError, UsageError, some
from mocli.models.base import (
    Conditions,
    Decodes,
    Encodes,
    EncodesJointly,
    Extends,
    Model,
    Schedule,
    Surprised,
)
from mocli.tasks.infer.align import Aligned, align, find_modality, project
from mocli.tasks.prepare.obscolumns import ObsColumn, numbers_of_cells
from mocli.tasks.prepare.pairing import Relation, index_map, relate_files
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import SavedModel
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_cells
from mocli.types import FloatArray, IntArray, ModalityKind, Pairing

Say = Callable[[str], None]

NEW_BATCH = "query"
"""Name of the batch of cells that come without one."""


@dataclass(frozen=True, eq=False)
class Query:
    """A query that is matched with a model but not yet read.

    Attributes:
        aligned: By the model's name of each modality that was measured.
        columns: Categorical covariates of all cells by key; the levels begin with the model's.
        continuous: Covariates that are numbers, for every cell.
        new: Levels that the model does not know, by key.
    """

    saved: SavedModel
    aligned: Mapping[str, Aligned]
    relation: Relation
    rows: IntArray
    obs_names: tuple[str, ...]
    columns: tuple[Codes, ...]
    continuous: tuple[str, ...]
    new: Mapping[str, tuple[str, ...]]
    data: DataOptions

    @property
    def files(self) -> list[ModalityFile]:
        """The files of the measured modalities, in the model's order."""
        return [a.file for a in self.aligned.values()]

    def load(self, device: torch.device | str = "cpu") -> MultiOmics:
        """Read and transform the matrices; a modality that was not measured has no rows.

        Neighbours that inputs are averaged over are searched on the device.
        """
        files, by_name = self.files, self.relation.names_mean_cells
        rows = np.full((len(self.rows), len(self.saved.modalities)), -1, np.int64)
        columns = [list(self.saved.modalities).index(name) for name in self.aligned]
        rows[:, columns] = self.rows
        label = ObsColumn.find(files, self.data.label_key, "--label-key", "label")
        continuous = [
            ObsColumn(key, find_column(files, key, option="--continuous")) for key in self.continuous
        ]
        batch = [c for c in self.columns if c.key == "batch"]
        return MultiOmics(
            modalities={name: self._modality(name, str(device)) for name in self.saved.modalities},
            rows=rows,
            obs_names=self.obs_names,
            pairing=self.relation.pairing,
            batch=batch[0] if batch else None,
            label=None if label is None else label.codes(files, self.rows, by_name=by_name),
            covariates=tuple(c for c in self.columns if c.key != "batch"),
            continuous=numbers_of_cells(continuous, files, self.rows),
        )

    def _modality(self, name: str, device: str) -> Modality:
        entry, recipe = self.saved.modalities[name], self.saved.recipes[name]
        aligned = self.aligned.get(name)
        if aligned is None:
            p = len(recipe.names)
            none = (
                np.zeros((0, p), np.float32) if recipe.dense else sparse.csr_matrix((0, p), dtype=np.float32)
            )
            features, library = FeatureMatrix(none, recipe.names), np.zeros(0, np.float32)
            names: tuple[str, ...] = ()
        else:
            x = aligned.read()
            features = recipe.apply(x, aligned.absent)
            names = tuple(map(str, aligned.file.obs.index))
            library = np.asarray(x.sum(axis=1), np.float32).ravel()
            if name in self.saved.references:
                features = self.saved.references[name].average(features, device=device)
        return Modality(
            name=name,
            kind=ModalityKind(entry["kind"]),
            features=features,
            obs_names=names,
            library=library,
            likelihood=entry.get("likelihood"),
        )


def match_query(
    saved: SavedModel, files: Sequence[ModalityFile], data: DataOptions, *, say: Say, warn: Say
) -> Query:
    """Find a model's modalities, features and covariates among the files.

    Raises `InputError`: a file is not a modality of the model, or features or columns do not fit.
    """
    aligned = {}
    for name in saved.modalities:
        file = find_modality(files, name, saved)
        if file is not None:
            aligned[name] = align(saved, name, file, layers=data.layer, warn=warn)
    unmatched = [f for f in files if all(a.file is not f for a in aligned.values())]
    if unmatched:
        raise InputError(
            f"the model has no modality for {' and '.join(repr(f.name) for f in unmatched)}",
            file=unmatched[0].where,
            found=", ".join(f"{f.name} ({f.kind})" for f in files),
            expected=", ".join(f"{name} ({m['kind']})" for name, m in saved.modalities.items()),
            hint=f"name the modality as the model does: {next(iter(saved.modalities))}=FILE, or leave it out",
        )
    own_files = [a.file for a in aligned.values()]
    for note in (note for f in own_files for note in f.notes):
        say(note)
    relation = relate_files(own_files, data.pairing) if len(own_files) > 1 else _alone()
    for name, a in aligned.items():
        n = a.n_vars - len(a.absent)
        others = a.file.n_vars - n
        say(
            f"{a.file.name}: {a.file.n_obs:,} cells from {a.file.where}; they have {n:,} of the {a.n_vars:,} "
            f"features of the model's '{name}' ({n / a.n_vars:.1%})"
            + (f"; the model does not take their other {others:,} features" if others else "")
        )
    if len(own_files) > 1:
        say(f"cells are {relation.pairing} ({relation.reason})")
    missing = [name for name in saved.modalities if name not in aligned]
    if missing:
        say(f"not measured: {', '.join(missing)}")
    rows, obs_names = index_map(own_files, relation.pairing)
    columns, new = [], {}
    for entry in saved.description.get("covariates", []):
        codes = _codes(entry, own_files, rows, data, by_name=relation.names_mean_cells, say=say, warn=warn)
        columns.append(codes)
        added = codes.levels[len(entry["levels"]) :]
        if added:
            new[codes.key] = added
    continuous = tuple(saved.description.get("continuous", []))
    return Query(saved, aligned, relation, rows, obs_names, tuple(columns), continuous, new, data)


def query_of_one(
    saved: SavedModel, name: str, aligned: Aligned, data: DataOptions, *, say: Say, warn: Say
) -> Query:
    """Make a query of the cells of one modality; covariates that its file lacks are unknown for all cells.

    Columns are those that the model was trained with.
    """
    file, relation = aligned.file, _alone()
    data = replace(data, batch_key=None, label_key=None)
    # every row is a cell, also where names repeat
    rows, obs_names = np.arange(file.n_obs)[:, None], tuple(map(str, file.obs.index))
    columns, new = [], {}
    for entry in saved.description.get("covariates", []):
        key, column, levels = entry["key"], entry["column"], tuple(entry["levels"])
        if _held([file], column):
            codes = _codes(entry, [file], rows, data, by_name=False, say=say, warn=warn)
        else:
            warn(
                f"obs of {file.name} has no '{column}', a covariate of the model: it counts as unknown for "
                "every cell"
            )
            codes = Codes(key, np.full(len(rows), -1, np.int64), levels)
        columns.append(codes)
        if codes.levels[len(levels) :]:
            new[key] = codes.levels[len(levels) :]
    continuous = tuple(saved.description.get("continuous", []))
    lacking = [key for key in continuous if not _held([file], key)]
    if lacking:
        # a model takes all of them or none
        warn(f"obs of {file.name} has no '{lacking[0]}': {', '.join(continuous)} stand at their mean")
        continuous = ()
    return Query(saved, {name: aligned}, relation, rows, obs_names, tuple(columns), continuous, new, data)


def check_labels(saved: SavedModel, columns: Sequence[str]) -> None:
    """Make sure that the model knows the labels to transfer.

    Raises `UsageError`: it was trained without them.
    """
    known_columns = list(saved.atlas.labels) if saved.atlas else []
    for column in columns:
        if column not in known_columns:
            raise UsageError(
                f"the reference keeps no labels '{column}'",
                field="--transfer-labels",
                found=", ".join(known_columns) or "no labels",
                hint=f"choose one of those it keeps, or train it again with --label-key {column}",
            )


def _alone() -> Relation:
    return Relation(Pairing.PAIRED, "one modality", names_mean_cells=True)


def _held(files: Sequence[ModalityFile], column: str) -> bool:
    """Say whether any file has a column, also as `modality:column`."""
    owner, _, rest = column.partition(":")
    return any(column in f.obs or (f.name == owner and rest in f.obs) for f in files)


def _codes(
    entry: Mapping[str, Any],
    files: Sequence[ModalityFile],
    rows: IntArray,
    data: DataOptions,
    *,
    by_name: bool,
    say: Say,
    warn: Say,
) -> Codes:
    """Return a covariate's codes, the model's levels first; -1 where it is not known."""
    key, known_levels = entry["key"], tuple(entry["levels"])
    is_batch = key == "batch"
    column = data.batch_key if is_batch and data.batch_key else entry["column"]
    named = is_batch and bool(data.batch_key)
    if not named and not _held(files, column):
        if not is_batch:
            warn(f"obs has no '{column}', a covariate of the model: every cell gets its mean")
            return Codes(key, np.full(len(rows), -1, np.int64), known_levels)
        name = NEW_BATCH
        while name in known_levels:
            name += "_2"
        warn(
            f"obs has no '{column}', the model's batch: all cells are treated as one new batch, '{name}'; "
            "--batch-key names another column"
        )
        return Codes(key, np.full(len(rows), len(known_levels), np.int64), (*known_levels, name))
    option = "--batch-key" if is_batch else "--covariate"
    file_codes = ObsColumn(key, find_column(files, column, option=option)).codes(files, rows, by_name=by_name)
    added = tuple(level for level in file_codes.levels if level not in known_levels)
    levels = (*known_levels, *added)
    where = np.array([levels.index(level) for level in file_codes.levels] + [-1], np.int64)  # -1 stays -1
    codes = Codes(key, where[file_codes.codes], levels)
    if added:
        n_all = len(file_codes.levels)
        n = "its only value" if n_all == 1 else f"{len(added):,} of its {n_all:,} values"
        sentence = f"the model does not know {some(added, 5)}, {n}"
        if is_batch:
            say(f"obs['{column}']: {sentence}")
        else:
            warn(
                f"obs['{column}']: {sentence}, and knows {', '.join(known_levels[:8])}: "
                "if one of these is a known level misspelt, rename it"
            )
    return codes


SLOPES = 20_000_000
"""Derivatives computed at a time."""


@dataclass(frozen=True, eq=False)
class LatentCells:
    """Cells with their latent coordinates, `(n, d)`, as a model sees them."""

    model: Model
    bundle: MultiOmics
    z: FloatArray
    device: torch.device

    def conditions(self, cells: IntArray) -> Conditions:
        """Return the covariates of some cells."""
        codes = {c.key: self._send(c.codes[cells]) for c in self.bundle.categorical}
        numbers = self.bundle.continuous
        return Conditions(codes, None if numbers is None else self._send(numbers.values[cells]))

    def decode(self, modality: str, z: Tensor, cells: IntArray, library: Tensor | None = None) -> Tensor:
        """Return expected values at other coordinates, `(B, n_vars)`; counts as shares of the total."""
        assert isinstance(self.model, Decodes)
        if library is None:
            library = torch.ones(len(cells), device=self.device)
        return self.model.decode(modality, z, self.conditions(cells), library)

    def place(self, cells: IntArray) -> Tensor:
        """Return the latent coordinates of some cells, `(B, d)`."""
        return self._send(self.z[cells])

    def _send(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def place_cells(
    saved: SavedModel,
    name: str,
    aligned: Aligned,
    data: DataOptions,
    *,
    device: torch.device,
    seed: int,
    tell: Tell,
) -> FloatArray:
    """Return the latent of every cell of a file of one modality, `(n_obs, n_latent)`.

    Raises:
        InputError: A covariate of the cells does not fit the model.
        TypeError: The model can neither encode a modality nor add new cells.
    """
    if isinstance(saved.model, Encodes):
        return project(saved, name, aligned, device)
    return settle_cells(saved, name, aligned, data, device=device, seed=seed, tell=tell).z


def settle_cells(
    saved: SavedModel,
    name: str,
    aligned: Aligned,
    data: DataOptions,
    *,
    device: torch.device,
    seed: int,
    tell: Tell,
) -> LatentCells:
    """Train the latent coordinates of every cell of a file of one modality, for a model without encoders.

    Raises:
        InputError: A covariate of the cells does not fit the model.
        TypeError: The model cannot add new cells.
    """
    query = query_of_one(saved, name, aligned, data, say=tell.say, warn=tell.warn)
    tell.say(
        f"{saved.description['model']} has no encoders: the latent coordinates of {len(query.rows):,} cells "
        "are trained; the model itself does not change"
    )
    return infer_coordinates(saved.model, query.load(device), device=device, seed=seed)


def infer_coordinates(model: Model, bundle: MultiOmics, *, device: torch.device, seed: int) -> LatentCells:
    """Train the weights that the cells of a bundle add to a model; return the cells' coordinates.

    The model is not changed. The schedule is its own, whatever training was given, so that a saved model
    gives cells the same coordinates as the run that trained it.
    """
    if not isinstance(model, Extends) or not isinstance(model, EncodesJointly):
        raise TypeError(f"{type(model).__name__} can neither encode a modality nor add new cells")
    # a model may draw where new levels start
    torch.manual_seed(seed)
    extended = model.extended(bundle)
    fit(extended, bundle, Schedule(), Training(device, seed))
    extended.module.eval()
    return LatentCells(extended, bundle, encode_cells(extended, bundle, device), device)


def slopes(
    placed: LatentCells, modality: str, z: Tensor, cells: IntArray, library: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Return expected values of some features `(B, k)`, and their derivatives in the latent `(B, k, d)`."""
    rows = []
    with torch.no_grad(), warnings.catch_warnings(), forward_ad.dual_level():
        # torch compiles some rules of forward derivatives by a function of its own that it deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        mean = placed.decode(modality, z, cells, library)[:, columns]
        for k in range(z.shape[1]):
            along = torch.zeros_like(z)
            along[:, k] = 1
            place = forward_ad.make_dual(z, along)  # type: ignore[no-untyped-call]
            values = placed.decode(modality, place, cells, library)[:, columns]
            rows.append(forward_ad.unpack_dual(values).tangent)  # type: ignore[no-untyped-call]
    return mean, torch.stack(rows, 2)


def pull(model: Model, modality: str, columns: Tensor, values: Tensor, mean: Tensor) -> Tensor:
    """Return the derivative in the means of the values' loss, `(B, k)`.

    If the model has no likelihood of its own, Poisson's is used.
    """
    with torch.enable_grad():
        point = mean.detach().clone().requires_grad_()
        if isinstance(model, Surprised):
            loss = model.surprise(modality, columns, values, point)
        else:
            loss = point - torch.xlogy(values, point)
        (gradient,) = torch.autograd.grad(loss.sum(), point)
    return gradient
