"""What the report shows of an imputation: how values were made, and how well they match measured ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from mocli.metrics import imputation as figures
from mocli.metrics.imputation import FeatureAccuracy
from mocli.report.figures import Better, Entry, column_table, figure, spoken
from mocli.report.figures import table as rows_table
from mocli.tasks.impute.accuracy import OWN
from mocli.tasks.impute.check import Checked
from mocli.tasks.impute.work import Imputation
from mocli.tasks.infer.decoder import ValueDecoder
from mocli.tasks.infer.predictor import StackPredictor
from mocli.tasks.run.run import Run
from mocli.tasks.trained.stack import WAYS
from mocli.types import DoubleArray, IntArray

WORST = 200
"""Features in the report's table, the worst first."""

_BESIDE = {
    "mean": (
        "mean of the training cells",
        "every cell gets the mean of the cells that the model was trained on",
    ),
    "linked_feature": (
        "linked feature",
        "a feature follows the standardised sum of the features it is linked to; only features with a link",
    ),
    OWN: (
        "readout of the latent",
        "a regression on the model's latent alone, one of the ways that are weighed",
    ),
    "ridge": (
        "ridge from paired cells",
        "ridge regression on 100 principal components of the source, fitted on the true pairs among the "
        "training cells, also where the model may not use them; penalty chosen on a third of them",
    ),
}
_STATISTICS: dict[str, tuple[str, Better, str]] = {
    "pearson": (
        "Pearson correlation",
        "higher",
        "its linear agreement with the measured values over cells; 1 is perfect",
    ),
    "spearman": ("Spearman correlation", "higher", "the agreement of ranks over cells; 1 is perfect"),
    "r2": ("R²", "higher", "the share of variance explained; 0 is no better than the mean, below 0 is worse"),
    "rmse": (
        "Root mean squared error",
        "lower",
        "the typical error, in the unit of the values; 0 is perfect",
    ),
    "mae": ("Mean absolute error", "lower", "the mean error, in the unit of the values; 0 is perfect"),
}


def imputation_sentence(work: Imputation, checked: Checked) -> str | None:
    """Say how well values match measured ones, and whether the best simple way is beaten; None if unknown.

    The best simple way is the one whose median correlation is highest in comparison with that of the values
    over the features that it predicts. The readout of the model's own latent does not count as one.
    """
    evaluation, columns, target = checked.evaluation, work.columns, work.translation.target
    if evaluation is None:
        calibration = checked.calibration
        if calibration is None or calibration.accuracy is None:
            return None
        pearson = calibration.accuracy.pearson[columns]
        if not np.isfinite(pearson).any():
            return None
        return (
            f"values of {target} correlated with measured ones by {np.nanmedian(pearson):.2f} (median over "
            f"features) where that was known: {calibration.basis}"
        )
    pearson_here = evaluation.accuracy.pearson[columns]
    if not np.isfinite(pearson_here).any():
        return None
    sentence = (
        f"imputed {target} correlates with measured values of {evaluation.n_cells:,} cells by "
        f"{np.nanmedian(pearson_here):.2f} (median over features)"
    )
    simple: dict[str, tuple[float, float]] = {}
    for name, accuracy in evaluation.baselines.items():
        both = np.isfinite(accuracy.pearson[columns]) & np.isfinite(pearson_here)
        if name != OWN and both.any():
            beside = float(np.median(accuracy.pearson[columns][both]))
            simple[name] = beside, float(np.median(pearson_here[both]))
    if not simple:
        return sentence
    name = max(simple, key=lambda name: simple[name][0] - simple[name][1])
    beside, ours = simple[name]
    verb = "better than" if ours > beside else "no better than"
    among = "" if np.isclose(ours, np.nanmedian(pearson_here)) else f", where it gives {ours:.2f}"
    return f"{sentence}, {verb} {_BESIDE[name][0]} ({beside:.2f}{among})"


def unknown_sentence(work: Imputation) -> str:
    """Say what was made where nothing tells how well it matches measured values."""
    cells, columns, target = len(work.rows_to_fill()[0]), work.columns, work.translation.target
    done = "denoised" if work.denoised is not None else f"imputed from {work.translation.source}"
    return (
        f"{len(columns):,} {target} features of {cells:,} cells were {done}; how well they match measured "
        "values is not known"
    )


def report_route(run: Run, work: Imputation) -> None:
    """Report by which route values were made, for how many features, and under which batches."""
    columns, predictor = work.columns, work.translation.predictor
    if isinstance(predictor, StackPredictor):
        _report_stack(run, predictor, columns)
        return
    decoder = predictor if isinstance(predictor, ValueDecoder) else None
    decoded = 0 if decoder is None else len(decoder.decoded(columns))
    batch = decoder.batch if decoder is not None else None
    rows: list[list[Any]] = []
    if decoded:
        rows.append(["decoder", decoded, work.why, None if batch is None else batch.words])
    if decoded < len(columns):
        why = "the decoder does not know these features" if decoder is not None else work.why
        rows.append(["readout", len(columns) - decoded, why, None])
    run.report.tables["route"] = rows_table(
        "How values were made",
        "The decoder is part of the model; the readout is a regression on its latent that mocli "
        "fits after training.",
        ["route", "features", "why", "decoded as"],
        rows,
    )
    if decoder is not None and decoded < len(columns):
        run.say(
            f"{len(columns) - decoded:,} of {len(columns):,} features come from the readout: the decoder "
            "knows only those that the model was trained on"
        )


def _report_stack(run: Run, predictor: StackPredictor, columns: IntArray) -> None:
    """Report how much each way contributes to the values."""
    weights = predictor.stack.by_scale["log"].weights[:, columns]
    leading = np.bincount(weights.argmax(0), minlength=len(WAYS))
    run.report.tables["route"] = rows_table(
        "How values were made",
        "Several regressions, each on other information about a cell, are weighed feature by feature by "
        f"how well they predict cells left out; {predictor.stack.n_cells:,} cells were measured in both.",
        ["way", "mean weight", "features that it leads"],
        [
            [way, float(f"{weight:.3g}"), int(n)]
            for way, weight, n in zip(WAYS, weights.mean(1), leading, strict=True)
        ],
    )


def report_figures(run: Run, work: Imputation, checked: Checked) -> None:
    """Put accuracy and coverage, and those of the baselines, into the report and the log."""
    evaluation, by_label = checked.evaluation, checked.by_label
    if work.denoised is not None and checked.by_group is not None:
        predictor = work.translation.predictor
        batch = predictor.batch if isinstance(predictor, ValueDecoder) else None
        held = "covariates at their mean" if batch is None else f"all decoded as of {batch.words}"
        checked.by_group.report_model(run, work.columns, work.translation.target, held)
    sentence = imputation_sentence(work, checked) or unknown_sentence(work)
    run.say(sentence)
    run.report.conclude(sentence)
    if evaluation is None:
        if checked.calibration is not None and checked.calibration.accuracy is not None:
            _warn_of_unpredicted(run, work, checked.calibration.accuracy)
        return
    columns, direction = work.columns, work.translation.direction
    run.report.metrics |= _statistics(evaluation.accuracy, columns, direction, evaluation.n_cells)
    run.report.metrics |= _detections(evaluation.detection, columns, direction, evaluation.n_cells)
    for name, accuracy in evaluation.baselines.items():
        title, definition = _BESIDE[name]
        detection = evaluation.baseline_detection.get(name)
        run.report.baselines[name] = {
            "title": title,
            "definition": definition,
            "metrics": _statistics(accuracy, columns, direction, evaluation.n_cells)
            | _detections(detection, columns, direction, evaluation.n_cells),
        }
        of_same_features = _statistics(
            evaluation.accuracy, columns, direction, evaluation.n_cells, among=accuracy
        )
        if detection is not None:
            of_same_features |= _detections(
                evaluation.detection, columns, direction, evaluation.n_cells, among=detection
            )
        if name == OWN:
            run.report.baselines[name]["is_own"] = True
        if of_same_features:
            run.report.baselines[name]["model_metrics"] = of_same_features
    covered = evaluation.coverage[columns]
    covered = covered[np.isfinite(covered)]
    coverage = evaluation.intervals.coverage
    run.report.metrics[f"interval_coverage[{direction}]"] = figure(
        float(np.mean(covered)) if len(covered) else None,
        f"Coverage of {coverage:.0%} intervals",
        "Share of measured values inside split-conformal intervals fitted on the other nine tenths of these "
        "cells, mean over features.",
        f"Should be about {coverage:g}; above it the intervals are wider than needed, as where most values "
        "are zero.",
        bounds=(0.0, 1.0),
        n=evaluation.n_cells,
    )
    present = evaluation.coverage_present[columns]
    if np.isfinite(present).any() and work.options.scale != "scaled":
        run.report.metrics[f"interval_coverage_nonzero[{direction}]"] = figure(
            float(np.nanmean(present)),
            f"Coverage of {coverage:.0%} intervals among values that are not zero",
            "The same coverage, over the measured values that are not zero.",
            "Where most values are zero, intervals may cover all zeros and fewer of the other values.",
            bounds=(0.0, 1.0),
            n=evaluation.n_cells,
        )
    for name, entries in by_label.figures(direction).items() if by_label is not None else ():
        (run.report.metrics if name == "model" else run.report.baselines[name]["metrics"]).update(entries)
    if checked.by_group is not None:
        checked.by_group.report(run, columns, direction)
    for key, entry in run.report.metrics.items():
        if entry["value"] is not None:
            beside = [
                f"{b['title']} {b['metrics'][key]['value']:.3f}{_there(b, key)}"
                for b in run.report.baselines.values()
                if b["metrics"].get(key, {}).get("value") is not None
            ]
            requested = [f"{work.options.coverage:g} asked for"] * key.startswith("interval_coverage")
            run.say(spoken(key, entry, *requested, *beside))
    _warn_of_unpredicted(run, work, evaluation.accuracy)


def _warn_of_unpredicted(run: Run, work: Imputation, accuracy: FeatureAccuracy) -> None:
    """Name the features that their mean predicts as well, in these cells or in those held out of training."""
    r2 = accuracy.r2[work.columns]
    finite = np.isfinite(r2)
    worse = int((r2[finite] <= 0).sum())
    if worse:
        columns = work.columns[finite][np.argsort(r2[finite])][: min(3, worse)]
        run.warn(
            f"{worse:,} of {int(finite.sum()):,} features are predicted no better than by their mean "
            f"(worst: {', '.join(work.translation.names[j] for j in columns)}): var['better_than_mean'] says "
            "which"
        )


def _there(baseline: Entry, key: str) -> str:
    """Say what the model reaches over the features of a baseline that predicts fewer."""
    entry = baseline.get("model_metrics", {}).get(key)
    value = None if entry is None else entry["value"]
    return "" if value is None else f" (the model over the same features {value:.3f})"


def _values(accuracy: Any, among: Any | None, name: str, columns: IntArray) -> DoubleArray | None:
    """Return the figures of the features that have one, and that `among` has too; None if it has as many."""
    values: DoubleArray = getattr(accuracy, name)[columns]
    finite = np.isfinite(values)
    if among is None:
        return values[finite]
    both = finite & np.isfinite(getattr(among, name)[columns])
    return values[both] if both.any() and not np.array_equal(both, finite) else None


def _statistics(
    accuracy: figures.FeatureAccuracy,
    columns: IntArray,
    direction: str,
    n: int,
    *,
    among: figures.FeatureAccuracy | None = None,
) -> dict[str, Any]:
    """Return the report's entries; `among` keeps only the features of another method, if these are fewer."""
    entries: dict[str, Any] = {}
    for name, (title, better, sentence) in _STATISTICS.items():
        values = _values(accuracy, among, name, columns)
        if values is None:
            continue
        for place, value in (("median", np.median), ("worst", np.max if better == "lower" else np.min)):
            entries[f"imputation_{name}_{place}[{direction}]"] = figure(
                float(value(values)) if len(values) else None,
                f"{title} of imputed values, {place} feature",
                f"{title} of each feature over {n:,} cells whose measured values were hidden; "
                f"{place} over {len(values):,} features that vary"
                + (", those that the baseline has." if among is not None else "."),
                f"Of the {place} feature {sentence}.",
                better=better,
                bounds=(0.0, None) if better == "lower" else (None if name == "r2" else -1.0, 1.0),
                n=n,
                leading=place == "median",
            )
    return entries


_DETECTIONS = {
    "auprc": (
        "AUPRC",
        "Average precision of telling cells that have a feature from those that lack it; median",
        "the share of cells that have it is what guessing gives, 1 is perfect",
    ),
    "balanced_accuracy": (
        "Balanced accuracy",
        "Mean of sensitivity and specificity where as many cells are called as have the feature, median over "
        "features",
        "0.5 is guessing, 1 is perfect",
    ),
    "true_positive_rate": (
        "True positive rate",
        "Share of the cells with a feature that are called (recall) when as many cells are called as have "
        "it, median over features",
        "the share of cells that have it is what guessing gives, 1 is perfect",
    ),
    "true_negative_rate": (
        "True negative rate",
        "Share of the cells without a feature that are not called when as many cells are called as have "
        "it, median over features",
        "guessing gives the share of cells that lack it, 1 is perfect",
    ),
}


def _detections(
    detection: figures.Detection | None,
    columns: IntArray,
    direction: str,
    n: int,
    *,
    among: figures.Detection | None = None,
) -> dict[str, Any]:
    """Return the report's entries, as `_statistics` does."""
    entries: dict[str, Any] = {}
    for name, (title, definition, sentence) in _DETECTIONS.items() if detection is not None else ():
        values = _values(detection, among, name, columns)
        if values is None:
            continue
        entries[f"imputation_{name}_median[{direction}]"] = figure(
            float(np.median(values)) if len(values) else None,
            f"{title} of imputed values, median feature",
            f"{definition}; over {len(values):,} features that some cells have and others lack.",
            f"Whether a peak is open in a cell: {sentence}.",
            better="higher",
            bounds=(0.0, 1.0),
            n=n,
        )
    return entries


def tabulate(run: Run, work: Imputation, checked: Checked) -> None:
    """Put the accuracy of every feature into the report, the worst first."""
    if checked.evaluation is None:
        return
    accuracy, columns, names = checked.evaluation.accuracy, work.columns, work.translation.names
    beside = checked.evaluation.baselines.get("linked_feature")
    order = np.argsort(np.nan_to_num(accuracy.pearson[columns], nan=-2), kind="stable")[:WORST]
    chosen = columns[order]
    table: dict[str, Any] = {
        "feature": [names[j] for j in chosen],
        "Pearson": accuracy.pearson[chosen],
        "Spearman": accuracy.spearman[chosen],
        "R²": accuracy.r2[chosen],
        "RMSE": accuracy.rmse[chosen],
        "coverage": checked.evaluation.coverage[chosen],
    }
    if beside is not None:
        table["Pearson of the linked feature"] = beside.pearson[chosen]
    shown = f"the {len(order):,} worst of {len(columns):,}" if len(order) < len(columns) else "all"
    run.report.tables["features"] = column_table(
        f"Accuracy of every imputed feature ({shown}), worst first",
        "Features near the top should not be trusted; the whole table is in var of the output.",
        table,
        digits=None,
    )
