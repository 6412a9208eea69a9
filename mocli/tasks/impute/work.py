"""The work of `mocli impute`: a model, cells to fill, cells to check against, what is written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from mocli.data.files.columns import find_column
from mocli.errors import InputError
from mocli.tasks.impute import accuracy as accuracy
from mocli.tasks.impute.baselines import baselines, on_partners
from mocli.tasks.impute.denoise import Denoised
from mocli.tasks.impute.draw import check_draws
from mocli.tasks.impute.holdout import without
from mocli.tasks.impute.labels import ByLabel
from mocli.tasks.infer.align import align, find_modality
from mocli.tasks.infer.batch import check_before_training, own_batches
from mocli.tasks.infer.decoder import Decoder
from mocli.tasks.infer.direction import (
    Direction,
    check_peaks,
    columns_of,
    comparable_target,
    direction_of_inputs,
    direction_of_model,
    genes_from_peaks,
    rows_lacking,
    seen_in_training,
    shared_cells,
)
from mocli.tasks.infer.place import place_cells
from mocli.tasks.infer.predictor import Predictor, choose_predictor, of_cells, readout_from
from mocli.tasks.prepare.pairing import relate
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.trained.calibration import Calibration, fitting, load_calibrations, save_calibrations
from mocli.tasks.trained.obtain import check_task
from mocli.tasks.trained.saved import SavedModel, load_model, write_model
from mocli.tasks.trained.train import Trained, train_model
from mocli.types import ModalityKind, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.impute.accuracy import Evaluation
    from mocli.tasks.impute.impute import ImputeOptions
    from mocli.tasks.prepare.pairing import Relation
    from mocli.tasks.relate.candidates import Candidates
    from mocli.tasks.relate.relate import Related
    from mocli.tasks.run.request import Request
    from mocli.tasks.run.run import Run
    from mocli.tasks.trained.calibration import Key
    from mocli.tasks.trained.readout import FeatureReadout
    from mocli.types import BoolArray, FloatArray, IntArray

MODEL = "the trained model"
FEWEST_CHECKED = 20
"""Cells below which neither accuracy nor intervals are worth printing."""


@dataclass(eq=False)
class Imputation:
    """One run of `impute`, from the model to the report.

    Attributes
    ----------
    pairs
        Rows of the same cell in source and target files, `(n, 2)`.
    checked
        Rows of `pairs` whose target was hidden and is compared.
    kept
        Rows of the target that are no secret: all but those hidden in training.
    trained
        What was trained in this run, None where a model was given.
    candidates, related
        Pairs of features to correlate, and what was found; None where not asked for.
    predictor, why
        What makes values of places, and why this one.
    own
        Codes of the batches of the source's cells, where each is decoded under its own.
    denoised
        Puts these values at the depth of each cell, where a modality is imputed from itself.
    """

    run: Run
    request: Request
    asked: ImputeOptions
    saved: SavedModel
    files: list[ModalityFile]
    relation: Relation
    source: str
    target: str
    source_file: ModalityFile
    target_file: ModalityFile | None
    pairs: IntArray
    checked: IntArray
    kept: IntArray
    trained: Trained | None
    candidates: Candidates | None
    z: FloatArray = field(init=False)
    columns: IntArray = field(init=False)
    predictor: Predictor = field(init=False)
    why: str = field(init=False)
    own: IntArray | None = None
    denoised: Denoised | None = None
    evaluation: Evaluation | None = None
    by_label: ByLabel | None = None
    calibration: Calibration | None = None
    related: Related | None = None

    @classmethod
    def begin(
        cls,
        run: Run,
        request: Request,
        asked: ImputeOptions,
        *,
        task: Task = Task.IMPUTE,
        candidates: Callable[[Direction], Candidates] | None = None,
    ) -> Self:
        """Open files, settle what goes where, and train where no model is given.

        Parameters
        ----------
        candidates
            Chooses pairs of features to correlate; called before training, so that
            its errors come early.
        """
        files = open_modalities(request.data)
        relation = relate([f.obs.index for f in files], request.data.pairing) if len(files) > 1 else None
        trained = given = None
        by_kind = task is Task.GENE2PEAK
        if asked.from_model is None:
            asked = genes_from_peaks(asked, {f.name: f.kind for f in files}) if by_kind else asked
            source, target = direction_of_inputs(asked, [f.name for f in files])
        else:
            saved = given = load_model(asked.from_model)
            if by_kind:
                kinds = {name: ModalityKind(m["kind"]) for name, m in saved.modalities.items()}
                check_peaks(asked, kinds, files)
                asked = genes_from_peaks(asked, kinds)
            run.say(f"model: {saved.description['model']} from {asked.from_model}")
            for note in (note for f in files for note in f.notes):
                run.say(note)
            check_task(saved.description["model"], task)
            request.tell_unused(run.warn)
            source, target = direction_of_model(asked, saved, files)
        by_name = {f.name: f for f in files}
        if asked.from_model is None:
            source_file: ModalityFile = by_name[source]
            target_file: ModalityFile | None = by_name[target]
        else:
            found = find_modality(files, source, saved)
            if found is None:
                raise InputError(
                    f"no input is the model's '{source}'",
                    file=", ".join(f.where for f in files),
                    found=", ".join(f"{f.name} ({f.kind})" for f in files),
                    expected=source,
                    hint=f"name it: {source}=FILE, or choose another with --from",
                )
            source_file, target_file = found, find_modality(files, target, saved)
            if target_file is not None and not asked.evaluate:
                target_file = comparable_target(saved, target, target_file, request.data.layer, run.warn)
            if asked.evaluate and seen_in_training(saved, files):
                run.warn(
                    "the model was trained on these very files: accuracy and intervals are of cells that it "
                    "knows, not of new ones; --hold-out while training gives those"
                )
        pairs = shared_cells(files, relation, request.data.pair_key, source_file, target_file)
        checked = np.zeros(0, np.int64)
        kept = np.arange(0 if target_file is None else target_file.n_obs)
        if asked.from_model is None:
            out = asked.hold_out.choose(
                files, pairs if len(pairs) else None, source, target, seed=request.run.seed
            )
            kept = np.flatnonzero(~out[target])
            n_out = sum(int(o.sum()) for o in out.values())
            if n_out:
                told = ", ".join(f"{int(o.sum()):,} of {name}" for name, o in out.items() if o.any())
                run.say(f"kept out of training, to be predicted as new cells: {told}")
            if len(pairs):
                checked = np.flatnonzero(out[source][pairs[:, 0]])
        elif asked.evaluate:
            checked = np.arange(len(pairs))
        if asked.evaluate and len(checked) < FEWEST_CHECKED:
            raise InputError(
                f"--evaluate needs cells measured in {source} and {target}",
                found=f"{len(checked):,} such cells to compare with",
                expected=f"at least {FEWEST_CHECKED}",
                hint="give both modalities of paired cells (and --hold-out above 0), or leave --evaluate out",
            )
        direction = Direction(source, target, source_file, target_file, given)
        # before training: mistakes show in seconds
        if asked.evaluate and request.data.label_key is not None:
            find_column(files, request.data.label_key, option="--label-key")
        columns_of(asked.features, direction.target_names, target)
        rows_lacking(source, target, source_file.n_obs, pairs, checked, asked)
        chosen = candidates(direction) if candidates else None
        if asked.from_model is None:
            check_before_training(files, request.data.batch_key, asked.decode_batch)
            trained = train_model(run, request, task, without(files, out))
            saved = load_model(run.paths.model)
            fitted = readout_from(
                trained, saved.readouts[target], source, target, device=run.device, seed=request.run.seed
            )
            if fitted is not None:
                saved = replace(saved, readouts={**saved.readouts, target: fitted})
                write_model(run.paths.model, saved)
            run.add_output(run.paths.model, MODEL)
        relation = relation or relate([source_file.obs.index], "unpaired")
        return cls(
            run, request, asked, saved, files, relation, source, target, source_file, target_file,
            pairs, checked, kept, trained, chosen,
        )  # fmt: skip

    @property
    def readout(self) -> FeatureReadout:
        """What the latent says of the target's features."""
        return self.saved.readouts[self.target]

    @property
    def names(self) -> list[str]:
        """All features of the target, in the model's order."""
        return list(self.saved.modalities[self.target]["var_names"])

    def encode(self) -> None:
        """Place every cell of the source in the latent; choose features and scale."""
        run, asked = self.run, self.asked
        if self.target not in self.saved.readouts:
            raise InputError(
                f"the model cannot give values of '{self.target}'",
                file=str(asked.from_model),
                hint="train it again with this version of mocli",
            )
        self.readout.check_scale(asked.scale, self.target)
        if asked.draw:
            check_draws(self.saved, self.target)
        self.columns = columns_of(asked.features, self.names, self.target)
        self.predictor, self.why = choose_predictor(
            self.saved, asked, self.source, self.target, device=run.device, warn=run.warn
        )
        if isinstance(self.predictor, Decoder) and self.predictor.batch and self.predictor.batch.own:
            batch_key = self.request.data.batch_key
            self.own = own_batches(self.saved, self.target, self.source_file, batch_key, run.warn)
        aligned = align(
            self.saved, self.source, self.source_file, layers=self.request.data.layer, warn=run.warn
        )
        self.z = place_cells(
            self.saved,
            self.source,
            aligned,
            self.request.data,
            device=run.device,
            seed=self.request.run.seed,
            say=run.say,
            warn=run.warn,
        )
        if self.source == self.target:
            self.denoised = Denoised.of(self.predictor, self.readout, aligned, self.own)
        run.say(f"{self.source} -> {self.target}: {self.source_file.n_obs:,} cells encoded")
        run.say(f"values by the {self.predictor.name} ({self.why})")

    def check(self) -> None:
        """Compare with measured values where there are some; find intervals."""
        if self.denoised is not None:
            self.run.say(
                f"neither intervals nor accuracy: {self.target} of these cells was seen, and agreement with "
                "it would be reconstruction"
            )
            return
        kept = {} if self.asked.from_model is None else load_calibrations(self.asked.from_model)
        if len(self.checked) >= FEWEST_CHECKED and self.target_file is not None:
            for scale in dict.fromkeys((self.asked.scale, "log", *self.readout.by_scale)):
                if scale != self.asked.scale and self.trained is None:
                    continue
                found = self._evaluate(scale)
                how = "held out of training" if self.trained else "measured in both"
                basis = f"{found.n_cells:,} cells {how}"
                kept[self._key(scale)] = Calibration(found.intervals, basis, found.accuracy)
                if scale == self.asked.scale:
                    self.evaluation = found
        elif self.trained is not None:
            kept |= {self._key(scale): found for scale, found in on_partners(self).items()}
        if self.trained is not None:
            save_calibrations(self.run.paths.model, kept)
            self.run.add_output(self.run.paths.model, MODEL)
        self.calibration = fitting(
            kept,
            self._key(self.asked.scale),
            coverage=self.asked.coverage,
            moments=self.readout.moments("log"),
            warn=self.run.warn,
        )
        if self.calibration is None:
            self.run.warn(
                f"no prediction intervals for {self.source} -> {self.target} on the scale "
                f"'{self.asked.scale}': {self._why_none(kept)}"
            )
        elif self.evaluation is None and self.asked.from_model is not None:
            self.run.warn(
                f"intervals, and accuracy in var, are those of {self.calibration.basis} when the model was "
                "trained: they hold for cells like those, less for another study's"
            )
        else:
            self.run.say(f"intervals: {self.calibration.basis}")

    def _key(self, scale: str) -> Key:
        return self.source, self.target, scale, self.predictor.name

    def _why_none(self, kept: Mapping[Key, Calibration]) -> str:
        others = {key[3] for key in kept if key[:2] == (self.source, self.target)}
        if self.trained is None and others:
            by = " and ".join(sorted(others))
            return f"those of the model are of the {by}, not of the {self.predictor.name}"
        if self.trained is None:
            return "the model holds none; give cells measured in both with --evaluate"
        return "too few cells were measured in both, and no links join the two directly"

    def _evaluate(self, scale: str) -> Evaluation:
        assert self.target_file is not None
        seed = self.request.run.seed
        rows = self.checked[accuracy.rows_drawn(len(self.checked), seed=seed)]
        cells, true_cells = self.pairs[rows, 0], self.pairs[rows, 1]
        aligned = align(
            self.saved, self.target, self.target_file, layers=self.request.data.layer, warn=_quiet
        )
        x = aligned.read(true_cells)
        readout = self.readout
        # of other scales only the intervals are kept
        asked = scale == self.asked.scale
        if asked:
            self.by_label = ByLabel.of(self, scale, cells, aligned)
        return accuracy.evaluate(
            lambda columns: readout.measured(x, scale, columns, aligned.absent),
            lambda columns: self.predict(cells, scale, columns),
            baselines(self, scale, cells, aligned) if asked else {},
            n_vars=readout.n_vars,
            n_cells=len(rows),
            coverage=self.asked.coverage,
            floor=readout.floor if scale != "scaled" else None,
            seed=seed,
            # of peaks the question is whether they are open at all
            detect=self.target_file.kind is ModalityKind.ATAC and scale != "scaled" and readout.floor == 0,
            see=self.by_label.see if asked and self.by_label is not None else None,
        )

    def rows_to_fill(self) -> tuple[IntArray, BoolArray]:
        """Rows of the source that are written, and which of them lack the target or had it hidden."""
        n = self.source_file.n_obs
        if self.denoised is not None:
            return np.arange(n), np.zeros(n, dtype=bool)
        lacks = rows_lacking(self.source, self.target, n, self.pairs, self.checked, self.asked)
        rows = np.arange(n) if self.asked.cells == "all" else np.flatnonzero(lacks)
        return rows, lacks[rows]

    def values(self, rows: IntArray) -> FloatArray:
        """Return what is written of some rows of the source, `(n, n_columns)`."""
        scale = self.asked.scale
        if self.denoised is not None:
            return self.denoised.predict(self.z[rows], rows, scale, self.columns)
        return self.predict(rows, scale, self.columns)

    def predict(self, rows: IntArray, scale: str, columns: IntArray) -> FloatArray:
        """Return expected values of some rows of the source for columns of the target, `(n, n_columns)`."""
        own = None if self.own is None else self.own[rows]
        return of_cells(self.predictor, own).predict(self.z[rows], scale, columns)

    def deliver(self) -> None:
        """Write file and report."""
        from mocli.tasks.impute.write import deliver

        deliver(self)


def _quiet(_: str) -> None:
    """Say nothing a second time."""
