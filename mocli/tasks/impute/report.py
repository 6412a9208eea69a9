"""What the report says of an imputation: how values were made, and how well they match measured ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from mocli.metrics import imputation as figures
from mocli.metrics.imputation import FeatureAccuracy
from mocli.report.figures import Better, Entry, column_table, figure
from mocli.report.figures import table as rows_table
from mocli.tasks.impute.check import Checked
from mocli.tasks.impute.work import Imputation
from mocli.tasks.infer.decoder import ValueDecoder
from mocli.tasks.infer.stacking import StackPredictor
from mocli.tasks.run.run import Run
from mocli.tasks.trained.stack import WAYS
from mocli.types import DoubleArray, IntArray

WORST = 200
"""Features in the report's table, the worst first."""

_BESIDE = {
    "mean": (
        "mean of the training cells",
        "every cell has the mean of the cells that the model was trained on",
    ),
    "linked_feature": (
        "linked feature",
        "a feature follows the standardised sum of the features it is linked to; only features with a link",
    ),
    "readout": (
        "readout of the latent",
        "a regression on the model's latent alone, which is one of the ways that are weighed",
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
    "r2": (
        "R²",
        "higher",
        "the share of variance explained; 0 is no better than the mean, which it can be below",
    ),
    "rmse": (
        "Root mean squared error",
        "lower",
        "the typical error, in the unit of the values; 0 is perfect",
    ),
    "mae": ("Mean absolute error", "lower", "the mean error, in the unit of the values; 0 is perfect"),
}


def imputation_sentence(work: Imputation, checked: Checked) -> str | None:
    """Say how well values match measured ones, and whether better than the best simple way; None if unknown.

    The best simple way, the readout of the model's own latent not among them, is that whose median
    correlation is highest against what the values have over the features that it says something of.
    """
    found, columns, target = checked.evaluation, work.columns, work.translation.target
    if found is None:
        known = checked.calibration
        if known is None or known.accuracy is None:
            return None
        pearson = known.accuracy.pearson[columns]
        if not np.isfinite(pearson).any():
            return None
        return (
            f"values of {target} correlated with measured ones by {np.nanmedian(pearson):.2f} (median over "
            f"features) where that was known: {known.basis}"
        )
    own = found.accuracy.pearson[columns]
    if not np.isfinite(own).any():
        return None
    said = (
        f"imputed {target} correlates with measured values of {found.n_cells:,} cells by "
        f"{np.nanmedian(own):.2f} (median over features)"
    )
    simple: dict[str, tuple[float, float]] = {}
    for name, accuracy in found.baselines.items():
        there = np.isfinite(accuracy.pearson[columns]) & np.isfinite(own)
        if name != "readout" and there.any():
            beside = float(np.median(accuracy.pearson[columns][there]))
            simple[name] = beside, float(np.median(own[there]))
    if not simple:
        return said
    name = max(simple, key=lambda name: simple[name][0] - simple[name][1])
    beside, ours = simple[name]
    verb = "better than" if ours > beside else "no better than"
    among = "" if np.isclose(ours, np.nanmedian(own)) else f", where it gives {ours:.2f}"
    return f"{said}, {verb} {_BESIDE[name][0]} ({beside:.2f}{among})"


def report_route(run: Run, work: Imputation) -> None:
    """Say by which route values were made, of how many features, and under which batches."""
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
            f"{len(columns) - decoded:,} of {len(columns):,} features are the readout's: the decoder knows "
            "those that the model was trained on"
        )


def _report_stack(run: Run, predictor: StackPredictor, columns: IntArray) -> None:
    """Say how much each way has to do with the values."""
    weights = predictor.stack.by_scale["log"].weights[:, columns]
    leading = np.bincount(weights.argmax(0), minlength=len(WAYS))
    run.report.tables["route"] = rows_table(
        "How values were made",
        "Several ways, each a regression on something else that is known of a cell, weighed feature by "
        f"feature by what they predict of cells left out; {predictor.stack.n_cells:,} cells were measured in "
        "both.",
        ["way", "mean weight", "features that it leads"],
        [
            [way, float(f"{weight:.3g}"), int(n)]
            for way, weight, n in zip(WAYS, weights.mean(1), leading, strict=True)
        ],
    )


def report_figures(run: Run, work: Imputation, checked: Checked) -> None:
    """Put accuracy and coverage, and those of the baselines, into the report and the log."""
    found, by_label = checked.evaluation, checked.by_label
    sentence = imputation_sentence(work, checked)
    if sentence is not None:
        run.say(sentence)
        run.report.conclude(sentence)
    if found is None:
        if checked.calibration is not None and checked.calibration.accuracy is not None:
            _warn_of_unpredicted(run, work, checked.calibration.accuracy)
        return
    columns, direction = work.columns, work.translation.direction
    run.report.metrics |= _statistics(found.accuracy, columns, direction, found.n_cells)
    run.report.metrics |= _detections(found.detection, columns, direction, found.n_cells)
    for name, accuracy in found.baselines.items():
        title, definition = _BESIDE[name]
        detection = found.baseline_detection.get(name)
        run.report.baselines[name] = {
            "title": title,
            "definition": definition,
            "metrics": _statistics(accuracy, columns, direction, found.n_cells)
            | _detections(detection, columns, direction, found.n_cells),
        }
        there = _statistics(found.accuracy, columns, direction, found.n_cells, among=accuracy)
        if detection is not None:
            there |= _detections(found.detection, columns, direction, found.n_cells, among=detection)
        if there:
            run.report.baselines[name]["model_metrics"] = there
    covered = found.coverage[columns]
    covered = covered[np.isfinite(covered)]
    asked = found.intervals.coverage
    run.report.metrics[f"interval_coverage[{direction}]"] = figure(
        float(np.mean(covered)) if len(covered) else None,
        f"Coverage of {asked:.0%} intervals",
        "Share of measured values inside split-conformal intervals fitted on the other nine tenths of these "
        "cells, mean over features.",
        f"Should be about {asked:g}; above it the intervals are wider than needed, as where most values are "
        "zero.",
        bounds=(0.0, 1.0),
        n=found.n_cells,
    )
    present = found.coverage_present[columns]
    if np.isfinite(present).any() and work.asked.scale != "scaled":
        run.report.metrics[f"interval_coverage_nonzero[{direction}]"] = figure(
            float(np.nanmean(present)),
            f"Coverage of {asked:.0%} intervals among values that are not zero",
            "As the coverage of intervals, over the measured values that are not zero.",
            "Where most values are zero, intervals may hold all zeros and fewer of the others.",
            bounds=(0.0, 1.0),
            n=found.n_cells,
        )
    for name, entries in by_label.figures(direction).items() if by_label is not None else ():
        (run.report.metrics if name == "model" else run.report.baselines[name]["metrics"]).update(entries)
    if checked.by_group is not None:
        checked.by_group.report(run, columns, direction)
    for key, entry in run.report.metrics.items():
        if entry["value"] is not None:
            beside = "".join(
                f"; {b['title']} {b['metrics'][key]['value']:.3f}{_there(b, key)}"
                for b in run.report.baselines.values()
                if b["metrics"].get(key, {}).get("value") is not None
            )
            run.say(f"  {key} {entry['value']:.3f}{beside}")
    _warn_of_unpredicted(run, work, found.accuracy)


def _warn_of_unpredicted(run: Run, work: Imputation, accuracy: FeatureAccuracy) -> None:
    """Name features for which their mean does as well: of these cells, or of those left out of training."""
    r2 = accuracy.r2[work.columns]
    known = np.isfinite(r2)
    worse = int((r2[known] <= 0).sum())
    if worse:
        columns = work.columns[known][np.argsort(r2[known])][: min(3, worse)]
        run.warn(
            f"{worse:,} of {int(known.sum()):,} features are predicted no better than by their mean "
            f"(worst: {', '.join(work.translation.names[j] for j in columns)}): var['better_than_mean'] says "
            "which"
        )


def _there(baseline: Entry, key: str) -> str:
    """Say what the model reaches over the features of a baseline that has fewer."""
    entry = baseline.get("model_metrics", {}).get(key)
    value = None if entry is None else entry["value"]
    return "" if value is None else f" (the model over the same features {value:.3f})"


def _values(accuracy: Any, among: Any | None, name: str, columns: IntArray) -> DoubleArray | None:
    """Figures of the features that have one; `among`: that a method has too, None if it has as many."""
    values: DoubleArray = getattr(accuracy, name)[columns]
    known = np.isfinite(values)
    if among is None:
        return values[known]
    both = known & np.isfinite(getattr(among, name)[columns])
    return values[both] if both.any() and not np.array_equal(both, known) else None


def _statistics(
    accuracy: figures.FeatureAccuracy,
    columns: IntArray,
    direction: str,
    n: int,
    *,
    among: figures.FeatureAccuracy | None = None,
) -> dict[str, Any]:
    """Return the report's entries; `among` leaves the features that another method has, if they are fewer."""
    entries: dict[str, Any] = {}
    for name, (title, better, sentence) in _STATISTICS.items():
        values = _values(accuracy, among, name, columns)
        if values is None:
            continue
        for which, value in (("median", np.median), ("worst", np.max if better == "lower" else np.min)):
            entries[f"imputation_{name}_{which}[{direction}]"] = figure(
                float(value(values)) if len(values) else None,
                f"{title} of imputed values, {which} feature",
                f"{title} of each feature over {n:,} cells whose measured values were hidden; "
                f"{which} over {len(values):,} features that vary"
                + (", those that the baseline has." if among is not None else "."),
                f"Of the {which} feature {sentence}.",
                better=better,
                bounds=(0.0, None) if better == "lower" else (None if name == "r2" else -1.0, 1.0),
                n=n,
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
        "Share of the cells that have a feature which are called (recall) where as many cells are called as "
        "have it, median over features",
        "the share of cells that have it is what guessing gives, 1 is perfect",
    ),
    "true_negative_rate": (
        "True negative rate",
        "Share of the cells that lack a feature which are not called where as many cells are called as have "
        "it, median over features",
        "the share of cells that lack it is what guessing gives, 1 is perfect",
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
            f"{definition}; over {len(values):,} features that some cells have and some lack.",
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
