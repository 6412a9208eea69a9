"""The cells whose genes are silenced, matched with a model that decodes and given latent coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from mocli.data.bundle import MultiOmics
from mocli.data.features.index import Features, features_of
from mocli.data.files.inputs import sha256
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.errors import UsageError
from mocli.models.base import Decodes, Encodes, EncodesJointly, Extends, Schedule
from mocli.models.registry import available, load_class
from mocli.tasks.gene2peak.changes import Way
from mocli.tasks.infer.align import given_modality
from mocli.tasks.infer.query import LatentCells, Query, match_query
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import SavedModel
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_cells
from mocli.types import COUNT_LIKELIHOODS, CSR, LIKELIHOODS, BoolArray, IntArray, ModalityKind

METHODS = ("auto", "correlation", *Way)
POSITIVE = frozenset(name for name, needs in LIKELIHOODS.items() if needs == "counts")
"""Likelihoods whose means are never negative, so that a change has a size relative to them."""


def can_silence(model: str) -> bool:
    """Say whether a model has what silencing needs: latent coordinates for every cell, and a decoder."""
    model_class = load_class(available()[model].model)
    return issubclass(model_class, Decodes) and issubclass(model_class, EncodesJointly)


def choose_way(model: str, method: str) -> Way | None:
    """Return how a model's genes are silenced; None for correlations, asked for or all it can do.

    Raises `UsageError`: the model cannot do as asked.
    """
    model_class = load_class(available()[model].model)
    if method == "correlation":
        return None
    if not can_silence(model):
        if method == "auto":
            return None
        raise UsageError(
            f"{model} has no decoder of cells' latent coordinates, so no gene can be silenced in it",
            field="--method",
            found=method,
            hint="--method correlation, or one of " + ", ".join(n for n in available() if can_silence(n)),
        )
    if method == Way.INPUT and not issubclass(model_class, Encodes):
        raise UsageError(
            f"{model} has no encoders, which are needed to encode a cell without the gene",
            field="--method",
            found=method,
            hint="--method latent",
        )
    return Way.INPUT if method == Way.INPUT else Way.LATENT


def choose_modalities(
    kinds: Mapping[str, ModalityKind], source: str | None, target: str | None
) -> tuple[str, str]:
    """Return the names of genes and of peaks among a model's modalities.

    Raises `UsageError`: a kind is there more than once or not at all, and no name was given.
    """
    names_chosen = []
    for named, option, kind, what in (
        (target, "--to", ModalityKind.RNA, "genes"),
        (source, "--from", ModalityKind.ATAC, "peaks"),
    ):
        names = [named] if named is not None else [name for name, k in kinds.items() if k is kind]
        if not names and ModalityKind.OTHER not in kinds.values():
            raise UsageError(
                f"no modality holds {what}, and gene2peak needs genes and peaks",
                field="inputs",
                found=", ".join(f"{name} ({k})" for name, k in kinds.items()),
                expected=f"one of kind {kind}",
                hint=f"give the file with {what}, too, or say what a modality holds: --kind MOD={kind}",
            )
        if len(names) != 1 or names[0] not in kinds:
            raise UsageError(
                f"say which modality holds {what}" if named is None else f"'{named}' is not among the inputs",
                field=option,
                found=", ".join(f"{name} ({k})" for name, k in kinds.items()),
                expected=f"one of kind {kind}" if named is None else "one of these",
                hint=f"{option} NAME; genes are named by --to, peaks by --from",
            )
        names_chosen.append(names[0])
    if kinds[names_chosen[0]] is ModalityKind.ATAC or kinds[names_chosen[1]] is ModalityKind.RNA:
        raise UsageError(
            "gene2peak silences genes and looks at peaks, not the other way round",
            field="--from, --to",
            found=f"--from {names_chosen[1]} --to {names_chosen[0]}",
            hint=f"--from {names_chosen[0]} --to {names_chosen[1]}",
        )
    return names_chosen[0], names_chosen[1]


def check_values(saved: SavedModel, rna: str, atac: str) -> None:
    """Make sure that genes are counted, and that the decoder gives peaks.

    Raises `UsageError`: it gives components of the peaks, or values that may be negative.
    """
    for name, allowed, option in ((rna, COUNT_LIKELIHOODS, "--to"), (atac, POSITIVE, "--from")):
        recipe, likelihood = saved.recipes[name], saved.modalities[name].get("likelihood")
        problem = None
        if recipe.lsi is not None or recipe.components is not None:
            problem = "the model knows components of it, not features"
        elif likelihood not in allowed:
            problem = f"the model takes it for {likelihood or 'no'} values, not for counts"
        if problem is not None:
            raise UsageError(
                f"genes cannot be silenced with '{name}': {problem}",
                field=option,
                expected=" or ".join(sorted(allowed)),
                hint=f"train it again with --transform {name}=counts --likelihood {name}=poisson, "
                "or use --method correlation",
            )


class CellGroups(NamedTuple):
    """Groups of cells, such as types.

    `codes`: `(n_cells,)` from 0, -1 for none.
    """

    codes: IntArray
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SilencedCells:
    """Cells and all that silencing needs of them.

    Attributes:
        counts: `(n_cells, n_genes)` as the model takes them, 0 where genes were not measured.
        genes, peaks: Features in the order of the decoder.
    """

    placed: LatentCells
    query: Query
    rna: str
    atac: str
    counts: CSR
    genes: Features
    peaks: Features

    @property
    def absent(self) -> BoolArray:
        """Genes that the model knows and the input lacks, `(n_genes,)`."""
        return np.isin(self.saved.recipes[self.rna].selected, self.query.aligned[self.rna].absent)

    @property
    def saved(self) -> SavedModel:
        """The model as it was saved."""
        return self.query.saved

    def groups(self, key: str | None) -> CellGroups:
        """Return the groups of a column of obs; no groups for None."""
        none = np.full(self.placed.bundle.n_cells, -1, dtype=np.int64)
        if key is None:
            return CellGroups(none, ())
        columns = find_column(self.query.files, key, option="--group-key")
        modalities = list(self.saved.modalities)
        label = np.full(len(none), None, dtype=object)
        for name, a in self.query.aligned.items():
            column = columns.get(a.file.name)
            row = self.placed.bundle.rows[:, modalities.index(name)]
            open_cells = np.flatnonzero((row >= 0) & pd.isna(label))
            if column is not None:
                label[open_cells] = column.astype(object).to_numpy()[row[open_cells]]
        codes, names = pd.factorize(pd.Series(label).map(str, na_action="ignore"), sort=True)
        return CellGroups(codes.astype(np.int64), tuple(map(str, names)))

    def measured(self, name: str, *, logged: bool = True) -> tuple[CSR, IntArray]:
        """Return values `(n_rows, n_vars)` at one depth of the decoder's features, and each cell's row."""
        row = self.placed.bundle.rows[:, list(self.saved.modalities).index(name)]
        readout = self.saved.readouts[name]
        scale = "log" if logged or "counts" not in readout.by_scale else "counts"
        values = readout.values(self.query.aligned[name].read(), scale)
        return values[:, self.saved.recipes[name].selected], row


def take_cells(
    saved: SavedModel,
    files: Sequence[ModalityFile],
    names: tuple[str, str],
    data: DataOptions,
    *,
    device: torch.device,
    seed: int,
    tell: Tell,
) -> SilencedCells:
    """Match the inputs with a model, and find the cells' latent coordinates.

    `names`: the model's modalities of genes and of peaks. Raises `InputError`: as `match_cells` raises it.
    """
    rna, atac = names
    query = match_cells(saved, files, rna, data, tell=tell)
    bundle = query.load(device)
    placed = _place(query, bundle, device, seed, tell)
    rows = bundle.rows[:, list(saved.modalities).index(rna)]
    values = sparse.csr_matrix(bundle.modalities[rna].features.values)
    counts = values[np.maximum(rows, 0)]
    if (rows < 0).any():
        counts = sparse.csr_matrix(sparse.diags((rows >= 0).astype(np.float32)) @ counts)
    features = [decoded_features(query, name, data.var_key) for name in (rna, atac)]
    return SilencedCells(placed, query, rna, atac, counts, *features)


def match_cells(
    saved: SavedModel, files: Sequence[ModalityFile], rna: str, data: DataOptions, *, tell: Tell
) -> Query:
    """Match the inputs with a model, the modality of genes among them.

    Raises `InputError`: no input holds genes; features or columns do not fit the model.
    """
    given_modality(files, rna, saved)
    return match_query(saved, files, data, say=tell.say, warn=tell.warn)


def decoded_features(query: Query, name: str, var_key: str | None) -> Features:
    """Return the features of a modality in the order of the decoder."""
    entry, selected = query.saved.modalities[name], query.saved.recipes[name].selected
    names = [str(entry["var_names"][j]) for j in selected]
    aligned = query.aligned.get(name)
    if aligned is None:
        return Features(name, ModalityKind(entry["kind"]), tuple(names))
    var = aligned.file.var
    file = replace(aligned.file, var=var[~var.index.duplicated()].reindex(names))
    return features_of([file], var_key=var_key)[0]


def _place(query: Query, bundle: MultiOmics, device: torch.device, seed: int, tell: Tell) -> LatentCells:
    """Look cells up that the model was trained on; encode others, or train their coordinates."""
    model, name = query.saved.model, query.saved.description["model"]
    if not isinstance(model, EncodesJointly):
        raise TypeError(f"{name} gives cells no latent coordinates")
    if isinstance(model, Extends) and not _is_table_of(query, bundle):
        # coordinates of cells, or what is new about them
        torch.manual_seed(seed)
        model = model.extended(bundle)
        if model.phases(Schedule(), bundle):
            tell.say(f"the cells are new to {name}: only the weights that they add are trained")
            fit(model, bundle, Schedule(), Training(device, seed))
    model.module.to(device).eval()
    return LatentCells(model, bundle, encode_cells(model, bundle, device), device)


def _is_table_of(query: Query, bundle: MultiOmics) -> bool:
    """Say whether the model's own rows are for exactly these cells, or it needs no rows."""
    saved = query.saved
    if isinstance(saved.model, Encodes):
        return not query.new
    paths = {path for f in query.files for path in f.paths}
    return (
        {sha256(path) for path in paths} == set(saved.description.get("trained_on", []))
        and set(query.aligned) == set(saved.modalities)
        and bundle.pairing.value == saved.description["pairing"]
        and saved.model.spec().get("n_cells") == bundle.n_cells
    )
