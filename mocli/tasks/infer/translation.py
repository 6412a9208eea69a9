"""A translation: which modality is imputed from which, the cells in a model, the values it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from mocli.data.features.index import Features, features_of
from mocli.data.files.inputs import sha256
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.tasks.infer.align import Aligned, align, check_modality, find_modality
from mocli.tasks.infer.decoder import ValueDecoder, own_batches
from mocli.tasks.infer.predictor import (
    Predictor,
    StackPredictor,
    cells_of_file,
    choose_predictor,
    distance_in_latent,
    of_cells,
)
from mocli.tasks.infer.query import place_cells
from mocli.tasks.prepare.pairing import Relation
from mocli.tasks.prepare.plan import known_pairs
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.latent import SourceCells
from mocli.tasks.trained.saved import SavedModel
from mocli.types import CSR, BoolArray, FloatArray, IntArray, ModalityKind, Route

MIN_TRAINED = 2
"""Fewest modalities for a training."""


@dataclass(frozen=True, eq=False)
class Direction:
    """The source and the target modality, settled before anything is trained.

    Attributes:
        target_file: None where a model knows the modality and no input holds it.
        saved: The model given, None where one is to be trained.
    """

    source: str
    target: str
    source_file: ModalityFile
    target_file: ModalityFile | None
    saved: SavedModel | None

    @property
    def target_names(self) -> list[str]:
        """All features of the target by name, in the order the model has, or will have."""
        if self.saved is not None:
            return list(self.saved.modalities[self.target]["var_names"])
        assert self.target_file is not None
        return list(map(str, self.target_file.var.index))

    def features(self, var_key: str | None) -> tuple[Features, Features]:
        """Return the features of target and source in the order the model has, or will have."""
        files = [f for f in (self.target_file, self.source_file) if f is not None]
        if self.saved is not None:
            order = {f: self.saved.modalities[n]["var_names"] for n, f in self._files()}
            files = [
                replace(f, var=f.var[~f.var.index.duplicated()].reindex([str(n) for n in order[f]]))
                for f in files
            ]
        features = features_of(files, var_key=var_key)
        if self.target_file is None:
            assert self.saved is not None
            entry = self.saved.modalities[self.target]
            return Features(self.target, ModalityKind(entry["kind"]), tuple(entry["var_names"])), features[0]
        return features[0], features[1]

    def _files(self) -> list[tuple[str, ModalityFile]]:
        both = ((self.target, self.target_file), (self.source, self.source_file))
        return [(name, f) for name, f in both if f is not None]


def likely_direction(
    source: str | None, target: str | None, kinds: Mapping[str, ModalityKind]
) -> tuple[str | None, str | None]:
    """Fill in a missing side: expression from accessibility, else proteins from expression."""

    def only(other: str | None, *wanted: ModalityKind) -> str | None:
        names = [name for name, kind in kinds.items() if kind in wanted and name != other]
        return names[0] if len(names) == 1 else None

    if source is None:
        source = only(target, ModalityKind.ATAC) or only(target, ModalityKind.RNA)
    if target is None:
        target = only(source, ModalityKind.RNA) or only(source, ModalityKind.PROT, ModalityKind.CYTO)
    return source, target


def check_peaks(kinds: Mapping[str, ModalityKind], files: Sequence[ModalityFile]) -> None:
    """Raise `UsageError` where peaks are given to a model that was trained without any."""
    peak_names = [f.name for f in files if f.kind is ModalityKind.ATAC]
    if peak_names and ModalityKind.ATAC not in kinds.values():
        raise UsageError(
            f"the model was trained without peaks, but '{peak_names[0]}' holds peaks",
            field="--from-model",
            found=", ".join(kinds),
            hint="use a model of expression and accessibility, or give --from and --to",
        )


def direction_of_inputs(source: str | None, target: str | None, names: Sequence[str]) -> tuple[str, str]:
    """Return source and target among the inputs.

    Raises `UsageError`: a name that no input has, an ambiguous choice, or a single input.
    """
    if len(names) < MIN_TRAINED and (source is None or source != target):
        raise UsageError(
            "imputation needs a trained model, or two modalities to train one on",
            field="--from-model",
            found=f"no model, and only {', '.join(names)}",
            hint="add --from-model DIR, or the other modality and --links",
        )
    for name, option in ((source, "--from"), (target, "--to")):
        if name is not None and name not in names:
            raise UsageError(
                f"'{name}' is not among the inputs",
                field=option,
                found=", ".join(names),
                hint=did_you_mean(name, names, "modalities"),
            )
    return _settled(source, target, names)


def direction_of_model(
    source: str | None, target: str | None, saved: SavedModel, files: Sequence[ModalityFile]
) -> tuple[str, str]:
    """Return source and target among the modalities of a model.

    Raises `UsageError`: a name that the model does not have, or an ambiguous choice.
    """
    names = list(saved.modalities)
    if source is not None:
        check_modality(saved, source, "--from")
    if target is not None:
        check_modality(saved, target, "--to")
    if source is None:
        measured = [name for name in names if find_modality(files, name, saved) is not None]
        others = [name for name in measured if name != target]
        source = others[0] if len(others) == 1 else None
    return _settled(source, target, names)


def _settled(source: str | None, target: str | None, names: Sequence[str]) -> tuple[str, str]:
    if source is None and target is not None and len(names) == 2:
        source = next((n for n in names if n != target), None)
    if target is None and source is not None and len(names) == 2:
        target = next((n for n in names if n != source), None)
    if source is None or target is None:
        raise UsageError(
            "say which modality is imputed from which",
            field="--from, --to",
            found=f"--from {source or 'nothing'} --to {target or 'nothing'}",
            expected=f"two of {', '.join(names)}",
            hint=f"for example --from {names[0]} --to {names[-1]}; "
            f"--from {names[0]} --to {names[0]} denoises",
        )
    return source, target


def columns_of(features: Sequence[str], names: Sequence[str], target: str) -> IntArray:
    """Return which of the names are asked for, in the order asked; all where none is.

    Raises `InputError`: the target does not have one of the features.
    """
    where = {name: i for i, name in enumerate(names)}
    unknown = [name for name in features if name not in where]
    if unknown:
        raise InputError(
            f"{len(unknown):,} of the features asked for are not among those of '{target}'",
            field="--features",
            found=", ".join(unknown[:5]),
            hint=_like(unknown[0], names),
        )
    chosen = [where[name] for name in dict.fromkeys(features)] if features else range(len(names))
    return np.array(chosen, dtype=np.int64)


def _like(name: str, names: Sequence[str]) -> str:
    holding = [n for n in names if name.casefold() in n.casefold()][:3]
    if holding:
        return "did you mean " + " or ".join(repr(n) for n in holding) + "?"
    return did_you_mean(name, names, "features")


def shared_cells(
    files: Sequence[ModalityFile],
    relation: Relation | None,
    pair_key: str | None,
    source: ModalityFile,
    target: ModalityFile | None,
) -> IntArray:
    """Return rows of the same cell in source and target, `(n, 2)`."""
    none = np.zeros((0, 2), dtype=np.int64)
    if relation is None or target is None or source is target:
        return none
    pairs = known_pairs(files, relation, pair_key)
    if (source.name, target.name) in pairs:
        return pairs[source.name, target.name]
    if (target.name, source.name) in pairs:
        return pairs[target.name, source.name][:, ::-1]
    return none


def rows_lacking(n: int, pairs: IntArray, compared: IntArray) -> BoolArray:
    """Return which of n cells of the source lack the target, `(n,)`.

    Args:
        pairs: Rows of the same cell in source and target, `(n_pairs, 2)`.
        compared: Rows of `pairs` whose target is hidden for a comparison: these lack it too.
    """
    lacks = np.ones(n, dtype=bool)
    lacks[pairs[:, 0]] = False
    lacks[pairs[compared, 0]] = True
    return lacks


def comparable_target(
    saved: SavedModel, target: str, file: ModalityFile, layers: Mapping[str, str], warn: Callable[[str], None]
) -> ModalityFile | None:
    """Return the target's file if its features are the model's; else None, with a log line."""
    try:
        align(saved, target, file, layers=layers, warn=lambda _: None)
    except InputError as error:
        warn(f"{error.message}: its values are ignored")
        return None
    return file


def seen_in_training(saved: SavedModel, files: Sequence[ModalityFile]) -> bool:
    """Say whether a model was trained on one of these same files."""
    trained_on = set(saved.description.get("trained_on", []))
    return bool(trained_on) and any(
        sha256(path) in trained_on for path in {p for f in files for p in f.paths}
    )


class Chosen(NamedTuple):
    """What will make values of the target, and from what, before any cell is placed.

    Attributes:
        why: Why values are made so.
        aligned: The source, its features as the model's.
        batches: As `Translation` has them.
    """

    predictor: Predictor | StackPredictor
    why: str
    aligned: Aligned
    batches: IntArray | None


def choose(
    saved: SavedModel,
    direction: Direction,
    data: DataOptions,
    *,
    route: Route,
    batch: str | None,
    device: torch.device,
    tell: Tell,
) -> Chosen:
    """Choose what makes values of the target, and match the source's features with the model's.

    Args:
        batch: As `decode_batch` takes it.

    Raises:
        InputError: The model has no readout of the target; features or covariates of the cells do not fit it.
        UsageError: A route or a batch to decode as that the model does not offer.
    """
    source, target, file = direction.source, direction.target, direction.source_file
    if target not in saved.readouts:
        raise InputError(
            f"the model cannot give values of '{target}'", hint="train it again with this version of mocli"
        )
    predictor, why = choose_predictor(
        saved, source, target, route=route, batch=batch, device=device, warn=tell.warn
    )
    batches = None
    if isinstance(predictor, ValueDecoder) and predictor.batch and predictor.batch.by_cell:
        batches = own_batches(saved, target, file, data.batch_key, tell.warn)
    return Chosen(predictor, why, align(saved, source, file, layers=data.layer, warn=tell.warn), batches)


@dataclass(frozen=True, eq=False)
class Translation:
    """Cells of the source at their latent coordinates, and the predictor that turns these into target values.

    Attributes:
        target_file: None where no input holds the target.
        pairs: Rows of the same cell in source and target, `(n, 2)`.
        layers: Layers that the user named, by modality.
        z: Latent coordinates of the source's cells, `(n_obs, n_latent)`.
        batches: Codes of the batches of the source's cells, `(n_obs,)`, where each is decoded under its own.
    """

    saved: SavedModel
    source: str
    target: str
    source_file: ModalityFile
    target_file: ModalityFile | None
    pairs: IntArray
    layers: Mapping[str, str]
    z: FloatArray
    predictor: Predictor | StackPredictor
    batches: IntArray | None = None

    @classmethod
    def of(
        cls,
        saved: SavedModel,
        direction: Direction,
        data: DataOptions,
        *,
        route: Route,
        batch: str | None,
        device: torch.device,
        seed: int,
        tell: Tell,
    ) -> tuple[Translation, str]:
        """Encode every cell of the source, and choose what turns its latent coordinates into values, and why.

        Raises:
            InputError: The model has no readout of the target; features or covariates of the cells do not fit
                it.
            UsageError: The model does not offer the route or the batch to decode under.
        """
        chosen = choose(saved, direction, data, route=route, batch=batch, device=device, tell=tell)
        translation = cls(
            saved,
            direction.source,
            direction.target,
            direction.source_file,
            direction.target_file,
            np.zeros((0, 2), dtype=np.int64),
            data.layer,
            place_cells(saved, direction.source, chosen.aligned, data, device=device, seed=seed, tell=tell),
            chosen.predictor,
            chosen.batches,
        )
        return translation, chosen.why

    @property
    def readout(self) -> FeatureReadout:
        """The readout of the target's features from the latent."""
        return self.saved.readouts[self.target]

    @property
    def names(self) -> list[str]:
        """All features of the target, in the model's order."""
        return list(self.saved.modalities[self.target]["var_names"])

    @property
    def direction(self) -> str:
        """`rna->prot`."""
        return f"{self.source}->{self.target}"

    def aligned(self, name: str, file: ModalityFile | None = None) -> Aligned:
        """Return a file of the source or of the target, as a rule its own, with features as the model's."""
        file = file or (self.source_file if name == self.source else self.target_file)
        assert file is not None
        return align(self.saved, name, file, layers=self.layers, warn=lambda _: None)

    def partners(self) -> IntArray:
        """Return for each cell of the source its row in the target, -1 for none, `(n_obs,)`."""
        rows = np.full(self.source_file.n_obs, -1, dtype=np.int64)
        rows[self.pairs[:, 0]] = self.pairs[:, 1]
        return rows

    def of_rows(self, rows: IntArray) -> Callable[[str, IntArray], FloatArray]:
        """Return a function that gives expected values `(n, n_columns)` of some rows of the source.

        It is called with a scale and columns of the target, as often as need be.
        """
        if isinstance(self.predictor, StackPredictor):
            cells = self.cells(rows)
            return partial(self.predictor.predict, cells)
        batches = None if self.batches is None else self.batches[rows]
        return partial(of_cells(self.predictor, batches).predict, self.z[rows])

    def predict(self, rows: IntArray, scale: str, columns: IntArray) -> FloatArray:
        """Return expected values of some rows of the source for columns of the target, `(n, n_columns)`."""
        return self.of_rows(rows)(scale, columns)

    def cells(self, rows: IntArray) -> SourceCells:
        """Return some rows of the source in the form that a stack takes."""
        aligned = self.aligned(self.source)
        return cells_of_file(self.saved, self.source, aligned, rows, self.z[rows])

    def distance(self, rows: IntArray) -> FloatArray | None:
        """Return how far some rows of the source lie from the training cells, `(n,)`; None where unknown.

        99 % of such cells lie within 1. It is measured in the source's own components where a
        stack knows them, else in the latent.
        """
        stack = self.saved.stacks.get((self.source, self.target))
        if stack is not None:
            return stack.distance(self.cells(rows))
        atlas = self.saved.atlas
        return None if atlas is None else distance_in_latent(atlas, self.source, self.z[rows])

    def times(self, rows: IntArray) -> FloatArray | None:
        """Return how many times wider the intervals of some rows are, `(n,)`; None where it is not known."""
        stack = self.saved.stacks.get((self.source, self.target))
        if stack is not None:
            return stack.times(self.cells(rows))
        distance = self.distance(rows)
        return None if distance is None else np.maximum(distance, np.float32(1))

    def measured(self, name: str, rows: IntArray, *, logged: bool = True) -> tuple[CSR, IntArray]:
        """Return measured values `(n, n_vars)` at one depth, and features that the file lacks: 0 there."""
        aligned, readout = self.aligned(name), self.saved.readouts[name]
        scale = "log" if logged or "counts" not in readout.by_scale else "counts"
        return readout.values(aligned.read(rows), scale), aligned.absent
