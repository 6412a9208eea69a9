"""The output of a perturbation: tables, predicted cells, and the report with its figures and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.write.blocks import Block, NewModality
from mocli.data.write.outfile import write_tsv
from mocli.data.write.write import write_file
from mocli.errors import some
from mocli.report.figures import Entry, column_table, figure, metric_value, plural, spoken
from mocli.report.figures import table as rows_table
from mocli.report.html import Drawn
from mocli.tasks.perturb.effects import Predicted, TargetReader
from mocli.tasks.perturb.learnt import CHOSEN, MEAN
from mocli.tasks.perturb.options import PerturbOptions
from mocli.tasks.perturb.shifts import stream
from mocli.tasks.perturb.truth import Truth, compare_with_target, report_contrast
from mocli.tasks.perturb.work import Findings, PlacedCells, Subject
from mocli.tasks.relate.scope import ALL
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.record import describe_given
from mocli.types import DoubleArray

SHOWN = 100
TOP = 10
"""Number of features whose mean shift is a group's response (as in scCross's figures)."""
_FDR = 0.05
_PER_EFFECT = 15  # target features of a perturbation in the report
_MAX_EFFECTS = 20  # perturbations whose target features are in the report


def report_perturbation(run: Run, options: PerturbOptions, placed: PlacedCells, findings: Findings) -> None:
    """Put all findings into the report, and a summary into the log."""
    if findings.screened is not None:
        _report_screen(run, options, placed, findings.screened)
    if findings.predicted is not None:
        _report_effects(run, placed, findings.predicted)
    if findings.truth is not None:
        _report_truth(run, findings.truth)
    if placed.sets.left_out:
        run.report.tables["groups_left_out"] = rows_table(
            "Groups of too few cells",
            "They are part of all cells, but not analysed as groups.",
            ["group", "cells", "cells to go to"],
            placed.sets.left_out,
        )


def responses(table: pd.DataFrame, n_targets: dict[str, int]) -> pd.DataFrame:
    """Rank sets of cells by how far their ten best perturbations move them, as a share of the way."""
    rows = []
    for name, of_group in table.groupby("group", sort=False):
        best = of_group.nsmallest(TOP, "rank")
        before, mean = float(of_group["distance_before"].iloc[0]), float(best["shift"].mean())
        rows.append(
            {
                "group": str(name),
                "n_cells": int(of_group["n_cells"].iloc[0]),
                "n_targets": n_targets.get(str(name), 0),
                "distance_before": before,
                "top10_shift": mean,
                "share_of_way": mean / before if before > 0 else np.nan,
                "best": ", ".join(
                    f"{f} {d}" for f, d in zip(best["feature"][:5], best["direction"][:5], strict=True)
                ),
            }
        )
    rows_table = pd.DataFrame(rows)
    first = rows_table["group"] == ALL
    return pd.concat([rows_table[first], rows_table[~first].sort_values("top10_shift", ascending=False)])


def _report_screen(run: Run, options: PerturbOptions, placed: PlacedCells, table: pd.DataFrame) -> None:
    over_all = table[(table["group"] == ALL).to_numpy()]
    changed = over_all["n_changed"] > 0
    small = (over_all["fdr"] < _FDR).to_numpy()
    run.report.metrics |= {
        "perturbations_screened": figure(
            len(over_all), "Perturbations screened", "Features times directions, over all cells."
        ),
        "perturbations_without_effect": figure(
            int((~changed).sum()),
            "Perturbations that change no cell",
            "Their features are not expressed in the perturbed cells; they score exactly 0.",
        ),
        "perturbations_fdr5_towards": figure(
            int((small & (over_all["shift"] > 0).to_numpy()).sum()),
            "Perturbations towards the target with an FDR below 5%",
            "Among all screened over all cells; the null distribution is other features that are expressed "
            "as much.",
        ),
        "distance_before": figure(
            float(over_all["distance_before"].iloc[0]),
            "Distance to the target group before",
            "Mean Euclidean distance of the perturbed cells to the mean of the target cells.",
        ),
    }
    sentence = screen_sentence(over_all, str(options.target))
    run.say(f"  {sentence}")
    run.report.conclude(sentence)
    across_words = ""
    if "across_rank" in over_all:
        into = options.target_modality
        first = over_all[(over_all["across_shift"] > 0).to_numpy()].nsmallest(8, "across_rank")
        named = ", ".join(f"{f} {d}" for f, d in zip(first["feature"], first["direction"], strict=True))
        run.say(f"  the best in {into}: {named}" if named else f"  none brings {into} nearer")
        across_words = (
            f" across_*: the same in {into}, by the distance of mean expected profiles (log scale where it "
            "has one)."
        )
    if not changed.any():
        run.warn("no perturbation changes any cell: none of the features is expressed in them")
    shown = over_all[changed.to_numpy()].head(SHOWN)
    run.report.tables["screen"] = column_table(
        f"What brings cells nearer to {options.target} (the {len(shown):,} best of {len(over_all):,})",
        "shift: how much nearer the cells come, on average, to the "
        "mean of the target group; null_mean: the same for features that are expressed as much, with which "
        "z and p compare it; rank: by shift less null_mean; shift_rank: by shift alone. cosine_shift is "
        "the shift by mean cosine distance; difference is that of mean normalised logs, target less "
        "perturbed cells." + across_words,
        shown,
    )
    answer = responses(table, {one.name: len(one.targets) for one in placed.sets.sets})
    run.report.tables["responses"] = column_table(
        "How much each group of cells responds",
        f"top10_shift: mean shift of the {TOP} best perturbations; share_of_way: the same as a share of the "
        "distance to the target group.",
        answer,
    )
    groups = answer.iloc[1:]
    moved = groups[(groups["top10_shift"] > 0).to_numpy()]
    if len(moved):
        run.say("  most responsive: " + ", ".join(moved["group"].iloc[:3]))


def screen_sentence(table: pd.DataFrame, target: str) -> str:
    """Say what a screen over all cells found, and whether its ranking is that of the measured differences."""
    better = table[((table["shift"] > 0) & (table["z"].isna() | (table["z"] > 0))).to_numpy()]
    nearer, all_of_them = better.head(12), plural(len(table), "perturbation")
    if not len(nearer):
        return f"none of {all_of_them} brings cells nearer to {target} than others like it"
    n_sure = int(((table["fdr"] < _FDR) & (table["shift"] > table["null_mean"])).sum())
    sure = better[(better["fdr"] < _FDR).to_numpy()].head(12)
    named = sure if len(sure) else nearer
    names = ", ".join(f"{f} {d}" for f, d in zip(named["feature"], named["direction"], strict=True))
    first = "the first of them" if len(sure) else "none of the best ranked is among them:"
    beginning = (
        f"{n_sure:,} of {all_of_them} bring cells nearer to {target} than features expressed "
        f"as much do (FDR 5%), {first} {names}"
    )
    if "difference" not in table:
        return beginning
    largest = table.assign(size=table["difference"].abs()).nlargest(len(nearer), "size")["feature"]
    shared = len(set(largest) & set(nearer["feature"]))
    n = len(nearer)
    return f"{beginning}; {shared} of the {n} best ranked are also among the {n} that differ most"


def _report_effects(run: Run, placed: PlacedCells, predicted: Predicted) -> None:
    table = predicted.table
    over_all = table[((table["group"] == ALL) & (table["rank"] <= _PER_EFFECT)).to_numpy()]
    by_perturbation = list(over_all.groupby(["feature", "direction"], sort=False))
    for (feature, direction), part in by_perturbation[:3]:
        top = ", ".join(f"{t} {v:+.2g}" for t, v in zip(part["target"][:5], _sizes(part)[:5], strict=True))
        few = "" if (part["fdr"] < _FDR).any() else "; none has an FDR below 5%"
        run.say(f"  {feature} {direction}, {_unit(part)}: {top}{few}")
    if len(by_perturbation) > 3:
        run.say(f"  and {len(by_perturbation) - 3:,} more perturbations in the report")
    keep = {p.name for p in placed.perturbations[:_MAX_EFFECTS]}
    reader = predicted.reader
    scale = "expected counts of a cell of median depth" if reader.counted else "on the scale of the transform"
    run.report.tables["effects"] = column_table(
        f"Predicted changes of {reader.modality} (the {_PER_EFFECT} largest of each perturbation)",
        f"before and after: mean {scale}, by the {reader.route}, over all perturbed cells, covariates at "
        "their mean; z and p compare the change with that by other features that are expressed as much.",
        over_all[over_all["feature"].isin(keep).to_numpy()],
    )
    if "measured_change" in table:
        report_contrast(run, compare_with_target(table, _sizes(table)), reader.modality)
    if len(placed.sets.sets) > 1:
        size = table.assign(size=np.abs(_sizes(table))).groupby("group", sort=False)["size"].mean()
        ranked = size.sort_values(ascending=False)
        run.report.tables["effect_by_group"] = column_table(
            f"How much {reader.modality} responds in each group of cells",
            "Mean absolute predicted change over target features and perturbations (log2 fold change where "
            "the scale has one).",
            pd.DataFrame({"group": list(ranked.index), "mean_absolute_change": ranked.to_numpy()}),
        )


def _sizes(table: pd.DataFrame) -> DoubleArray:
    fold = table["log2_fold_change"].to_numpy(dtype=np.float64)
    change: DoubleArray = table["change"].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(fold), fold, change)


def _unit(table: pd.DataFrame) -> str:
    fold = np.isfinite(table["log2_fold_change"].to_numpy(dtype=np.float64))
    return "log2 fold changes" if fold.all() else "changes"


def _report_truth(run: Run, truth: Truth) -> None:
    table = truth.table
    sentence = truth_sentence(truth)
    run.say(f"  {sentence}")
    run.report.conclude(sentence)
    run.report.advice = (
        "The table next to this page holds what the model predicts. Below, it is held against measured "
        "changes: where it is no better than the mean of other perturbations, do not act on it."
    )
    run.report.tables = {"ways": _ways_table(truth, sentence), **run.report.tables}
    definitions = {
        "pearson": (
            "Change predicted by the model against measured, Pearson",
            "over all target features but the perturbed ones",
        ),
        "baseline_pearson": (
            "Mean change of the other perturbations against measured, Pearson",
            "what any perturbation does on average: a prediction should be better",
        ),
        "best_pearson": (
            "Change predicted by the best way against measured, Pearson",
            "every target is predicted from the other ones, by the way that predicts these best from each "
            "other: the mean, or the sum of both singles, unless another beats it by two standard errors",
        ),
        "halves_pearson": (
            "One half of the perturbed cells against the other, Pearson",
            "how much of the measured change is more than noise (both halves share the control cells)",
        ),
    }
    is_predicted, beside = table["direction"] != "", []
    if not is_predicted.all():
        # the model and the mean are only compared over the same perturbations
        same = float(table["baseline_pearson"][is_predicted].median())
        beside = [f"the mean change of the others gives {metric_value(same)} over the same"]
        names = list(table["feature"][~is_predicted])
        run.say(
            f"  the model predicts {table['feature'][is_predicted].nunique():,} of {len(truth.targets):,} "
            f"perturbations: it takes no feature that the others name ({some(names, 6)})"
        )
        title, definition = definitions["pearson"]
        definitions["pearson"] = title, "; ".join([definition, *beside])
    for column, (title, definition) in definitions.items():
        values = table[column].dropna()
        run.report.metrics[f"perturbation_{column}_median"] = figure(
            float(values.median()) if len(values) else None, f"{title} (median)",
            f"Median over {plural(len(values), 'perturbation')}; {definition}.",
            better="higher", bounds=(-1.0, 1.0), n=len(values),
        )  # fmt: skip
        if len(values):
            key = f"perturbation_{column}_median"
            run.say(spoken(key, run.report.metrics[key], *(beside if column == "pearson" else ())))
    for column, title in (
        ("baseline_rmse", "Error of the mean of others"),
        ("best_rmse", "Error of the best way"),
    ):
        values = table[column].dropna()
        run.report.metrics[f"perturbation_{column}_median"] = figure(
            float(values.median()) if len(values) else None, f"{title} (median)",
            "Root mean squared error over target features, natural log, normalised; median over "
            "perturbations.",
            better="lower", n=len(values),
        )  # fmt: skip
    run.report.tables["truth"] = column_table(
        "Predicted and measured changes",
        "Correlations over target features, the perturbed ones left out; own_measured is what the "
        "perturbation did to its own feature (natural log, normalised). Without a direction: the model "
        "does not take the perturbed feature, so the prediction comes from other perturbations alone.",
        table,
    )
    if truth.left_out:
        run.say(
            f"not compared (fewer than 20 cells): "
            f"{', '.join(truth.left_out[:12])}{', ...' if len(truth.left_out) > 12 else ''}"
        )


def truth_sentence(truth: Truth) -> str:
    """Say whether any way predicts perturbations better than the mean of the other ones."""
    responses = truth.responses
    n, times_chosen = len(truth.targets), Counter(responses.choices)
    if n < 2:
        return "there is only one perturbation, and no others to predict it from"
    mean, best = (float(np.nanmedian(responses.scores[name])) for name in (MEAN, CHOSEN))
    gain, error = responses.gain
    if set(times_chosen) == {MEAN} or gain <= 0:
        return (
            f"no way predicts the {n} perturbations better than the mean change of the other ones "
            f"(median correlation {mean:.2f}): do not act on predictions of single perturbations"
        )
    sure = "" if gain > 2 * error else ", which is within the noise"
    often = [name for name, _ in times_chosen.most_common(2)]
    ways = " and ".join(often) + (f" (of {len(times_chosen)} ways)" if len(times_chosen) > len(often) else "")
    return (
        f"the {n:,} perturbations are predicted best by {ways}, chosen for each by how well it predicts the "
        f"others: median correlation {best:.2f}, where the mean change of the other ones gives {mean:.2f} "
        f"(mean gain {gain:+.2f}, standard error {error:.2f}{sure})"
    )


def _ways_table(truth: Truth, sentence: str) -> Entry:
    responses = truth.responses
    rows: list[list[Any]] = []
    for name, scores in responses.scores.items():
        finite = np.isfinite(scores)
        if finite.any():
            error = float(np.mean(responses.errors[name][finite]))
            rows.append(
                [
                    name,
                    int(finite.sum()),
                    float(np.median(scores[finite])),
                    float(np.median(responses.scores[MEAN][finite])),
                    float(scores[finite].mean()),
                    error,
                ]
            )
    return rows_table(
        "Ways to predict a perturbation, each target from the other ones",
        f"{sentence[0].upper()}{sentence[1:]}. mean and median: of the changes by other perturbations; "
        "shared features: a linear model on which features were perturbed together; additive: the sum of "
        "both singles; ridge: linear models on embeddings of the perturbed feature, with their penalty; "
        "model: the trained model's own prediction; stacked: all of them, weighted by the other targets.",
        [
            "way",
            "perturbations",
            "median correlation",
            "median correlation of the mean, same perturbations",
            "mean correlation",
            "mean error",
        ],
        rows,
    )


def draw(options: PerturbOptions, placed: PlacedCells, findings: Findings) -> list[Drawn]:
    """Return the pictures."""
    from mocli.report import featureplots

    pictures = []
    if findings.screened is not None:
        table = findings.screened
        over_all = table[((table["group"] == ALL) & (table["n_changed"] > 0)).to_numpy()]
        if len(over_all):
            pictures.append(
                Drawn(
                    featureplots.volcano(
                        over_all["shift"].to_numpy(), over_all["p"].to_numpy(), list(over_all["feature"]),
                        (over_all["direction"] == "up").to_numpy(), (over_all["fdr"] < _FDR).to_numpy(),
                    ),
                    "The screen",
                    "One point for each perturbation, over all cells: right of 0 it brings them nearer to "
                    f"{options.target}.",
                )
            )  # fmt: skip
            if len(placed.sets.names) > 1:
                pictures.append(_heat(placed, table, over_all))
    if findings.predicted is not None:
        pictures.append(_effects(findings.predicted))
    if findings.truth is not None:
        points, scores = findings.truth.points, findings.truth.table
        best = scores.drop_duplicates("feature").sort_values("best_pearson", ascending=False).head(6)
        panels = []
        for feature, way, r in zip(best["feature"], best["best_way"], best["best_pearson"], strict=True):
            part = points[(points["feature"] == feature).to_numpy()].drop_duplicates("target")
            predicted, measured = (part[c].to_numpy() for c in ("best", "measured"))
            panels.append((f"{feature}, {way}, r = {r:.2f}", predicted, measured, list(part["target"])))
        pictures.append(
            Drawn(
                featureplots.against_truth(panels),
                "Predicted against measured changes",
                "One point for each feature; the perturbations predicted best, each from the others. All "
                "are in the table.",
            )
        )
    return pictures


def _heat(placed: PlacedCells, table: pd.DataFrame, over_all: pd.DataFrame) -> Drawn:
    from mocli.report import featureplots

    keys = list(zip(over_all["feature"], over_all["direction"], strict=True))[: featureplots.MAX_ROWS]
    groups = placed.sets.names
    values = table.set_index(["feature", "direction", "group"])["shift"]
    values = values[~values.index.duplicated()]
    grid = np.array([[values.get((f, d, g), np.nan) for g in groups] for f, d in keys])
    return Drawn(
        featureplots.heat_map(grid, [f"{f} {d}" for f, d in keys], groups, label="shift towards the target"),
        "The best perturbations, group by group",
        "Red: the cells of a group come nearer to the target cells of that group; blue: they move away.",
    )


def _effects(predicted: Predicted) -> Drawn:
    from mocli.report import featureplots

    table = predicted.table
    over_all = table[(table["group"] == ALL).to_numpy()]
    size = pd.Series(_sizes(over_all), index=over_all.index)
    top = (
        size.abs()
        .groupby(over_all["target"])
        .max()
        .sort_values(ascending=False)
        .index[: featureplots.MAX_ROWS]
    )
    keys = list(dict.fromkeys(zip(over_all["feature"], over_all["direction"], strict=True)))[
        : featureplots.MAX_COLUMNS
    ]
    values = dict(
        zip(
            zip(over_all["feature"], over_all["direction"], over_all["target"], strict=True),
            size,
            strict=True,
        )
    )
    grid = np.array([[values[f, d, t] for f, d in keys] for t in top])
    logged = predicted.reader.counted or predicted.reader.logged
    return Drawn(
        featureplots.heat_map(
            grid, list(map(str, top)), [f"{f} {d}" for f, d in keys],
            label="log2 fold change" if logged else "change",
        ),
        f"Predicted changes of {predicted.reader.modality}",
        "The target features that change most, over all perturbed cells. Red: up; blue: down.",
    )  # fmt: skip


UNCHANGED = "none"


def deliver(
    run: Run,
    request: Request,
    options: PerturbOptions,
    subject: Subject,
    placed: PlacedCells,
    findings: Findings,
) -> None:
    """Write tables and, where asked for, predicted cells; fill the report."""
    screened, predicted = findings.screened, findings.predicted
    if subject.trained is None:
        describe_given(run, subject.files, subject.saved, f"the model of {options.from_model}")
    report_perturbation(run, options, placed, findings)
    path, beside = run.paths.output, list(run.paths.beside)
    n, n_sets = len(placed.perturbations), len(placed.sets.sets)
    if screened is not None:
        write_tsv(path, screened)
        cells = "all cells" if n_sets == 1 else f"{n_sets:,} sets of cells"
        run.add_output(
            path, f"shifts of {plural(n, 'perturbation')} towards {options.target}, {cells}", first=True
        )
        if predicted is not None:
            path = beside.pop(0)
    if predicted is not None:
        write_tsv(path, predicted.table)
        what = f"predicted changes of {len(predicted.reader.names):,} {predicted.reader.modality} features"
        run.add_output(path, f"{what} by {plural(n, 'perturbation')}", first=screened is None)
        if options.write_predicted:
            _write_predicted(run, request, options, subject, placed, predicted.reader, beside.pop(0))
    run.finish(lambda: {"drawn": draw(options, placed, findings)})


def _write_predicted(
    run: Run,
    request: Request,
    options: PerturbOptions,
    subject: Subject,
    placed: PlacedCells,
    reader: TargetReader,
    path: Path,
) -> None:
    """Write the predicted values of every cell, unchanged and after each perturbation, block by block."""
    obs = subject.file.obs.iloc[subject.chosen.source]
    pairs = [(UNCHANGED, UNCHANGED)]
    pairs += [(d, p.name) for d in options.directions for p in placed.perturbations]
    parts = []
    for direction, feature in pairs:
        part = obs.copy()
        if feature != UNCHANGED:
            part.index = pd.Index([f"{cell}|{direction}|{feature}" for cell in obs.index], dtype=object)
        part["perturbed"], part["direction"] = feature, direction
        parts.append(part)
    uns = {}
    if request.output.provenance:
        uns = {"mocli": run.provenance(subject.saved.description["model"], subject.saved.model.params)}
    new = NewModality(
        name=f"{reader.modality}_predicted",
        obs=pd.concat(parts),
        var=pd.DataFrame(index=pd.Index(list(reader.names), dtype=object)),
        blocks=lambda: _blocks(options, placed, reader),
        uns=uns,
    )
    write_file(path, [], obsm={}, uns=uns, new=[new])
    scale = "expected counts at median depth" if reader.counted else "on the scale of the transform"
    run.add_output(
        path,
        f"{new.n_obs:,} predicted cells ({len(pairs):,} x {len(obs):,}) x {new.n_vars:,} features, {scale}",
    )


def _blocks(options: PerturbOptions, placed: PlacedCells, reader: TargetReader) -> Iterator[Block]:
    cells = placed.cells
    yield from ({"X": reader.read(cells.z[rows]).astype(np.float32)} for rows in reader.blocks(len(cells.z)))
    for direction in options.directions:
        for perturbation in placed.perturbations:
            z = cells.z.copy()
            for _, changed, after in stream(cells, [perturbation], options.change, direction):
                z[changed] = after
            yield from ({"X": reader.read(z[rows]).astype(np.float32)} for rows in reader.blocks(len(z)))
