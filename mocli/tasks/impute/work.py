"""The steps of an imputation after its survey: obtain a model, translate cells. Each returns a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mocli.data.files.modality import of_anndata
from mocli.errors import UsageError
from mocli.models.base import Decodes
from mocli.models.registry import models_that
from mocli.tasks.impute.denoise import Denoised, check_draws
from mocli.tasks.impute.holdout import without
from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.impute.survey import Survey
from mocli.tasks.infer.decoder import cannot_decode, in_new_batch
from mocli.tasks.infer.predictor import in_words, placed_by, readout_from
from mocli.tasks.infer.stackfitting import COVERAGE, fitted_stack, keep_stacks
from mocli.tasks.infer.translation import Direction, Translation, choose, columns_of, direction_of_model
from mocli.tasks.prepare.plan import Aim
from mocli.tasks.run.frame import Foresight, Tell
from mocli.tasks.run.options import DataOptions
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.calibration import fitting, load_calibrations
from mocli.tasks.trained.saved import SavedModel, load_model, write_model
from mocli.tasks.trained.train import Trained, obtain
from mocli.types import BoolArray, FloatArray, IntArray, Route, Task

if TYPE_CHECKING:
    from anndata import AnnData


def obtain_model(
    run: Run, request: Request, task: Task, surveyed: Survey, *, coverage: float = COVERAGE
) -> tuple[SavedModel, Trained | None]:
    """Return the model that was given, or one trained now without the held-out cells, and its training.

    Args:
        coverage: Of the intervals that are kept with it.
    """
    direction = surveyed.direction
    if direction.saved is not None:
        return direction.saved, None
    obtained = obtain(
        run, request, None, Aim(task, direction.target), without(surveyed.files, surveyed.held_out)
    )
    saved, trained = obtained.saved, obtained.trained
    assert trained is not None
    source, target, seed = direction.source, direction.target, request.run.seed
    z = placed_by(trained, source, device=run.device, seed=seed)
    if source == target or z is None:
        return saved, trained
    readout = readout_from(trained, saved.readouts[target], source, target, z, seed=seed)
    if readout is not None:
        saved = replace(saved, readouts={**saved.readouts, target: readout})
    fitted = None
    if task is Task.IMPUTE:
        with run.timed("stack"):
            fitted = fitted_stack(request, trained, saved, source, target, z, coverage=coverage)
    if readout is not None:
        write_model(run.paths.model, saved)
        run.add_output(run.paths.model, "the trained model")
    if fitted is not None:
        saved = keep_stacks(run, saved, {(source, target): fitted})
    return saved, trained


def check_asked(options: ImputeOptions, saved: SavedModel, target: str) -> None:
    """Raise `UsageError` for a scale, draws or groups of the target that the model does not give."""
    if target in saved.readouts:
        saved.readouts[target].check_scale(options.scale, target)
    if options.draw:
        check_draws(saved, target)
    problem = cannot_decode(saved, target)
    if options.compare_groups is not None and options.denoises and problem is not None:
        raise UsageError(
            f"groups cannot be compared by what the model expects of {target}: {problem}",
            field="--compare-groups",
            found=f"a model of {saved.description['model']}",
            hint=f"train another ({models_that(Decodes)}), or compare values imputed from another modality "
            "with --evaluate",
        )


def foresee_in_model(tell: Tell, request: Request, options: ImputeOptions, direction: Direction) -> None:
    """Open and match all that imputing by a given model will, but place no cell."""
    assert direction.saved is not None
    assert options.from_model is not None
    check_asked(options, direction.saved, direction.target)
    choose(
        direction.saved,
        direction,
        request.data,
        route=Route(options.route),
        batch=options.decode_batch,
        device=torch.device("cpu"),
        tell=tell,
    )
    load_calibrations(options.from_model)


def translate(
    run: Run, request: Request, options: ImputeOptions, surveyed: Survey, saved: SavedModel
) -> tuple[Translation, str]:
    """Encode every cell of the source, and choose what turns its latent coordinates into values, and why.

    Raises:
        InputError, UsageError: As `Translation.of` raises it.
    """
    translation, why = Translation.of(
        saved,
        surveyed.direction,
        request.data,
        route=Route(options.route),
        batch=options.decode_batch,
        device=run.device,
        seed=request.run.seed,
        tell=run,
    )
    translation = replace(translation, pairs=surveyed.pairs)
    run.say(f"{translation.source} -> {translation.target}: {translation.source_file.n_obs:,} cells encoded")
    run.say(f"{translation.target} is predicted by {in_words(translation.predictor.name)} ({why})")
    return translation, why


@dataclass(frozen=True, eq=False)
class Imputation:
    """The values to be written, and for which cells.

    Attributes:
        trained: What was trained in this run, None where a model was given.
        columns: Features of the target that are written, in their order.
        why: Why this route was chosen.
        denoised: Puts values at the depth of each cell, where a modality is imputed from itself.
    """

    options: ImputeOptions
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
        lacks = self.survey.lacking(self.options)
        rows = np.arange(n) if self.options.cells == "all" else np.flatnonzero(lacks)
        return rows, lacks[rows]

    def values(self, rows: IntArray) -> FloatArray:
        """Return what is written of some rows of the source, `(n, n_columns)`."""
        scale = self.options.scale
        if self.denoised is not None:
            return self.denoised.predict(self.translation.z[rows], rows, scale, self.columns)
        return self.translation.predict(rows, scale, self.columns)

    def times(self, rows: IntArray, batch_key: str | None, new_batch: float) -> FloatArray | None:
        """Return how many times wider the intervals of some rows of the source are, `(n,)`, if it is known.

        Args:
            new_batch: Times for cells of a batch that training lacked, at least.
        """
        return widened(
            self.translation, rows, batch_key, new_batch, trained_now=self.options.from_model is None
        )


def widened(
    translation: Translation, rows: IntArray, batch_key: str | None, new_batch: float, *, trained_now: bool
) -> FloatArray | None:
    """Return how many times wider the intervals of some rows of the source are, as `Imputation.times`."""
    times = translation.times(rows)
    if times is None or new_batch <= 1:
        return times
    saved, target, file = translation.saved, translation.target, translation.source_file
    new = in_new_batch(saved, target, file, batch_key, trained_now=trained_now)[rows]
    return np.where(new, np.maximum(times, np.float32(new_batch)), times)


@dataclass(frozen=True, eq=False)
class ImputedValues:
    """Expected values of some features for some cells.

    Attributes:
        names: Features, in the order of the columns.
        values: `(n_cells, n_features)`.
        lower, upper: Ends of prediction intervals, as `values`; None where the model has none.
        why: The route by which values were made, and why.
        distance: How far each cell lies from the training cells, `(n_cells,)`: 1 is as far as 99 % of cells
            like these lie; None where it is not known.
    """

    names: tuple[str, ...]
    values: FloatArray
    lower: FloatArray | None
    upper: FloatArray | None
    why: str
    distance: FloatArray | None


def impute_values(
    model: SavedModel | str | Path,
    cells: AnnData,
    target: str,
    *,
    source: str | None = None,
    features: Sequence[str] = (),
    scale: str = "log",
    device: str = "cpu",
    seed: int = 0,
) -> ImputedValues:
    """Impute a modality of cells that are in memory, by a trained model.

    Args:
        model: As `load_model` returns it, or its folder.
        cells: Measured in one modality of the model, raw values in `X` or a layer.
        source: The model's name of that modality; None where it has only one other than the target.
        features: Features of the target wanted; all where empty.
        scale: `log` (normalised, logged), `counts` of a cell of median depth, or `scaled`.

    Raises:
        InputError, UsageError: Cells, features or scale do not fit the model.
    """
    saved = load_model(model)
    source, target = direction_of_model(source, target, saved, ())
    file = of_anndata(cells, source, saved.modalities[source]["kind"])
    if target in saved.readouts:
        saved.readouts[target].check_scale(scale, target)
    translation, why = Translation.of(
        saved,
        Direction(source, target, file, None, saved),
        DataOptions(inputs=()),
        route=Route.AUTO,
        batch=None,
        device=torch.device(device),
        seed=seed,
        tell=Foresight(),
    )
    columns = columns_of(features, translation.names, target)
    rows = np.arange(file.n_obs)
    values, distance = translation.predict(rows, scale, columns), translation.distance(rows)
    lower = upper = None
    if not isinstance(model, SavedModel):
        key = (source, target, scale, translation.predictor.name)
        moments = translation.readout.moments("log")
        calibration = fitting(load_calibrations(Path(model)), key, coverage=None, moments=moments)
        if calibration is not None:
            times = widened(translation, rows, None, calibration.new_batch, trained_now=False)
            lower, upper = calibration.intervals.take(columns).interval(values, times)
    return ImputedValues(tuple(translation.names[j] for j in columns), values, lower, upper, why, distance)
