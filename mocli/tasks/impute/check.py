"""Whether imputed values can be believed: accuracy where cells were measured, and prediction intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from mocli.data.files.obs import find_column, find_labels
from mocli.tasks.impute import accuracy
from mocli.tasks.impute.accuracy import Evaluation
from mocli.tasks.impute.bygroup import ByGroup
from mocli.tasks.impute.bylabel import ByLabel
from mocli.tasks.impute.survey import FEWEST_COMPARED
from mocli.tasks.impute.ways import on_partners, simple_ways
from mocli.tasks.impute.work import Imputation
from mocli.tasks.infer.align import Aligned
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.calibration import (
    Calibration,
    Key,
    fitting,
    load_calibrations,
    save_calibrations,
)
from mocli.types import CSR, FloatArray, IntArray, ModalityKind


@dataclass(frozen=True, eq=False)
class Checked:
    """What is known of how good imputed values are; None where it is not known."""

    evaluation: Evaluation | None = None
    by_label: ByLabel | None = None
    by_group: ByGroup | None = None
    calibration: Calibration | None = None


def check(run: Run, request: Request, work: Imputation) -> Checked:
    """Compare with measured values where there are some; find intervals, and keep them with the model."""
    translation, asked = work.translation, work.asked
    if work.denoised is not None:
        run.say(
            f"neither intervals nor accuracy: {translation.target} of these cells was seen, and agreement "
            "with it would be reconstruction"
        )
        return Checked()
    kept = load_calibrations(asked.from_model or run.paths.model)
    evaluation, beside = None, _Beside()
    if len(work.survey.compared) >= FEWEST_COMPARED and translation.target_file is not None:
        compared = _Compared.of(work, seed=request.run.seed)
        for scale in dict.fromkeys((asked.scale, "log", *translation.readout.by_scale)):
            if scale != asked.scale and work.trained is None:
                continue
            seen = _Beside.of(request, work, compared, scale)
            evaluated = _evaluate(request, work, compared, scale, seen)
            how = "held out of training" if work.trained else "measured in both"
            basis = f"{evaluated.n_cells:,} cells {how}"
            kept[_key(work, scale)] = Calibration(evaluated.intervals, basis, evaluated.accuracy)
            if scale == asked.scale:
                evaluation, beside = evaluated, seen
    elif work.trained is not None and _key(work, asked.scale) not in kept:
        partners = on_partners(
            translation,
            work.trained,
            [asked.scale, *translation.readout.by_scale],
            coverage=asked.coverage,
            seed=request.run.seed,
        )
        kept |= {_key(work, scale): found for scale, found in partners.items()}
    if work.trained is not None:
        save_calibrations(run.paths.model, kept)
        run.add_output(run.paths.model, "the trained model")
    calibration = fitting(
        kept,
        _key(work, asked.scale),
        coverage=asked.coverage,
        moments=translation.readout.moments("log"),
        warn=run.warn,
    )
    if calibration is None:
        run.warn(
            f"no prediction intervals for {translation.source} -> {translation.target} on the scale "
            f"'{asked.scale}': {_why_none(work, kept)}"
        )
    elif evaluation is None and asked.from_model is not None:
        run.warn(
            f"intervals, and accuracy in var, are those of {calibration.basis} when the model was "
            "trained: they hold for cells like those, less for another study's"
        )
    else:
        run.say(f"intervals: {calibration.basis}")
    return Checked(evaluation, beside.by_label, beside.by_group, calibration)


def _key(work: Imputation, scale: str) -> Key:
    translation = work.translation
    return translation.source, translation.target, scale, translation.predictor.name


def _why_none(work: Imputation, kept: Mapping[Key, Calibration]) -> str:
    source, target, _, route = _key(work, "")
    others = {key[3] for key in kept if key[:2] == (source, target)}
    if work.trained is None and others:
        by = " and ".join(sorted(others))
        return f"those of the model are of the {by}, not of the {route}"
    if work.trained is None:
        return "the model holds none; give cells measured in both with --evaluate"
    return "too few cells were measured in both, and no links join the two directly"


@dataclass(frozen=True, eq=False)
class _Compared:
    """Cells on which imputed and measured values are compared, read once for every scale.

    Attributes
    ----------
    cells
        Rows of the source, `(n,)`.
    aligned, measured
        The target's file with the features of the model, and its values there, `(n, n_vars)`.
    predict
        Gives expected values `(n, n_columns)` of a scale and columns.
    """

    cells: IntArray
    aligned: Aligned
    measured: CSR
    predict: Callable[[str, IntArray], FloatArray]

    @classmethod
    def of(cls, work: Imputation, *, seed: int) -> _Compared:
        translation = work.translation
        rows = work.survey.compared[accuracy.rows_drawn(len(work.survey.compared), seed=seed)]
        cells, true_cells = translation.pairs[rows].T
        aligned = translation.aligned(translation.target)
        return cls(cells, aligned, aligned.read(true_cells), translation.of_rows(cells))


@dataclass(frozen=True, eq=False)
class _Beside:
    """What looks at values in passing, on the scale asked for; None where not asked for."""

    by_label: ByLabel | None = None
    by_group: ByGroup | None = None

    @classmethod
    def of(cls, request: Request, work: Imputation, compared: _Compared, scale: str) -> _Beside:
        asked, data, files = work.asked, request.data, work.survey.files
        by_label = by_group = None
        if scale == asked.scale and data.label_key is not None:
            labels = find_labels(files, data.label_key, option="--label-key", unlabeled=data.unlabeled)
            kept, seed = work.survey.kept, request.run.seed
            by_label = ByLabel.of(
                work.translation, labels, scale, compared.cells, compared.aligned, kept=kept, seed=seed
            )
        if scale == asked.scale and asked.compare_groups is not None:
            columns = find_column(files, asked.compare_groups, option="--compare-groups")
            by_group = ByGroup.of(work.translation, asked.compare_groups, columns, compared.cells)
        return cls(by_label, by_group)

    def see(self, name: str, columns: IntArray, values: FloatArray) -> None:
        """Show values to all that look."""
        for one in (self.by_label, self.by_group):
            if one is not None:
                one.see(name, columns, values)


def _evaluate(
    request: Request, work: Imputation, compared: _Compared, scale: str, beside: _Beside
) -> Evaluation:
    """Compare on one scale; of others than the one asked for only the intervals are kept."""
    translation, seed, asked = work.translation, request.run.seed, work.asked
    readout, target_file = translation.readout, translation.target_file
    assert target_file is not None
    cells, aligned = compared.cells, compared.aligned
    own = scale == asked.scale
    return accuracy.evaluate(
        lambda columns: readout.measured(compared.measured, scale, columns, aligned.absent),
        partial(compared.predict, scale),
        simple_ways(translation, work.trained, scale, cells, aligned, seed=seed) if own else {},
        n_vars=readout.n_vars,
        n_cells=len(cells),
        coverage=asked.coverage,
        floor=readout.floor if scale != "scaled" else None,
        seed=seed,
        # of peaks the question is whether they are open at all
        detect=target_file.kind is ModalityKind.ATAC and scale != "scaled" and readout.floor == 0,
        see=beside.see,
    )
