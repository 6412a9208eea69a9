"""How far imputed values can be trusted: accuracy where cells were measured, and prediction intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from mocli.data.files.obs import find_labels
from mocli.nn.neighbors import chunks
from mocli.tasks.impute import accuracy
from mocli.tasks.impute.accuracy import Evaluation, on_partners, simple_ways
from mocli.tasks.impute.bygroup import MEASURED, MODEL, ByGroup, ByLabel
from mocli.tasks.impute.denoise import Denoised
from mocli.tasks.impute.survey import FEWEST_COMPARED
from mocli.tasks.impute.work import Imputation
from mocli.tasks.infer.align import Aligned
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.calibration import Calibration, Key, fitting, load_calibrations, save_calibrations
from mocli.types import CSR, FloatArray, IntArray, ModalityKind

COLUMNS = 1000
"""Features compared at a time."""


@dataclass(frozen=True, eq=False)
class Checked:
    """What is known of the accuracy of imputed values; None where it is not known."""

    evaluation: Evaluation | None = None
    by_label: ByLabel | None = None
    by_group: ByGroup | None = None
    calibration: Calibration | None = None


def check(run: Run, request: Request, work: Imputation) -> Checked:
    """Compare with measured values where there are some; find intervals, and keep them with the model."""
    translation, options = work.translation, work.options
    if work.denoised is not None:
        run.say(
            f"there are neither intervals nor accuracy: the model sees {translation.target} of these cells, "
            "so agreement with it would only measure reconstruction"
        )
        return Checked(by_group=_by_model(request, work, work.denoised))
    calibrations = load_calibrations(options.from_model or run.paths.model)
    evaluation, beside = None, _Beside()
    if len(work.survey.compared) >= FEWEST_COMPARED and translation.target_file is not None:
        compared = _Compared.of(work, seed=request.run.seed)
        for scale in dict.fromkeys((options.scale, "log", *translation.readout.by_scale)):
            if scale != options.scale and work.trained is None:
                continue
            seen = _Beside.of(request, work, compared, scale)
            evaluated = _evaluate(request, work, compared, scale, seen)
            how = "held out of training" if work.trained else "measured in both"
            basis = f"{evaluated.n_cells:,} cells {how}"
            key = _key(work, scale)
            # cells drawn at random say nothing of a batch that training lacked
            at_random = work.trained is not None and options.hold_out.column is None
            wider = calibrations[key].new_batch if at_random and key in calibrations else 1.0
            calibrations[key] = Calibration(evaluated.intervals, basis, evaluated.accuracy, wider)
            if scale == options.scale:
                evaluation, beside = evaluated, seen
    elif work.trained is not None and _key(work, options.scale) not in calibrations:
        partners = on_partners(
            translation,
            work.trained,
            [options.scale, *translation.readout.by_scale],
            coverage=options.coverage,
            seed=request.run.seed,
        )
        calibrations |= {_key(work, scale): of_scale for scale, of_scale in partners.items()}
    if work.trained is not None:
        save_calibrations(run.paths.model, calibrations)
        run.add_output(run.paths.model, "the trained model")
    calibration = fitting(
        calibrations,
        _key(work, options.scale),
        coverage=options.coverage,
        moments=translation.readout.moments("log"),
        warn=run.warn,
    )
    if calibration is None:
        run.warn(
            f"no prediction intervals for {translation.source} -> {translation.target} on the scale "
            f"'{options.scale}': {_why_none(work, calibrations)}"
        )
        run.report.advice = "Nothing measured here says how far a feature can be trusted: " + _MEASURE + "."
    elif evaluation is None and options.from_model is not None:
        run.warn(
            f"intervals, and the accuracy in var, come from {calibration.basis} when the model was trained: "
            "they hold for similar cells, less so for those of another study"
        )
    else:
        run.say(f"intervals: {calibration.basis}")
    return Checked(evaluation, beside.by_label, beside.by_group, calibration)


def _by_model(request: Request, work: Imputation, denoised: Denoised) -> ByGroup | None:
    """Compare groups of cells by what the model expects of them and by what was measured, if asked for."""
    groups, translation, scale = work.options.compare_groups, work.translation, work.options.scale
    if groups is None:
        return None
    rows, group = work.survey.grouped(groups, seed=request.run.seed)
    by_group = ByGroup(groups, group, translation.names, values=MODEL)
    measured, absent = denoised.aligned.read(rows), denoised.aligned.absent
    for span in chunks(len(work.columns), COLUMNS):
        columns = work.columns[span]
        by_group.see(MEASURED, columns, denoised.measured(measured, scale, columns, absent))
        by_group.see(MODEL, columns, denoised.predict(translation.z[rows], rows, scale, columns))
    return by_group


def _key(work: Imputation, scale: str) -> Key:
    translation = work.translation
    return translation.source, translation.target, scale, translation.predictor.name


_MEASURE = "give cells measured in both, with --evaluate, or train with mocli impute, which makes intervals"


def _why_none(work: Imputation, calibrations: Mapping[Key, Calibration]) -> str:
    source, target, _, route = _key(work, "")
    others = {key[3] for key in calibrations if key[:2] == (source, target)}
    if work.trained is None and others:
        by = " and ".join(sorted(others))
        return f"the model has them for the {by}, not for the {route}"
    if work.trained is None:
        return f"the model has none; {_MEASURE}"
    return "too few cells were measured in both, and no links join the two directly"


@dataclass(frozen=True, eq=False)
class _Compared:
    """Cells on which imputed and measured values are compared, read once for every scale.

    Attributes:
        cells: Rows of the source, `(n,)`.
        aligned, measured: The target's file with the features of the model, and its values there, `(n,
            n_vars)`.
        predict: Gives expected values `(n, n_columns)` of a scale and columns.
        times: How many times wider the interval of each cell is, `(n,)`; None where it is not known.
    """

    cells: IntArray
    aligned: Aligned
    measured: CSR
    predict: Callable[[str, IntArray], FloatArray]
    times: FloatArray | None

    @classmethod
    def of(cls, work: Imputation, *, seed: int) -> _Compared:
        translation = work.translation
        cells, true_cells = translation.pairs[work.survey.drawn(seed=seed)].T
        aligned = translation.aligned(translation.target)
        measured, times = aligned.read(true_cells), translation.times(cells)
        return cls(cells, aligned, measured, translation.of_rows(cells), times)


@dataclass(frozen=True, eq=False)
class _Beside:
    """Collectors of values by label and by group, on the scale asked for; None where not asked for."""

    by_label: ByLabel | None = None
    by_group: ByGroup | None = None

    @classmethod
    def of(cls, request: Request, work: Imputation, compared: _Compared, scale: str) -> _Beside:
        options, data, files = work.options, request.data, work.survey.files
        by_label = by_group = None
        if scale == options.scale and data.label_key is not None:
            labels = find_labels(files, data.label_key, option="--label-key", unlabeled=data.unlabeled)
            target_rows, seed = work.survey.target_rows, request.run.seed
            by_label = ByLabel.of(
                work.translation,
                labels,
                scale,
                compared.cells,
                compared.aligned,
                target_rows=target_rows,
                seed=seed,
            )
        if scale == options.scale and options.compare_groups is not None:
            _, group = work.survey.grouped(options.compare_groups, seed=request.run.seed)
            by_group = ByGroup(options.compare_groups, group, work.translation.names)
        return cls(by_label, by_group)

    def see(self, name: str, columns: IntArray, values: FloatArray) -> None:
        """Pass values on to the collectors."""
        for one in (self.by_label, self.by_group):
            if one is not None:
                one.see(name, columns, values)


def _evaluate(
    request: Request, work: Imputation, compared: _Compared, scale: str, beside: _Beside
) -> Evaluation:
    """Compare on one scale; of scales other than the one asked for, only the intervals are kept."""
    translation, seed, options = work.translation, request.run.seed, work.options
    readout, target_file = translation.readout, translation.target_file
    assert target_file is not None
    cells, aligned = compared.cells, compared.aligned
    is_asked = scale == options.scale
    return accuracy.evaluate(
        lambda columns: readout.measured(compared.measured, scale, columns, aligned.absent),
        partial(compared.predict, scale),
        simple_ways(translation, work.trained, scale, cells, aligned, seed=seed) if is_asked else {},
        n_vars=readout.n_vars,
        n_cells=len(cells),
        coverage=options.coverage,
        floor=readout.floor if scale != "scaled" else None,
        seed=seed,
        # of peaks the question is whether they are open at all
        detect=target_file.kind is ModalityKind.ATAC and scale != "scaled" and readout.floor == 0,
        see=beside.see,
        times=compared.times,
    )
