"""Predicted changes compared with those of cells in which the feature was actually perturbed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse.linalg import LinearOperator, svds
from scipy.stats import rankdata

from mocli.data.files.modality import ModalityFile
from mocli.data.links.genesets import GeneSets
from mocli.errors import InputError
from mocli.tasks.infer.align import Aligned
from mocli.tasks.perturb.effect import Effect
from mocli.tasks.perturb.effects import TargetReader, mean_changes
from mocli.tasks.perturb.learnt import CHOSEN, MEAN, Responses, learn_responses, pearson
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.perturb.shifts import Perturbation, stream
from mocli.types import CSR, DoubleArray, IntArray, StrArray

NO_FEATURE = ("ctrl", "control", "nt", "non-targeting", "negctrl", "unperturbed")
"""Words in place of a second perturbed feature where there is none."""

N_COMPONENTS = 20
"""Number of principal components whose loadings describe features."""

FEWEST_TRUE = 20
"""Fewest perturbed cells; the mean of fewer is mostly noise."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Predicted and measured changes.

    Attributes:
        table: One row a perturbation and direction, those that the model cannot make last: cells,
            correlations over all features not perturbed of predicted and measured changes, of the mean of
            other perturbations, of the best way, and of two halves of the cells; root mean squared errors of
            the latter two.
        points: Every target feature of every perturbation: predicted and measured change.
        left_out: Levels of the column with too few cells.
        responses: Predictions of every way for the perturbations `targets`, from the other ones.
    """

    table: pd.DataFrame
    points: pd.DataFrame
    left_out: tuple[str, ...]
    responses: Responses
    targets: tuple[str, ...]
    names: tuple[str, ...]


def perturbed_cells(column: StrArray, control: IntArray) -> dict[str, IntArray]:
    """Return rows of perturbed cells by the column's level; levels with too few cells are left out.

    Args:
        column: `(n_obs,)`, None where missing.
        control: Rows of the cells that were not perturbed.
    """
    levels = sorted({str(v) for v in column if v is not None})
    rows = {name: np.setdiff1d(np.flatnonzero(column == name), control) for name in levels}
    return {name: cells for name, cells in rows.items() if len(cells) >= FEWEST_TRUE}


def parts_of(level: str, names: Collection[str], control: Collection[str]) -> tuple[str, ...]:
    """Return the features that a level of the column names: `A`, or `A+B` for a double.

    Args:
        names: Names of features; a level that is one of them is never split.
        control: Words that are not features, such as the level of the unperturbed cells.
    """
    if level in names:
        return (level,)
    none = {*control, *NO_FEATURE}
    parts = [part.strip() for part in re.split(r"[+,;|&]", level)]
    return tuple(part for part in parts if part and part.lower() not in {c.lower() for c in none}) or (level,)


def true_perturbations(
    levels: Mapping[str, IntArray],
    names: Sequence[str],
    cells: Replacement,
    *,
    column: str,
    file: ModalityFile,
) -> list[Perturbation]:
    """Return the perturbations measured in enough cells whose features the encoder takes.

    `levels`: of `perturbed_cells`. Raises `InputError`: there is none.
    """
    place = cells.response.place
    where = {name: k for k, name in reversed(list(enumerate(names)))}
    usable = {name for name, k in where.items() if place[k] >= 0 and k not in cells.absent}
    parts = {level: parts_of(level, where, ()) for level in levels}
    perturbations = [
        Perturbation(level, tuple(sorted(where[name] for name in features)))
        for level, features in parts.items()
        if usable.issuperset(features)
    ]
    if not perturbations:
        raise InputError(
            f"no value of obs['{column}'] with {FEWEST_TRUE} cells is a feature of the model",
            file=file.where,
            field=f"obs['{column}']",
            found=", ".join(list(levels)[:8]) or "no values",
            expected="names of features of " + cells.modality,
            hint="--truth names the column that says which feature was perturbed in a cell",
        )
    return sorted(perturbations, key=lambda p: p.columns)


def gene_embeddings(
    reader: TargetReader, measured: MeasuredChanges, gene_sets: GeneSets | None
) -> dict[str, dict[str, DoubleArray]]:
    """Return vectors that describe features, for predicting perturbations of similar ones, by their origin.

    `latent`: weights of the regression of a feature on the latent coordinates. `components`: loadings of the
    principal components of the unperturbed cells. `gene sets`: the sets that hold it, small ones count more.
    """
    names = reader.names
    rows = measured.rows[measured.control]
    x = measured.x[rows[rows >= 0]]
    embeddings = {
        "latent": dict(
            zip(
                names,
                reader.readout.by_scale["log"].coefficients[:, reader.columns].T.astype(np.float64),
                strict=True,
            )
        )
    }
    n = min(N_COMPONENTS, min(x.shape) - 1)
    if n > 0:
        middle = np.asarray(x.mean(axis=0)).ravel()
        centred = LinearOperator(
            x.shape,
            matvec=lambda v: x @ np.ravel(v) - middle @ np.ravel(v),
            rmatvec=lambda v: x.T @ np.ravel(v) - middle * v.sum(),
            dtype=np.float64,
        )
        _, size, axes = svds(centred, k=n, v0=np.ones(min(x.shape)))
        embeddings["components"] = dict(zip(names, axes.T * size / np.sqrt(x.shape[0]), strict=True))
    if gene_sets is not None:
        genes = sorted({name for together in measured.parts.values() for name in together})
        member = np.array(
            [[gene in genes_of_set for genes_of_set in gene_sets.genes] for gene in genes], float
        )
        used = member.sum(axis=0) > 1
        rare = 1 / np.log(2 + np.array([len(genes_of_set) for genes_of_set in gene_sets.genes]))
        member = (member * rare)[:, used]
        length = np.linalg.norm(member, axis=1, keepdims=True)
        member = np.divide(member, length, out=np.zeros_like(member), where=length > 0)
        embeddings["gene sets"] = {g: m for g, m in zip(genes, member, strict=True) if m.any()}
    return embeddings


@dataclass(frozen=True, eq=False)
class MeasuredChanges:
    """Measured values of perturbed cells in the target modality.

    Attributes:
        x: Normalised logs of the target modality, `(n_cells, n_features)`.
        rows: Row in it of each cell of the perturbed modality, -1 for none, `(n_obs,)`.
        control, levels: Unperturbed cells, and perturbed ones by the level of the column: rows of the
            perturbed modality.
        named: All levels of the column, those of too few cells too.
        parts: Features that each level names.
    """

    x: CSR
    rows: IntArray
    control: IntArray
    levels: Mapping[str, IntArray]
    named: frozenset[str]
    parts: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls, aligned: Aligned, reader: TargetReader, file: ModalityFile, control: IntArray, column: StrArray
    ) -> MeasuredChanges:
        """Read the target modality, aligned with the model.

        `file`, `control`, `column`: of the perturbed modality: its cells, rows of those unperturbed, and
        which feature was perturbed in a cell, `(n_obs,)`.
        """
        values = reader.readout.values(aligned.read(), "log")[:, reader.columns]
        rows = aligned.file.obs.index.get_indexer(file.obs.index)
        unperturbed = {str(v) for v in column[control]}
        named = frozenset(str(v) for v in column if v is not None) - unperturbed
        levels = perturbed_cells(column, control)
        genes = set(map(str, file.var.index))
        parts = {level: parts_of(level, genes, unperturbed) for level in levels}
        return cls(values, rows, control, levels, named, parts)

    def mean(self, cells: IntArray) -> DoubleArray:
        """Return the mean of some cells, `(n_features,)`."""
        rows = self.rows[cells]
        return np.asarray(self.x[rows[rows >= 0]].mean(axis=0), np.float64).ravel()

    def halves(self, cells: IntArray, seed: int) -> tuple[DoubleArray, DoubleArray]:
        """Return the means of two halves of some cells, drawn at random."""
        order = np.random.default_rng(seed).permutation(cells)
        half = len(order) // 2
        return self.mean(np.sort(order[:half])), self.mean(np.sort(order[half:]))


def compare_with_truth(
    cells: Replacement,
    measured: MeasuredChanges,
    reader: TargetReader,
    perturbations: Sequence[Perturbation],
    effect: Effect,
    directions: Sequence[str],
    *,
    seed: int,
    gene_sets: GeneSets | None = None,
) -> Truth:
    """Compare predicted changes with measured ones, and both with predictions from other perturbations.

    The baseline is the mean change over all other perturbations of the column: what any perturbation does;
    `learn_responses` has the other ways. All are differences of mean normalised logs to the unperturbed
    cells; perturbed features themselves are left out.
    """
    control = measured.mean(measured.control)
    targets = tuple(measured.levels)
    true = np.array([measured.mean(rows) - control for rows in measured.levels.values()])
    position = {name: k for k, name in enumerate(targets)}
    compared = np.array([[n not in measured.parts[name] for n in reader.names] for name in targets])
    in_screen = [p for p in perturbations if p.name in position]
    predicted: dict[str, DoubleArray] = {}
    for direction in directions:
        moved = stream(cells, in_screen, effect, direction)
        every = [np.arange(len(cells.z))]
        predicted[direction] = np.full(true.shape, np.nan)
        changes = mean_changes(reader, cells.z, every, moved, len(in_screen), logs=True)[1][0]
        predicted[direction][[position[p.name] for p in in_screen]] = changes
    responses = learn_responses(
        true,
        [measured.parts[name] for name in targets],
        gene_embeddings(reader, measured, gene_sets),
        compared=compared,
        model=predicted[directions[0]],
    )
    rows, points = [], []
    in_model = [p.name for p in in_screen]
    for direction in directions:
        for name in [*in_model, *(t for t in targets if t not in in_model)]:
            k = position[name]
            if name not in in_model and direction != directions[0]:
                continue
            first, second = (half[compared[k]] for half in measured.halves(measured.levels[name], seed))
            change, others = predicted[direction][k], compared[k]
            rows.append(
                {
                    "feature": name,
                    "direction": direction if name in in_model else "",
                    "n_cells": len(measured.levels[name]),
                    "pearson": pearson(change[others], true[k][others]),
                    "spearman": pearson(rankdata(change[others]), rankdata(true[k][others]))
                    if name in in_model
                    else np.nan,
                    "baseline_pearson": responses.scores[MEAN][k] if len(targets) > 1 else np.nan,
                    "best_pearson": responses.scores[CHOSEN][k] if len(targets) > 1 else np.nan,
                    "halves_pearson": pearson(first - control[others], second - control[others]),
                    "own_measured": float(true[k][~others].mean()) if (~others).any() else np.nan,
                    "best_way": responses.choices[k],
                    "baseline_rmse": responses.errors[MEAN][k],
                    "best_rmse": responses.errors[CHOSEN][k],
                }
            )
            part = pd.DataFrame({"feature": np.full(len(change), name, dtype=object), "direction": direction})
            part["target"], part["predicted"] = np.array(reader.names, dtype=object), change
            part["best"], part["measured"] = responses.chosen[k], true[k]
            points.append(part[others])
    left_out = tuple(sorted(measured.named - set(targets)))
    return Truth(
        pd.DataFrame(rows), pd.concat(points, ignore_index=True), left_out, responses, targets, reader.names
    )
