"""The steps of an imputation after its survey: a model obtained, cells translated; each a frozen result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mocli.errors import InputError
from mocli.tasks.impute.denoise import Denoised
from mocli.tasks.impute.holdout import without
from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.impute.survey import Survey
from mocli.tasks.infer.align import align
from mocli.tasks.infer.batch import own_batches
from mocli.tasks.infer.decoder import ValueDecoder
from mocli.tasks.infer.place import place_cells
from mocli.tasks.infer.predictor import choose_predictor, readout_from
from mocli.tasks.infer.translation import Translation
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.obtain import obtain
from mocli.tasks.trained.saved import SavedModel, write_model
from mocli.tasks.trained.train import Trained
from mocli.types import BoolArray, FloatArray, IntArray, Route, Task


def obtain_model(
    run: Run, request: Request, task: Task, surveyed: Survey
) -> tuple[SavedModel, Trained | None]:
    """Return the model that was given, or one trained now without the cells held out, and its training."""
    direction = surveyed.direction
    if direction.saved is not None:
        return direction.saved, None
    obtained = obtain(run, request, None, task, without(surveyed.files, surveyed.held_out))
    saved, trained = obtained.saved, obtained.trained
    assert trained is not None
    source, target = direction.source, direction.target
    readout = readout_from(
        trained, saved.readouts[target], source, target, device=run.device, seed=request.run.seed
    )
    if readout is not None:
        saved = replace(saved, readouts={**saved.readouts, target: readout})
        write_model(run.paths.model, saved)
        run.add_output(run.paths.model, "the trained model")
    return saved, trained


def translate(
    run: Run, request: Request, asked: ImputeOptions, surveyed: Survey, saved: SavedModel
) -> tuple[Translation, str]:
    """Place every cell of the source in the latent, and choose what makes values of it; and why so.

    Raises
    ------
    InputError
        The model has no readout of the target.
    UsageError
        A route or a batch to decode as that the model does not offer.
    """
    source, target = surveyed.direction.source, surveyed.direction.target
    file, data = surveyed.direction.source_file, request.data
    if target not in saved.readouts:
        raise InputError(
            f"the model cannot give values of '{target}'",
            file=str(asked.from_model),
            hint="train it again with this version of mocli",
        )
    predictor, why = choose_predictor(
        saved,
        source,
        target,
        route=Route(asked.route),
        batch=asked.decode_batch,
        device=run.device,
        warn=run.warn,
    )
    batches = None
    if isinstance(predictor, ValueDecoder) and predictor.batch and predictor.batch.own:
        batches = own_batches(saved, target, file, data.batch_key, run.warn)
    aligned = align(saved, source, file, layers=data.layer, warn=run.warn)
    z = place_cells(
        saved, source, aligned, data, device=run.device, seed=request.run.seed, say=run.say, warn=run.warn
    )
    run.say(f"{source} -> {target}: {file.n_obs:,} cells encoded")
    run.say(f"values by the {predictor.name} ({why})")
    made = Translation(
        saved,
        source,
        target,
        file,
        surveyed.direction.target_file,
        surveyed.pairs,
        data.layer,
        z,
        predictor,
        batches,
    )
    return made, why


@dataclass(frozen=True, eq=False)
class Imputation:
    """What is to be written: which values of which cells.

    Attributes
    ----------
    trained
        What was trained in this run, None where a model was given.
    columns
        Features of the target that are written, in their order.
    why
        Why values are made by this route.
    denoised
        Puts values at the depth of each cell, where a modality is imputed from itself.
    """

    asked: ImputeOptions
    survey: Survey
    translation: Translation
    trained: Trained | None
    columns: IntArray
    why: str
    denoised: Denoised | None

    def rows_to_fill(self) -> tuple[IntArray, BoolArray]:
        """Rows of the source that are written, and which of them lack the target or had it hidden."""
        n = self.translation.source_file.n_obs
        if self.denoised is not None:
            return np.arange(n), np.zeros(n, dtype=bool)
        lacks = self.survey.lacking(self.asked)
        rows = np.arange(n) if self.asked.cells == "all" else np.flatnonzero(lacks)
        return rows, lacks[rows]

    def values(self, rows: IntArray) -> FloatArray:
        """Return what is written of some rows of the source, `(n, n_columns)`."""
        scale = self.asked.scale
        if self.denoised is not None:
            return self.denoised.predict(self.translation.z[rows], rows, scale, self.columns)
        return self.translation.predict(rows, scale, self.columns)
