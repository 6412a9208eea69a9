"""Inputs of an imputation, checked before anything is trained, by a dry run as well as by a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.errors import InputError, UsageError
from mocli.tasks.impute.accuracy import rows_drawn
from mocli.tasks.impute.holdout import OPTION, Groups, labels_of_sides
from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.infer.align import find_modality, given_modality
from mocli.tasks.infer.decoder import check_before_training
from mocli.tasks.infer.translation import (
    Direction,
    check_peaks,
    columns_of,
    comparable_target,
    direction_of_inputs,
    direction_of_model,
    likely_direction,
    rows_lacking,
    seen_in_training,
    shared_cells,
)
from mocli.tasks.prepare.pairing import Relation, relate_files
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.request import Request
from mocli.tasks.trained.train import load_given
from mocli.types import BoolArray, IntArray, ModalityKind, Pairing, StrArray, Task

FEWEST_COMPARED = 20
"""Fewest cells from which accuracy and intervals are reported."""


@dataclass(frozen=True, eq=False)
class Survey:
    """Inputs of an imputation, checked before anything is trained.

    Attributes:
        pairs: Rows of the same cell in source and target files, `(n, 2)`.
        compared: Rows of `pairs` whose target is hidden and then compared with.
        target_rows: Rows of the target that may be looked at: all but those hidden in training.
        held_out: Cells of each modality that training does not see, `(n_obs,)`; none where a model was given.
    """

    files: list[ModalityFile]
    relation: Relation | None
    direction: Direction
    pairs: IntArray
    compared: IntArray
    target_rows: IntArray
    held_out: Mapping[str, BoolArray]

    def drawn(self, *, seed: int) -> IntArray:
        """Return the rows of `pairs` that accuracy is measured on."""
        return self.compared[rows_drawn(len(self.compared), seed=seed)]

    def grouped(self, groups: Groups, *, seed: int) -> tuple[IntArray, StrArray]:
        """Return the rows of the source whose groups are compared, and the group of each, None without one.

        Raises `InputError`: as `Groups.chosen` raises it.
        """
        source_file, target_file = self.direction.source_file, self.direction.target_file
        if self.direction.source == self.direction.target:
            group = groups.of_file(source_file)
            rows = np.flatnonzero(groups.has(group))
            rows = rows[rows_drawn(len(rows), seed=seed)]
        else:
            assert target_file is not None
            columns = find_column(self.files, groups.column, option=OPTION)
            group, _ = labels_of_sides((source_file, target_file), self.pairs, columns)
            rows = self.pairs[self.drawn(seed=seed), 0]
        groups.chosen(group[rows], group)
        return rows, group[rows]

    def lacking(self, options: ImputeOptions) -> BoolArray:
        """Return which cells of the source lack the target or have it hidden, `(n_obs,)`.

        Raises `UsageError`: none does, and only such cells are asked for.
        """
        compared = self.compared if options.evaluate else self.compared[:0]
        lacks = rows_lacking(self.direction.source_file.n_obs, self.pairs, compared)
        unpaired = self.relation is not None and self.relation.pairing is Pairing.UNPAIRED
        if unpaired and not lacks.any():
            return np.ones_like(lacks)  # partners that are known only serve comparison
        if options.cells == "missing" and not lacks.any():
            raise UsageError(
                f"every cell of {self.direction.source} has {self.direction.target} measured, so nothing is "
                "missing",
                field="--cells",
                hint="impute them all the same with --cells all, or hide and compare some with --evaluate",
            )
        return lacks


def survey(
    request: Request, options: ImputeOptions, task: Task, files: list[ModalityFile], tell: Tell
) -> Survey:
    """Settle what is imputed from what, and find mistakes before they cost a training.

    Raises `MocliError`: inputs, model and options do not fit each other.
    """
    relation = relate_files(files, request.data.pairing) if len(files) > 1 else None
    if options.from_model is None:
        direction = _between_inputs(options, files, task)
    else:
        direction = _of_model(request, options, files, task, tell)
    source, target = direction.source, direction.target
    source_file, target_file = direction.source_file, direction.target_file
    pairs = shared_cells(files, relation, request.data.pair_key, source_file, target_file)
    compared = np.zeros(0, np.int64)
    target_rows = np.arange(0 if target_file is None else target_file.n_obs)
    held_out: Mapping[str, BoolArray] = {}
    if direction.saved is None:
        known_pairs = pairs if len(pairs) else None
        held_out = options.hold_out.choose(files, known_pairs, source, target, seed=request.run.seed)
        target_rows = np.flatnonzero(~held_out[target])
        if any(out.any() for out in held_out.values()):
            counts = ", ".join(f"{int(out.sum()):,} of {name}" for name, out in held_out.items() if out.any())
            tell.say(f"held out of training and predicted as new cells: {counts}")
        compared = np.flatnonzero(held_out[source][pairs[:, 0]])
    elif options.evaluate:
        compared = np.arange(len(pairs))
    if options.evaluate and len(compared) < FEWEST_COMPARED:
        raise InputError(
            f"--evaluate needs cells measured in {source} and {target}",
            found=f"{len(compared):,} such cells to compare with",
            expected=f"at least {FEWEST_COMPARED}",
            hint="give both modalities of paired cells (and --hold-out above 0), or leave --evaluate out",
        )
    if options.evaluate and request.data.label_key is not None:
        find_column(files, request.data.label_key, option="--label-key")
    columns_of(options.features, direction.target_names, target)
    if direction.saved is None:
        check_before_training(files, request.data.batch_key, options.decode_batch)
    surveyed = Survey(files, relation, direction, pairs, compared, target_rows, held_out)
    surveyed.lacking(options)
    if options.compare_groups is not None:
        surveyed.grouped(options.compare_groups, seed=request.run.seed)
    return surveyed


def _between_inputs(options: ImputeOptions, files: list[ModalityFile], task: Task) -> Direction:
    source, target = options.source, options.target
    if task is Task.GENE2PEAK:
        source, target = likely_direction(source, target, {f.name: f.kind for f in files})
    source, target = direction_of_inputs(source, target, [f.name for f in files])
    by_name = {f.name: f for f in files}
    return Direction(source, target, by_name[source], by_name[target], None)


def _of_model(
    request: Request, options: ImputeOptions, files: list[ModalityFile], task: Task, tell: Tell
) -> Direction:
    # imported here: a dry run must not pay for torch
    assert options.from_model is not None
    saved = load_given(tell, request, options.from_model, task, files)
    source, target = options.source, options.target
    if task is Task.GENE2PEAK:
        kinds = {name: ModalityKind(m["kind"]) for name, m in saved.modalities.items()}
        if source is None:
            check_peaks(kinds, files)
        source, target = likely_direction(source, target, kinds)
    source, target = direction_of_model(source, target, saved, files)
    source_file = given_modality(files, source, saved, "--from")
    target_file = find_modality(files, target, saved)
    if target_file is not None and not options.evaluate:
        target_file = comparable_target(saved, target, target_file, request.data.layer, tell.warn)
    if options.evaluate and seen_in_training(saved, files):
        tell.warn(
            "the model was trained on these same files: accuracy and intervals are those of cells it "
            "knows, not of new ones; for those, give --hold-out when you train"
        )
    return Direction(source, target, source_file, target_file, saved)
