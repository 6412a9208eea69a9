"""The output of a simulation: cells drawn block by block, and the report with its comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from mocli.data.write.blocks import NewModality
from mocli.data.write.write import write_file
from mocli.errors import InputError, some
from mocli.metrics.generated import Generated, judge, moments
from mocli.nn.neighbors import chunks, knn
from mocli.report.featureplots import mean_variance
from mocli.report.figures import Entry, duration, figure, join, size, spoken, table
from mocli.report.html import Drawn, Layout
from mocli.report.ranking import metric_title
from mocli.tasks.infer.align import find_modality
from mocli.tasks.infer.decoder import likelihood_of
from mocli.tasks.run.frame import Foresight, Tell
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.score.picture import layout
from mocli.tasks.simulate.compare import ALL, compared, matched, matched_within
from mocli.tasks.simulate.copula import correlated_values
from mocli.tasks.simulate.groups import atlas_of
from mocli.tasks.simulate.options import SimulateOptions
from mocli.tasks.simulate.work import MOST_CELLS, Simulated, all_values, draw_values, place_cells
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import CSR, IntArray

AMONG = 15
"""Nearest training cells whose labels are counted."""

MOST_PLACED = 5_000
"""Simulated cells whose coordinates are compared, with ten times as many training cells."""

MOST_DRAWN = 6_000
"""Cells in the picture, half of them simulated."""


def report_groups(run: Run, simulated: Simulated) -> None:
    """Report for every group how many cells follow how many, with which coordinates, batch and depth."""
    cells, options = simulated.cells, simulated.options
    rows: list[list[Any]] = []
    nearest = _nearest_labels(simulated, seed=run.options.seed, device=str(run.device))
    for position, group in enumerate(simulated.plan.groups):
        ratio = simulated.cells.ratios[group.name]
        agreement = nearest[cells.group == position] if group.label is not None else np.zeros(0)
        agreement = agreement[np.isfinite(agreement)]
        share = float(agreement.mean()) if len(agreement) else None
        rows.append([group.name, len(group.rows), group.n, ratio, share])
    run.report.tables["simulated"] = table(
        "Cells that were simulated",
        "The variance ratio is that of simulated coordinates over the training cells', 1 being equally "
        "diverse; the last column is the share of simulated cells whose 15 nearest training cells mostly "
        "have the label asked for.",
        ["label", "training cells", "simulated cells", "variance ratio", "of the label asked"],
        rows,
    )
    values = [row[3] for row in rows if np.isfinite(row[3])]
    run.report.metrics["latent_variance_ratio"] = figure(
        float(np.mean(values)) if values else None,
        "Variance ratio of latent coordinates",
        "Total variance over the latent's dimensions of the simulated cells of a label, over that of the "
        "training cells of the label (a draw from the posterior of each, where the model has one); mean over "
        "labels.",
        "Should be about 1: below it, simulated cells are more alike than real ones.",
        n=cells.n,
    )
    shares = [row[4] for row in rows if row[4] is not None]
    if shares:
        run.report.metrics["nearest_label[latent]"] = figure(
            float(np.mean(shares)),
            "Simulated cells nearest to the label asked for",
            "Share of simulated cells most of whose 15 nearest training cells in the latent have the label "
            "asked for; mean over labels.",
            "1 means that every cell lies among the training cells of its label.",
            better="higher",
            bounds=(0.0, 1.0),
            n=cells.n,
        )
    size = options.library_size
    run.report.tables["measured_as"] = table(
        "How cells were made",
        "Repeat the command with another --places, --batch or --library to change it.",
        ["choice", "value"],
        [
            ["coordinates", _places_words(simulated)],
            ["batch", options.batch if atlas_of(simulated.saved).batch is not None else None],
            ["library", size if isinstance(size, str) else f"{size:g} counts"],
        ],
    )
    for key in ("latent_variance_ratio", "nearest_label[latent]"):
        entry = run.report.metrics.get(key)
        if entry is not None and entry["value"] is not None:
            run.say(spoken(key, entry, *([] if entry["better"] else ["best 1"])))


def _places_words(simulated: Simulated) -> str:
    if simulated.options.about_mean:
        return "one normal distribution about the label's mean coordinates (scCross)"
    if simulated.options.from_mixture:
        return "drawn from the model's mixture components"
    atlas = atlas_of(simulated.saved)
    if atlas.drawn is not None and atlas.cloud is atlas.z:
        return "around training cells' means, as their posteriors are mostly noise"
    return "around training cells, as diverse as those"


def _nearest_labels(simulated: Simulated, *, seed: int, device: str) -> Any:
    """Say whether most of the nearest training cells have a cell's label, `(n,)`; NaN where not tested."""
    atlas, cells, labels = atlas_of(simulated.saved), simulated.cells, simulated.plan.labels
    out = np.full(cells.n, np.nan)
    if labels is None:
        return out
    cloud = atlas.cloud
    rng = np.random.default_rng(seed)
    rows = rng.permutation(cells.n)[:MOST_PLACED]
    training = rng.permutation(np.flatnonzero(labels.codes >= 0))[: 10 * MOST_PLACED]
    neighbors = knn(cells.z[rows], cloud[training], min(AMONG, len(training)), device=device)[1]
    neighbor_codes = labels.codes[training][neighbors]
    votes = np.stack([(neighbor_codes == k).sum(1) for k in range(len(labels.levels))], 1)
    out[rows] = votes.argmax(1) == cells.label[rows]
    return out


FEW_REAL = 50
"""Real cells of a label below which what is compared with them is mostly noise: 25 against 25."""

MOST_NAMED = 5
"""Most labels named in a warning."""

TOLD_APART = 0.9
"""From this discriminability on, a classifier hardly ever errs."""


def evaluate(
    run: Run, simulated: Simulated, layers: Mapping[str, str], *, correlated: bool = False
) -> Generated | None:
    """Compare with real cells where there are some; figures go to the report and the log."""
    if not simulated.files:
        run.warn(
            "no real cells were given, so simulated cells are not compared with real ones; give input "
            "files together with --from-model"
        )
        return None
    cells = compared(run, simulated, layers)
    if cells is None:
        return None
    _warn_of_few(run, cells)
    judgements = judge(cells)
    run.report.metrics |= {judged.key: judged.entry for judged in judgements}
    run.report.metrics |= matched(cells)
    others = {j.key: j.entry for half in cells.halves() for j in judge(half)}
    within, real = matched_within(cells)
    run.report.metrics |= within
    others |= real
    run.report.baselines["other_real_cells"] = {
        "is_bound": True,
        "title": "other real cells",
        "definition": "One half of the real cells instead of simulated ones, against the other half: about "
        "the best possible.",
        "metrics": others,
    }
    if correlated:
        run.report.baselines["independent_features"] = _independent(run, simulated, layers)
    sentence = simulation_sentence(run.report.metrics, run.report.baselines)
    if sentence is not None:
        run.say(f"  {sentence}")
        run.report.conclude(sentence)
    codes = sorted({code for judged in judgements for code in judged.by_label})
    run.report.tables["labels"] = table(
        "Simulated and real cells of every label",
        "One row a label; columns as in the metrics above.",
        ["label", *(metric_title(judged.key, judged.entry["title"]) for judged in judgements)],
        [[cells.levels[code], *(judged.by_label.get(code) for judged in judgements)] for code in codes],
    )
    for judged in judgements:
        value, beside = judged.entry["value"], others.get(judged.key, {}).get("value")
        if isinstance(value, float):
            others_there = [] if beside is None else [f"other real cells {beside:.3f}"]
            best = [] if judged.entry["better"] else [f"best {judged.metric.best:g}"]
            run.say(spoken(judged.key, judged.entry, *best, *others_there))
            if judged.key.startswith("discriminability") and value > TOLD_APART > (beside or 0.0):
                run.warn(
                    f"a classifier nearly always tells simulated cells from real ones ({judged.key} "
                    f"{value:.2f}): do not use them as data; train the model longer, or try another"
                )
    return cells


def _warn_of_few(run: Run, cells: Generated) -> None:
    """Warn of labels with so few real cells that figures of them are mostly noise."""
    by_label = {
        cells.levels[code]: int((cells.real_label[name] == code).sum())
        for name in cells.real
        for code in cells.labels(name)
    }
    few = {label: n for label, n in by_label.items() if n < FEW_REAL}
    if few:
        which = "every label" if len(few) == len(by_label) > 1 else some(few, MOST_NAMED)
        run.warn(
            f"fewer than {FEW_REAL} real cells of {which} are compared with: these figures, and those of "
            "other real cells, which are one half against the other, are mostly noise"
        )


def _independent(run: Run, simulated: Simulated, layers: Mapping[str, str]) -> Entry:
    """Judge draws of the likelihood, feature by feature, without correlations or margins of real cells."""
    seed, device, saved, cells = run.options.seed, run.device, simulated.saved, simulated.cells
    names = simulated.plan.modalities
    drawn = {name: all_values(saved, cells, name, seed=seed, device=device) for name in names}
    control = compared(run, simulated, layers, drawn)
    return {
        "is_bound": False,
        "title": "features drawn one by one",
        "definition": "Draws from the likelihood at the same latent coordinates, each feature by itself, "
        "without the correlations and the margins of real cells.",
        "metrics": {} if control is None else {judged.key: judged.entry for judged in judge(control)},
    }


def simulation_sentence(metrics: Mapping[str, Any], baselines: Mapping[str, Any]) -> str | None:
    """Say whether simulated cells can be told from real ones; None where nothing was compared."""
    name = "discriminability"
    parts = []
    for key, entry in metrics.items():
        if not key.startswith(f"{name}[") or entry["value"] is None:
            continue
        plain = baselines.get("independent_features", {}).get("metrics", {}).get(key, {}).get("value")
        beside = "" if plain is None else f" ({plain:.2f} if features are drawn one by one)"
        parts.append(f"{entry['value']:.2f} for {key.removeprefix(name)[1:-1]}{beside}")
    if not parts:
        return None
    return (
        f"a classifier tells simulated from real cells with an AUC of {join(parts)}; 0.5 is not at all, and "
        "less means that they lie between the real cells that they follow"
    )


def pictures(simulated: Simulated, cells: Generated | None, *, seed: int, device: str) -> dict[str, Any]:
    """Return the pictures of the report."""
    drawn = [] if cells is None else _mean_variance(cells)
    return {"layout": _layout(simulated, cells, seed, device), "drawn": drawn}


def _mean_variance(cells: Generated) -> list[Drawn]:
    panels = []
    for name in cells.counted:
        codes = cells.labels(name)
        if codes:
            # the label of most real cells
            code = max(codes, key=lambda k: int((cells.real_label[name] == k).sum()))
            x, y = (moments(m) for m in cells.raw(name, code))
            panels.append((f"{name}, {cells.levels[code]}", x, y))
    if not panels:
        return []
    picture = mean_variance(sorted(panels, key=itemgetter(0)))
    caption = "One point for each feature, counts of the label with most cells: colours should overlap."
    return [Drawn(picture, "Mean and variance", caption)]


def _layout(simulated: Simulated, cells: Generated | None, seed: int, device: str) -> Layout:
    """Draw simulated cells among real ones by measured values, or among training cells in the latent."""
    rng = np.random.default_rng(seed)
    if cells is not None:
        name = next(iter(cells.real))
        z, w = (part.astype(np.float32) for part in cells.components(name))
        label, other, levels = cells.real_label[name], cells.simulated_label, cells.levels
        title = f"UMAP of principal components of {name}, real and simulated cells"
    else:
        atlas = atlas_of(simulated.saved)
        z, w = atlas.cloud, simulated.cells.z
        labels = simulated.plan.labels
        label = np.full(len(z), -1) if labels is None else labels.codes
        other, levels = simulated.cells.label, () if labels is None else labels.levels
        title = "UMAP of the latent, training and simulated cells"
    chosen, drawn = (np.sort(rng.permutation(len(part))[: MOST_DRAWN // 2]) for part in (z, w))
    xy = layout(np.concatenate([z[chosen], w[drawn]]), seed=seed, device=device)
    origin = np.repeat([0, 1], [len(chosen), len(drawn)])
    categories: dict[str, tuple[IntArray, Sequence[str]]] = {
        "origin": (origin, ("training" if cells is None else "real", "simulated"))
    }
    if levels and levels != (ALL,):
        categories["label"] = (np.concatenate([label[chosen], other[drawn]]), levels)
    return Layout(title, xy, categories, points="One point a cell")


def deliver(run: Run, request: Request, simulated: Simulated) -> None:
    """Write the file, compare with real cells where there are some, fill the report."""
    saved, plan, cells = simulated.saved, simulated.plan, simulated.cells
    for name in plan.modalities:
        _check_features(run, simulated, name)
    obs = obs_table(simulated)
    values: dict[str, CSR] = {}
    if simulated.options.correlates:
        seed, device = run.options.seed, run.device
        values = correlated_values(simulated, request.data.layer, seed=seed, device=device, say=run.say)
    new = [_new_modality(run, simulated, obs, name, values.get(name)) for name in plan.modalities]
    key = request.output.key_added or f"X_{saved.description['model']}"
    uns = run.provenance(saved.description["model"], saved.model.params)
    columns = {str(name): obs[name] for name in obs}
    written = write_file(run.paths.output, [], obsm={key: cells.z}, uns=uns, obs=columns, new=new)
    for name, took in written.items():
        run.say(
            f"{name}: {cells.n:,} cells sampled in {duration(took.decode_s)}, written in "
            f"{duration(took.write_s)} ({size(took.bytes)})"
        )
    kinds = ", ".join(f"{len(m.var):,} {m.name}" for m in new)
    run.add_output(
        run.paths.output,
        f"{cells.n:,} simulated cells with {kinds} features each, latent coordinates in obsm['{key}']",
        first=True,
    )
    report_groups(run, simulated)
    with run.timed("evaluate"):
        compared = evaluate(run, simulated, request.data.layer, correlated=bool(values))
    run.finish(lambda: pictures(simulated, compared, seed=run.options.seed, device=str(run.device)))


def obs_table(simulated: Simulated) -> pd.DataFrame:
    """Return what is known of every simulated cell: label, covariates, the cell and component it follows."""
    saved, cells, atlas = simulated.saved, simulated.cells, atlas_of(simulated.saved)
    width = len(str(cells.n))
    names = pd.Index([f"simulated_{i:0{width}d}" for i in range(1, cells.n + 1)], dtype=object)
    columns = saved.description.get("columns", {})
    table: dict[str, object] = {}
    labels = simulated.plan.labels
    if labels is not None:
        table[labels.key] = _words(cells.label, labels.levels)
    if atlas.batch is not None and (cells.batch >= 0).any():
        table[columns.get("batch", atlas.batch.key)] = _words(cells.batch, atlas.batch.levels)
    names_of = {entry["key"]: entry["column"] for entry in saved.description.get("covariates", [])}
    for codes in atlas.covariates:
        table.setdefault(names_of.get(codes.key, codes.key), _words(codes.codes[cells.source], codes.levels))
    if atlas.continuous is not None:
        for j, name in enumerate(saved.description.get("continuous", [])):
            table.setdefault(name, atlas.continuous[cells.source, j])
    table["simulated"] = np.ones(cells.n, dtype=bool)
    if atlas.names and not simulated.options.about_mean:
        table["source_cell"] = np.array([atlas.names[i] for i in cells.source], dtype=object)
    if cells.component is not None:
        table["source_component"] = cells.component.astype(np.int64)
    return pd.DataFrame(table, index=names)


def _words(codes: IntArray, levels: tuple[str, ...]) -> pd.Categorical:
    used = np.unique(codes[codes >= 0])
    where = np.full(len(levels) + 1, -1)
    where[used] = np.arange(len(used))
    return pd.Categorical.from_codes(where[codes], [levels[k] for k in used])


def _check_features(tell: Tell, simulated: Simulated, name: str) -> None:
    """Log what is simulated of a modality; raise an error if the model draws no features of it."""
    recipe = simulated.saved.recipes[name]
    if recipe.lsi is not None or recipe.components is not None:
        raise InputError(
            f"the model draws components of '{name}', not features",
            field="--modality",
            hint=f"train it with --likelihood {name}=poisson, or leave {name} out",
        )
    if len(recipe.selected) < recipe.n_vars:
        tell.say(
            f"{name}: {len(recipe.selected):,} of {recipe.n_vars:,} features, those that the model knows"
        )
    if likelihood_of(simulated.saved, name) in {"normal", "ziln"} and not recipe.transform.keeps_values:
        tell.warn(
            f"{name}: the values are not counts, but lie on the scale that the model was trained on "
            f"({recipe.transform.name}); train it with --likelihood {name}=nb for counts"
        )


def _new_modality(
    run: Run, simulated: Simulated, obs: pd.DataFrame, name: str, values: CSR | None
) -> NewModality:
    saved = simulated.saved
    names = pd.Index(list(saved.recipes[name].feature_names), dtype=object)
    var = pd.DataFrame(index=names)
    file = find_modality(simulated.files, name, saved)
    if file is not None:
        var = file.var[~file.var.index.duplicated()].reindex(names)
    return NewModality(
        name=name,
        obs=obs,
        var=var,
        blocks=lambda: (
            {"X": x}
            for x in (
                draw_values(saved, simulated.cells, name, seed=run.options.seed, device=run.device)
                if values is None
                else (values[rows] for rows in chunks(values.shape[0], MOST_CELLS))
            )
        ),
    )


def simulate_cells(
    model: SavedModel | str | Path, options: SimulateOptions, *, device: str = "cpu", seed: int = 0
) -> dict[str, AnnData]:
    """Simulate cells of a trained model, in memory.

    Args:
        model: As `load_model` returns it, or its folder.
        options: Which cells, how many and how; see `mocli simulate -h`.

    Returns:
        dict: By modality the same cells: drawn values in `X`, latent coordinates in `obsm["X_<model>"]`,
            label, batch and the training cell that each follows in `obs`.

    Raises:
        UsageError, InputError: The model cannot simulate what is asked for.
    """
    saved = load_model(model)
    place, tell = torch.device(device), Foresight()
    plan, cells = place_cells(saved, options, seed=seed, device=place, say=tell.say, warn=tell.warn)
    simulated, by_modality = Simulated(saved, [], options, plan, cells), {}
    obs = obs_table(simulated)
    for name in plan.modalities:
        recipe = saved.recipes[name]
        _check_features(tell, simulated, name)
        x = all_values(saved, cells, name, seed=seed, device=place)
        names = np.asarray(saved.modalities[name]["var_names"], dtype=object)[recipe.selected]
        by_modality[name] = AnnData(x, obs=obs.copy(), var=pd.DataFrame(index=pd.Index(names.astype(str))))
        by_modality[name].obsm[f"X_{saved.description['model']}"] = cells.z
    return by_modality
