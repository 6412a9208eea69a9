"""Predicted changes compared with measured ones: between groups of cells, or in perturbed cells.

Where features are changed that should take cells of one condition to another, what is predicted of another
modality can be held against what is measured there of cells of both conditions (scCross's Fig. 6d-f).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse.linalg import LinearOperator, svds
from scipy.stats import rankdata

from mocli.data.batches import densify
from mocli.data.files.modality import ModalityFile
from mocli.data.links.genesets import GeneSets
from mocli.errors import InputError
from mocli.metrics.correlation import Differential, agreement, differential
from mocli.nn.neighbors import chunks, drawn_rows, unit_rows
from mocli.report.figures import column_table, figure
from mocli.tasks.infer.align import Aligned, align
from mocli.tasks.perturb.cells import ChosenCells, Effect
from mocli.tasks.perturb.effects import TargetReader, mean_changes
from mocli.tasks.perturb.learnt import CHOSEN, MEAN, Responses, learn_responses, pearson
from mocli.tasks.perturb.reencode import Replacement
from mocli.tasks.perturb.shifts import Perturbation, stream
from mocli.tasks.relate.scope import ALL
from mocli.tasks.run.run import Run
from mocli.types import CSR, DoubleArray, IntArray, StrArray

FEWEST = 20
"""Cells of each group that were measured in the target modality."""

MOST_CELLS = 5000
COLUMNS = 1000
SHOWN = 100


def measured_contrast(
    file: ModalityFile | None,
    perturbed: ModalityFile,
    chosen: ChosenCells,
    reader: TargetReader,
    layers: Mapping[str, str],
    *,
    seed: int,
) -> Differential | None:
    """Return how the target modality differs between target cells and perturbed cells; None if unknown.

    `file`, `perturbed`: files of the target modality, if there is one, and of the perturbed one; the same
    cells have the same names.
    """
    if file is None or not len(chosen.target):
        return None
    row_in_file = file.obs.index.get_indexer(perturbed.obs.index)
    there = (row_in_file[rows] for rows in (chosen.source, chosen.target))
    source, target = (drawn_rows(rows[rows >= 0], MOST_CELLS, seed=seed) for rows in there)
    if min(len(source), len(target)) < FEWEST:
        return None
    aligned = align(reader.saved, reader.modality, file, layers=layers, warn=lambda _: None)
    values = reader.readout.values(aligned.read(np.concatenate([source, target])), "log")[:, reader.columns]
    among = np.arange(len(source) + len(target)) >= len(source)
    parts = [differential(densify(values[:, span]), among) for span in chunks(values.shape[1], COLUMNS)]
    change, p = (np.concatenate([getattr(part, quantity) for part in parts]) for quantity in ("change", "p"))
    change[np.isin(reader.columns, aligned.absent)] = np.nan
    return Differential(change, p)


def with_measured(table: pd.DataFrame, names: tuple[str, ...], measured: Differential) -> pd.DataFrame:
    """Add the measured change, p and FDR of each target feature over all cells."""
    positions = pd.Index(names).get_indexer(table["target"])
    measured_columns = {
        "measured_change": measured.change,
        "measured_p": measured.p,
        "measured_fdr": measured.fdr,
    }
    everywhere = (table["group"] == ALL).to_numpy()
    return table.assign(
        **{name: np.where(everywhere, values[positions], np.nan) for name, values in measured_columns.items()}
    )


def compare_with_target(table: pd.DataFrame, size: DoubleArray) -> pd.DataFrame:
    """Compare each perturbation's changes over all cells with the measured ones, one row per perturbation.

    `table`, `size`: the table of `with_measured`, and the predicted change of each row; features that are
    perturbed themselves are left out.
    """
    is_compared = (table["group"] == ALL).to_numpy()
    if "perturbed" in table:
        is_compared &= (table["perturbed"] == 0).to_numpy()
    rows = []
    for (feature, direction), part in table.assign(size=size)[is_compared].groupby(
        ["feature", "direction"], sort=False
    ):
        measured = Differential(part["measured_change"].to_numpy(), part["measured_p"].to_numpy())
        lists = agreement(part["size"].to_numpy(), measured)
        rows.append(
            {
                "feature": feature,
                "direction": direction,
                "features": lists.n,
                "differ": lists.n_differ,
                "found": lists.n_both,
                "by chance": lists.expected,
                "p": lists.p,
                "same sign": lists.same_sign,
                "Pearson": lists.pearson,
                "Spearman": lists.spearman,
            }
        )
    return pd.DataFrame(rows)


def report_contrast(run: Run, contrast: pd.DataFrame, modality: str) -> None:
    """Report how predicted changes agree with the measured difference of target and perturbed cells."""
    correlations = contrast["Pearson"].dropna()
    run.report.metrics["perturbation_contrast_pearson_median"] = figure(
        float(correlations.median()) if len(correlations) else None,
        "Predicted changes against the measured difference (median correlation)",
        f"Pearson correlation, over features of {modality}, of predicted changes and of the difference of "
        "mean normalised logs, target cells less perturbed ones; median over perturbations.",
        "Whether the perturbation changes the modality as the target cells differ: 1 is the same pattern.",
        better="higher",
        bounds=(-1.0, 1.0),
        n=len(correlations),
    )
    if len(correlations):
        best = f"{correlations.max():.2f} at best"
        run.say(f"  {modality}: predicted changes correlate with the measured difference by {best}")
    run.report.tables["contrast"] = column_table(
        f"Predicted changes of {modality} against the difference measured between the groups",
        "differ: features that are measured to differ (Wilcoxon's rank-sum test, FDR 5 %); found: of as many "
        "that are predicted to change most, those among the former with the same sign, beside what chance "
        "gives; p: of the overlap, whatever the sign (Fisher's exact test). The table of changes has every "
        "feature.",
        contrast.sort_values("Pearson", ascending=False).head(SHOWN),
    )


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
        member = unit_rows((member * rare)[:, used])
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
