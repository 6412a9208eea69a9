"""New cells in a saved model: features aligned by name, transformed as in training, encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from mocli.data.features.index import FALLBACKS, FeatureIndex, Features, features_of
from mocli.data.features.intervals import by_overlap
from mocli.data.features.proteins import same_antigens
from mocli.data.files.contents import choose_layer
from mocli.data.files.kinds import naming_hint
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.models.base import Encodes
from mocli.report.figures import plural
from mocli.tasks.trained.saved import SavedModel
from mocli.types import CSR, FloatArray, IntArray, ModalityKind, ValueKind

LEAST_OVERLAP = 0.5
"""Least share of the model's features that new cells must have."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """A file's features in the order of a saved model's.

    Attributes:
        selection: `(n_vars of the file, n_vars of the model)`, a 1 where a feature goes, or the part of a
            peak that does.
        absent: Features of the model that the file lacks.
    """

    file: ModalityFile
    layer: str
    selection: CSR
    absent: IntArray

    @property
    def n_vars(self) -> int:
        """Number of features of the model."""
        return int(self.selection.shape[1])

    def read(self, rows: slice | IntArray | None = None) -> CSR:
        """Raw values `(n, n_vars)` in the model's order; absent features are 0."""
        x = sparse.csr_matrix(self.file.read(self.layer, rows=rows) @ self.selection)
        x.sort_indices()
        return x


def find_modality(files: Sequence[ModalityFile], name: str, saved: SavedModel) -> ModalityFile | None:
    """Return the file of a model's modality: of the same name, else the only one of its kind."""
    named = [f for f in files if f.name == name]
    if named:
        return named[0]
    kind = ModalityKind(saved.modalities[name]["kind"])
    others = [f for f in files if f.kind is kind and f.name not in saved.modalities]
    return others[0] if len(others) == 1 and kind is not ModalityKind.OTHER else None


def given_modality(
    files: Sequence[ModalityFile], name: str, saved: SavedModel, option: str | None = None
) -> ModalityFile:
    """Return the file of a model's modality; `InputError` where no input is it; `option` names another."""
    file = find_modality(files, name, saved)
    if file is None:
        raise InputError(
            f"no input is the model's '{name}'",
            file=", ".join(f.where for f in files),
            found=", ".join(f"{f.name} ({f.kind})" for f in files),
            expected=name,
            hint=f"name it: {name}=FILE" + (f", or choose another with {option}" if option else ""),
        )
    return file


def check_modality(saved: SavedModel, name: str, option: str) -> str:
    """Return the name if the model has such a modality; else an error that lists those it has."""
    if name not in saved.modalities:
        raise UsageError(
            f"the model has no modality '{name}'",
            field=option,
            found=name,
            expected=", ".join(saved.modalities),
            hint=did_you_mean(name, saved.modalities, "modalities of the model"),
        )
    return name


def align(
    saved: SavedModel,
    name: str,
    file: ModalityFile,
    *,
    layers: Mapping[str, str],
    warn: Callable[[str], None],
) -> Aligned:
    """Match a file's features with those of a saved model by name, in another spelling where that is clear.

    Proteins of another panel are also matched by their antigen.
    Peaks of another call, which have other names, are matched by overlap; see `by_overlap`.

    Raises `InputError`: more than half of the model's features are absent, or no layer holds values like
    those of training.
    """
    entry = saved.modalities[name]
    wanted = pd.Index(entry["var_names"])
    own_names = pd.Index(file.var.index.astype(str))
    own, kind = features_of([file])[0], ModalityKind(entry["kind"])
    positions, fallbacks = FeatureIndex(own).find_each(list(map(str, wanted)))
    if kind is ModalityKind.PROT:
        positions, by_antigen = same_antigens(positions, Features(name, kind, tuple(map(str, wanted))), own)
        fallbacks |= {"antigen": by_antigen} if by_antigen else {}
    present = positions >= 0
    selection = _selection(positions, len(own_names))
    notes = [
        f"{plural(len(pairs), 'feature')} of the model {'was' if len(pairs) == 1 else 'were'} found "
        f"{FALLBACKS[how]} "
        f"('{pairs[0][1]}' is the model's '{pairs[0][0]}')"
        for how, pairs in fallbacks.items()
    ]
    if present.mean() < LEAST_OVERLAP and kind is ModalityKind.ATAC:
        selection = by_overlap(list(own_names), list(map(str, wanted)))
        present = np.asarray(selection.getnnz(axis=0)) > 0
        parts = selection.getnnz(axis=1)
        some, several = int((parts > 0).sum()), int((parts > 1).sum())
        notes = [
            f"its peaks come from another peak call: {some:,} of {len(own_names):,} "
            f"({some / len(own_names):.0%}) overlap peaks of the model; {several:,} overlap several, among "
            "which their counts are split"
        ]
    if present.mean() < LEAST_OVERLAP:
        raise InputError(
            f"{file.name} has {int(present.sum()):,} of the {len(wanted):,} features of the model's '{name}'",
            file=file.where,
            field="var_names",
            found=", ".join(own_names[:5]),
            expected=", ".join(wanted[:5]),
            hint=naming_hint(own_names, wanted, "the model")
            or "the cells need the same features, under the same names; measured by another panel, leave "
            f"{file.name} out (FILE::MODALITY takes one modality of a file)",
        )
    for words in notes:
        warn(f"{file.name}: {words}")
    if not present.all():
        n = int((~present).sum())
        warn(
            f"{file.name}: {n:,} of the model's {len(wanted):,} features are absent and get the training "
            f"cells' mean (e.g. {', '.join(wanted[~present][:3])})"
        )
    counts = ValueKind(entry["values"]) is ValueKind.COUNTS
    layer = choose_layer(file, layers.get(file.name), wants_counts=counts, allow_negative=True)
    return Aligned(file, layer.layer, selection, np.flatnonzero(~present))


def _selection(positions: IntArray, n_own: int) -> CSR:
    """Return a matrix with a 1 where a feature of the file is one of the model's, `(n_own, n_wanted)`."""
    columns = np.flatnonzero(positions >= 0)
    ones = np.ones(len(columns), np.float32)
    return sparse.csr_matrix((ones, (positions[columns], columns)), shape=(n_own, len(positions)))


def project(saved: SavedModel, name: str, aligned: Aligned, device: torch.device | str) -> FloatArray:
    """Return the latent of every cell of a file, `(n_obs, n_latent)`."""
    return place(saved, name, aligned.read(), aligned.absent, device)


def place(
    saved: SavedModel, name: str, x: CSR, absent: IntArray | None, device: torch.device | str
) -> FloatArray:
    """Return the latent `(n, n_latent)` of raw values `(n, n_vars)` in the model's order of features.

    A training cell gets the coordinates it had in training, up to rounding.
    """
    # imported here: a refusal must not pay for torch
    import torch

    from mocli.train.predict import encode_rows

    model = saved.model
    if not isinstance(model, Encodes):
        raise TypeError(f"{type(model).__name__} cannot encode")
    model.module.to(device)
    features = saved.recipes[name].apply(x, absent)
    if name in saved.references:
        features = saved.references[name].average(features, device=str(device))
    return encode_rows(model, name, features, torch.device(device))
