"""The steps of `mocli perturb`: a model and cells, their latent coordinates, the effects of perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mocli.data.files.modality import ModalityFile
from mocli.data.links.genesets import read_gene_sets
from mocli.data.transforms.recipe import highly_variable
from mocli.errors import InputError, UsageError
from mocli.models.base import Encodes, EntersLinearly
from mocli.report.figures import plural
from mocli.tasks.infer.align import Aligned, align, find_modality, place
from mocli.tasks.infer.predictor import in_words
from mocli.tasks.infer.query import settle_cells
from mocli.tasks.perturb.cells import DOWN, TOWARDS, UP, CellSets, ChosenCells, split_cells
from mocli.tasks.perturb.effects import Across, Predicted, TargetReader, predict_changes, screen
from mocli.tasks.perturb.options import PerturbOptions
from mocli.tasks.perturb.reencode import Replacement, Settled
from mocli.tasks.perturb.shifts import Perturbation, expression, with_null
from mocli.tasks.perturb.subject import among_inputs, in_model
from mocli.tasks.perturb.truth import (
    MeasuredChanges,
    Truth,
    compare_with_truth,
    measured_contrast,
    perturbed_cells,
    true_perturbations,
    with_measured,
)
from mocli.tasks.prepare.plan import Aim, open_modalities
from mocli.tasks.run.frame import progress
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.saved import SavedModel
from mocli.tasks.trained.train import Trained, load_given, obtain
from mocli.types import CSR, FloatArray, Task

MOST_VARIABLE = 2000
"""Features of a screen by default."""

MOST_ROWS = 10_000_000
"""Most lines of a table of predicted changes: perturbations, directions, sets of cells, target features."""

JOIN = "+"
"""Separates the names of features that change together."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and the cells of a file that are to be perturbed.

    `trained`: the training in this run, None where a model was given.
    """

    saved: SavedModel
    files: Sequence[ModalityFile]
    modality: str
    file: ModalityFile
    chosen: ChosenCells
    trained: Trained | None

    @property
    def names(self) -> list[str]:
        """All features of the perturbed modality, in the model's order."""
        return list(map(str, self.saved.modalities[self.modality]["var_names"]))


@dataclass(frozen=True, eq=False)
class PlacedCells:
    """The perturbed cells in the latent, and what is to change in them.

    `targets`: latent coordinates of the target cells, `(n_targets, n_latent)`, without rows where there are
    none.
    """

    cells: Replacement
    sets: CellSets
    targets: FloatArray
    perturbations: Sequence[Perturbation]


@dataclass(frozen=True, eq=False)
class Findings:
    """The results of perturbations; None where not asked for."""

    screened: pd.DataFrame | None
    predicted: Predicted | None
    truth: Truth | None


def begin(run: Run, request: Request, options: PerturbOptions) -> Subject:
    """Open files, find cells and features, and train where no model is given."""
    files = open_modalities(request.data)
    if options.from_model is not None:
        saved = load_given(run, request, options.from_model, Task.PERTURB, files)
        return Subject(saved, files, *in_model(saved, options, files), None)
    file, chosen = among_inputs(request, options, files, run)
    data = replace(request.data, keep={file.name: _features_to_keep(options, chosen, file)})
    if options.truth is not None:
        run.warn(
            "the model is trained on all cells, including the perturbed ones: for a fair comparison with "
            "--truth, give --from-model a model that has not seen these"
        )
    obtained = obtain(run, replace(request, data=data), None, Aim(Task.PERTURB), files)
    return Subject(obtained.saved, files, file.name, file, chosen, obtained.trained)


def place_subject(run: Run, request: Request, options: PerturbOptions, subject: Subject) -> PlacedCells:
    """Place the cells, find their groups, and choose the features that are perturbed."""
    saved, chosen, modality = subject.saved, subject.chosen, subject.modality
    aligned = align(saved, modality, subject.file, layers=request.data.layer, warn=run.warn)
    x = aligned.read(chosen.source)
    targets: FloatArray
    if isinstance(saved.model, Encodes):
        cells = Replacement.of(saved, modality, x, aligned.absent, run.device)
        targets = np.zeros((0, cells.z.shape[1]), np.float32)
        if len(chosen.target):
            targets = place(saved, modality, aligned.read(chosen.target), aligned.absent, run.device)
    else:
        rows = np.union1d(chosen.source, chosen.target)
        placed = settle_cells(
            saved,
            modality,
            align(saved, modality, subject.file.take(rows), layers=request.data.layer, warn=lambda _: None),
            request.data,
            device=run.device,
            seed=request.run.seed,
            tell=run,
        )
        source = np.searchsorted(rows, chosen.source).astype(np.int64)
        cells = Replacement.settled(saved, modality, x, aligned.absent, placed, source)
        targets = placed.z[np.searchsorted(rows, chosen.target)]
    if len(chosen.target):
        cells = cells.with_targets(saved, aligned.read(chosen.target))
    groups = chosen.groups
    sets = split_cells(
        None if groups is None else groups[chosen.source],
        None if groups is None else groups[chosen.target],
        targets,
        n=len(chosen.source),
        min_cells=options.min_cells,
    )
    where = f" ({options.source})" if options.source else ""
    run.say(f"{modality}: {len(chosen.source):,} cells{where} are perturbed")
    if options.target is not None:
        run.say(f"towards {len(chosen.target):,} cells ({options.target})")
    if sets.left_out:
        groups_left_out = "; ".join(
            f"{name}: {n:,}" + (f" perturbed, {n_target:,} target" if options.target is not None else "")
            for name, n, n_target in sets.left_out
        )
        run.warn(
            f"groups of fewer than {options.min_cells} perturbed cells (--min-cells), or 20 target cells, "
            f"are part of all cells only: {groups_left_out}"
        )
    perturbations = _choose_perturbations(run, options, subject, cells, x)
    if isinstance(cells.mover, Settled):
        run.say("the new coordinates of changed cells are found to first order, with their totals held fixed")
    elif not isinstance(saved.model, EntersLinearly):
        run.say("the encoder does not begin with a linear layer: whole cells are encoded again")
    return PlacedCells(cells, sets, targets, perturbations)


def perturb_subject(
    run: Run, request: Request, options: PerturbOptions, subject: Subject, placed: PlacedCells
) -> Findings:
    """Screen, predict, compare: whatever is asked for."""
    saved, cells, sets, effect = subject.saved, placed.cells, placed.sets, options.change
    run.say(
        f"{plural(len(placed.perturbations), 'perturbation')}, each "
        + " and ".join(effect.words(d) for d in options.directions)
    )
    used = cells.response.used
    level = expression(cells, np.arange(len(cells.z)))[used]
    perturbations = with_null(placed.perturbations, subject.names, used, level, seed=request.run.seed)
    target = options.target_modality or subject.modality
    screened = predicted = truth = None
    if options.predicts or options.looks_across:
        reader = TargetReader.of(saved, target, run.device)
        run.say(f"{target} before and after a perturbation is predicted by {in_words(reader.route)}")
    if options.screens:
        screened = screen(
            cells,
            perturbations,
            sets,
            effect,
            options.directions,
            across=Across.of(reader, sets, placed.targets) if options.looks_across else None,
            progress=progress(run.say, "perturbing", "perturbations"),
        )
    if options.predicts:
        n_rows = len(placed.perturbations) * len(options.directions) * len(reader.names) * len(sets.sets)
        if n_rows > MOST_ROWS:
            raise UsageError(
                f"the table of predicted changes would have {n_rows:,} lines",
                field="--features",
                expected=f"at most {MOST_ROWS:,}",
                hint="name fewer features, one --direction, or no --group-key",
            )
        predicted = predict_changes(cells, perturbations, sets, effect, options.directions, reader)
        target_file = find_modality(subject.files, reader.modality, saved)
        seed, layers = request.run.seed, request.data.layer
        contrast = measured_contrast(target_file, subject.file, subject.chosen, reader, layers, seed=seed)
        if contrast is not None:
            predicted = replace(predicted, table=with_measured(predicted.table, reader.names, contrast))
        if subject.chosen.truth is not None:
            aligned = _measured_target(subject, reader, request.data.layer)
            measured = MeasuredChanges.of(
                aligned, reader, subject.file, subject.chosen.source, subject.chosen.truth
            )
            truth = compare_with_truth(
                cells,
                measured,
                reader,
                placed.perturbations,
                effect,
                options.directions,
                seed=request.run.seed,
                gene_sets=None if request.data.gene_sets is None else read_gene_sets(request.data.gene_sets),
            )
    return Findings(screened, predicted, truth)


def _measured_target(subject: Subject, reader: TargetReader, layers: Mapping[str, str]) -> Aligned:
    """Return the file of the modality that is predicted, aligned with the model."""
    file: ModalityFile | None = subject.file
    if reader.modality != subject.modality:
        file = find_modality(subject.files, reader.modality, subject.saved)
    if file is None:
        raise InputError(
            f"no input holds '{reader.modality}', which is needed to compare predictions with",
            field="--truth",
            hint="give the file, or leave --truth out",
        )
    return align(subject.saved, reader.modality, file, layers=layers, warn=lambda _: None)


def _choose_perturbations(
    run: Run, options: PerturbOptions, subject: Subject, cells: Replacement, x: CSR
) -> list[Perturbation]:
    """Return what changes: the features named, those of `--truth`, or those of a screen."""
    names, used = subject.names, cells.response.used
    truth = subject.chosen.truth
    if truth is not None and not options.features:
        levels = perturbed_cells(truth, subject.chosen.source)
        return true_perturbations(levels, names, cells, column=str(options.truth), file=subject.file)
    if options.features:
        columns = _named_columns(run, subject, cells, options.features)
    elif options.screen == "all" or len(used) <= MOST_VARIABLE:
        columns = [int(c) for c in used]
    else:
        recipe = replace(subject.saved.recipes[subject.modality].options, n_top=MOST_VARIABLE, seen_in=None)
        columns = [int(c) for c in used[highly_variable(x[:, used], recipe)]]
    if options.change.kind == TOWARDS and options.direction in (UP, DOWN):
        assert cells.difference is not None
        columns = [c for c in columns if (cells.difference[c] > 0) == (options.direction == UP)]
    if options.together:
        return [Perturbation(JOIN.join(names[c] for c in columns), tuple(columns))]
    return [Perturbation(names[c], (c,)) for c in columns]


def _named_columns(run: Run, subject: Subject, cells: Replacement, features: Sequence[str]) -> list[int]:
    where: dict[str, int] = {}
    for k, name in enumerate(subject.names):
        where.setdefault(name, k)
    place = cells.response.place
    unused = [name for name in features if place[where[name]] < 0]
    if unused:
        raise InputError(
            f"the model's encoder takes {len(cells.response.used):,} of {len(place):,} features of "
            f"'{subject.modality}', and not {'these' if len(unused) > 1 else 'this one'}",
            field="--features",
            found=", ".join(unused[:5]),
            hint=f"train it with all of them: --hvg {subject.modality}=0",
        )
    lacking = [name for name in features if where[name] in cells.absent]
    if lacking:
        run.warn(
            f"{subject.file.name} has no {', '.join(lacking[:5])}: features that were not measured "
            "cannot change"
        )
    return [where[name] for name in features]


def _features_to_keep(options: PerturbOptions, chosen: ChosenCells, file: ModalityFile) -> tuple[str, ...]:
    """Return the features that a model trained now must take, however little they vary."""
    named = dict.fromkeys(options.features)
    if chosen.truth is not None:
        named |= dict.fromkeys(v for v in chosen.truth if v is not None)
    names = set(map(str, file.var.index))
    return tuple(name for name in named if name in names)
