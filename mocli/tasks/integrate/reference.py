"""`mocli integrate --reference`: cells of a query added to those of a trained model."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mocli.data.bundle import Codes, MultiOmics
from mocli.data.files.obs import name_of_column
from mocli.metrics.embedding import Embedding
from mocli.metrics.mixing import TWINS
from mocli.metrics.registry import evaluate
from mocli.models.base import Extends, Model
from mocli.models.registry import as_dict, traits_of
from mocli.nn.neighbors import drawn_rows
from mocli.report.figures import table
from mocli.report.html import Confusion, Layout
from mocli.tasks.infer.query import Query, check_labels, match_query
from mocli.tasks.integrate.carried import UNKNOWN, Carried, CarriedPoints, counted_before
from mocli.tasks.integrate.labels import vote_from_atlas
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.integrate.voting import own_places
from mocli.tasks.integrate.work import Placed, complete
from mocli.tasks.integrate.write import MAX_PICTURE
from mocli.tasks.prepare.footprint import footprint_of_given, tell_memory
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.paths import CALIBRATION
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.score.evaluate import Scores, confusions, describe_scores
from mocli.tasks.score.picture import layout
from mocli.tasks.trained.atlas import MANY_KNOWN, Atlas
from mocli.tasks.trained.latent import Latent
from mocli.tasks.trained.record import describe_model, describe_training, record_files
from mocli.tasks.trained.saved import SavedModel, load_model, write_model
from mocli.tasks.trained.train import encode, schedule_of, training_of
from mocli.train.loop import fit
from mocli.types import BoolArray, FloatArray, IntArray, Pairing, Task

REFERENCE, QUERY = "reference", "query"

FEW_CELLS = 50
"""A batch with fewer cells than this hardly shows its own effect."""


def map_query(run: Run, request: Request, options: IntegrateOptions, folder: Path) -> None:
    """Find the latent coordinates of a query's cells, and write them as an integration does.

    Clusters are those of the query's cells alone.
    """
    with run.timed("load"):
        saved = load_model(folder)
        run.say(f"reference: {saved.description['model']} from {folder}")
        name = saved.description["model"]
        files = open_modalities(request.data)
        tell_memory(run, footprint_of_given(files, folder, Task.INTEGRATE))
        query = match_query(saved, files, request.data, say=run.say, warn=run.warn)
        check_labels(saved, options.transfer.columns)
        options.check(type(saved.model), name)
        warn_unused(run, request, saved)
        describe_query(run, query)
        bundle = query.load(run.device)
    with run.timed("train"):
        model = extend(run, request, query, bundle)
    with run.timed("encode"):
        latent = _measured(encode(run, model, bundle), query)
        grown = grow(query, model)
        write_model(run.paths.model, grown)
        if (folder / CALIBRATION).is_file():
            shutil.copyfile(folder / CALIBRATION, run.paths.model / CALIBRATION)
        run.keep(run.paths.model)
    atlas, seed = saved.atlas, run.options.seed
    shown = drawn_rows(0 if atlas is None else len(atlas.z), MAX_PICTURE // 2, seed=seed)
    names = {m: a.file.name for m, a in query.aligned.items()}
    placed = Placed(
        files=query.files,
        relation=query.relation,
        name=name,
        model=model,
        bundle=bundle,
        latent=latent,
        names=names,
        column_names=_column_names(query),
        used={a.file.name: _seen(query, m) for m, a in query.aligned.items()},
        around=None if atlas is None else atlas.z[shown],
    )

    def carry() -> list[Carried]:
        if atlas is None:
            return []
        _warn_known(run, query, atlas)
        by_file = {names[m]: z for m, z in latent.by_modality.items()}
        again = {} if latent.joint is None else counted_before(bundle, names)
        measured = list(query.aligned)
        own = own_places(atlas, bundle, measured)
        return vote_from_atlas(run, options.transfer, atlas, query.files, by_file, measured, again, own)

    draw = partial(draw_query, (atlas, shown), bundle, latent, seed=seed, device=str(run.device))
    complete(run, request, options, placed, partial(compare, run, query, bundle, latent), carry, draw)


def _column_names(query: Query) -> dict[str, str]:
    """Return the user's names of the columns that are batch and label to the model."""
    saved_names = {**query.saved.description.get("columns", {})}
    query_names = {"batch": query.data.batch_key, "label": name_of_column(query.data.label_key or "")}
    return {**saved_names, **{key: name for key, name in query_names.items() if name}}


def _seen(query: Query, name: str) -> BoolArray:
    """Say which features of a query's file the model sees, `(n_vars,)`."""
    of_model = query.aligned[name].selection[:, query.saved.recipes[name].selected]
    seen: BoolArray = np.asarray(of_model.getnnz(axis=1)) > 0
    return seen


def _warn_known(run: Run, query: Query, atlas: Atlas) -> None:
    """Warn if the query seems to be the training data; a few barcodes recur by chance."""
    share = atlas.share_known(query.obs_names)
    if share > MANY_KNOWN:
        run.warn(
            f"{share:.0%} of {len(query.obs_names):,} cells have names of training cells: if they are the "
            "same, their labels are recalled, not predicted"
        )


def warn_unused(run: Run, request: Request, saved: SavedModel) -> None:
    """Warn of options that have no effect on a model that is trained already."""
    unused = [option for option in request.of_training if option not in {"--max-steps", "--preset"}]
    if request.train.model == saved.description["model"] and "--model" in unused:
        unused.remove("--model")
    if unused:
        run.warn(f"the reference is already trained, so these have no effect: {', '.join(unused)}")


def describe_query(run: Run, query: Query) -> None:
    """Record what was read, file by file, and how many of the model's features were measured."""
    by_file = {a.file.name: name for name, a in query.aligned.items()}

    def facts(file: str, _: IntArray) -> dict[str, Any]:
        name = by_file[file]
        entry = query.saved.modalities[name]
        return {
            "layer": query.aligned[name].layer,
            "values": entry["values"],
            "transform": query.saved.recipes[name].options.transform,
            "likelihood": entry.get("likelihood"),
        }

    record_files(run, query.files, facts)
    rows: list[list[str | float | int | bool | None]] = []
    for name, a in query.aligned.items():
        measured = a.n_vars - len(a.absent)
        rows.append([name, a.file.name, a.n_vars, measured, measured / a.n_vars])
    run.report.tables["query_features"] = table(
        "Features of the model that the query has",
        "Absent features get the training cells' mean, counts at the depth of the cell.",
        ["modality", "in the query", "of the model", "measured", "share"],
        rows,
    )


def extend(run: Run, request: Request, query: Query, bundle: MultiOmics) -> Model:
    """Return the model with the weights that the query adds, trained if there are any."""
    model, n_cells = query.saved.model, bundle.n_cells
    name = query.saved.description["model"]
    describe_model(run, traits_of(name), as_dict(model.params), "the reference's model")
    if not isinstance(model, Extends):
        run.say(f"{name} has no batch-specific weights: the query is encoded without training")
        model.module.to(run.device).eval()
        return model
    extended = model.extended(bundle)
    if not extended.phases(schedule_of(request.train), bundle):
        run.say("nothing about the query is new to the model: it is encoded without training")
        extended.module.to(run.device).eval()
        return extended
    for codes in query.columns:
        for level in query.new.get(codes.key, ()):
            n = int((codes.codes == codes.levels.index(level)).sum())
            if n < FEW_CELLS:
                run.warn(f"'{level}' has {n:,} cells, which is few to learn its own effect from")
    trainable = sum(p.numel() for p in extended.module.parameters() if p.requires_grad)
    run.say(f"training {trainable:,} new weights on {n_cells:,} cells; all others are frozen")
    done = fit(
        extended, bundle, schedule_of(request.train), training_of(run, _fingerprint(run, request, query))
    )
    describe_training(run, done, sum(m.n_obs for m in bundle.modalities.values()))
    return extended


def _fingerprint(run: Run, request: Request, query: Query) -> dict[str, Any]:
    h = hashlib.sha256()
    for part in (query.rows, *(c.codes for c in query.columns)):
        h.update(np.ascontiguousarray(part).tobytes())
    return {
        "inputs": [record["sha256"] for record in run.report.inputs],
        "trained_on": query.saved.description.get("trained_on"),
        "layers": [a.layer for a in query.aligned.values()],
        "cells": h.hexdigest(),
        "options": request.identity,
    }


def _measured(latent: Latent, query: Query) -> Latent:
    """Leave out modalities that were not measured."""
    return replace(latent, by_modality={name: latent.by_modality[name] for name in query.aligned})


def grow(query: Query, model: Model) -> SavedModel:
    """Return the saved model with the levels that the query added; its training cells do not move."""
    old = query.saved.description
    levels = {c.key: list(c.levels) for c in query.columns}
    covariates = [{**entry, "levels": levels[entry["key"]]} for entry in old.get("covariates", [])]
    description = {
        **old,
        "modalities": [_with_batches(entry, query) for entry in old["modalities"]],
        "covariates": covariates,
        "levels": {**old["levels"], **{k: v for k, v in levels.items() if k in old["levels"]}},
    }
    return replace(query.saved, model=model, description=description)


def _with_batches(entry: Mapping[str, Any], query: Query) -> dict[str, Any]:
    """Add the query's batches to those that a modality was measured in."""
    measured, name = entry.get("batches"), entry["name"]
    batch = next((c for c in query.columns if c.key == "batch"), None)
    if not measured or batch is None or name not in query.aligned:
        return dict(entry)
    rows = query.rows[:, list(query.aligned).index(name)] >= 0
    codes = np.unique(batch.codes[rows & (batch.codes >= 0)])
    added = [batch.levels[k] for k in codes if batch.levels[k] not in measured["levels"]]
    return {**entry, "batches": {**measured, "levels": [*measured["levels"], *added]}}


def compare(run: Run, query: Query, bundle: MultiOmics, latent: Latent) -> Confusion | None:
    """Measure how the query mixes with the training cells, the two treated as batches.

    Returns labels against those of the nearest training cells, where the query has some.
    """
    atlas = query.saved.atlas
    if atlas is None:
        run.warn("the reference keeps no training cells: nothing to compare the query with")
        return None
    z, cells = latent.points(bundle)
    label = levels = None
    column = name_of_column(query.data.label_key or "")
    if bundle.label is not None and column in atlas.labels:
        label_kept = atlas.labels[column]
        levels = (*label_kept.levels, *(v for v in bundle.label.levels if v not in label_kept.levels))
        label = {REFERENCE: label_kept.codes, QUERY: _recoded(bundle.label, levels)[cells]}
    embedding = Embedding(
        z={REFERENCE: atlas.z, QUERY: z},
        label=label,
        label_levels=levels or (),
        batch={REFERENCE: np.zeros(len(atlas.z), np.int64), QUERY: np.ones(len(z), np.int64)},
        seed=run.options.seed,
        device=str(run.device),
    )
    entries = evaluate(embedding)
    for doubled in TWINS:  # reference and query stand for modalities and for batches
        entries.pop(doubled, None)
    for entry in entries.values():
        if re.search("modalit|batch", entry["sentence"]):
            entry["sentence"] += " The two groups compared here are the reference and the query."
    describe_scores(run, Scores(entries, {}, {}, {}))
    return {
        way: confusion for way, confusion in confusions(embedding).items() if way == f"{REFERENCE}->{QUERY}"
    }


def _recoded(codes: Codes, levels: tuple[str, ...]) -> IntArray:
    where = np.array([levels.index(level) for level in codes.levels] + [-1], np.int64)
    return where[codes.codes]


def draw_query(
    training: tuple[Atlas | None, IntArray],
    bundle: MultiOmics,
    latent: Latent,
    clusters: Codes | None = None,
    xy: FloatArray | None = None,
    carried: Sequence[CarriedPoints] = (),
    *,
    seed: int,
    device: str = "cpu",
) -> Layout:
    """Return the picture of a query among the training cells.

    Args:
        training: Training cells, and which of them are drawn.
        xy: UMAP coordinates of these and of all points of the query, where they are known.
        carried: Labels that the query's points got.
    """
    atlas, shown = training
    z, cells = latent.points(bundle)
    reference_z = atlas.z[shown] if atlas is not None else np.zeros((0, z.shape[1]), np.float32)
    side = np.repeat([0, 1], [len(reference_z), len(z)])
    # as many of each as there is room for, so that a small query is seen in a large atlas
    drawn = drawn_rows(len(z), MAX_PICTURE // 2, seed=seed)
    chosen = np.concatenate([np.arange(len(reference_z)), len(reference_z) + drawn])
    xy = (
        layout(np.concatenate([reference_z, z])[chosen], seed=seed, device=device)
        if xy is None
        else xy[chosen]
    )
    categories: dict[str, Any] = {"query": (side[chosen], (REFERENCE, QUERY))}

    def both(reference: IntArray | None, query: IntArray | None) -> IntArray:
        sides = (reference, len(reference_z), shown), (query, len(z), cells)
        parts = [np.full(n, -1) if codes is None else codes[rows] for codes, n, rows in sides]
        return np.concatenate(parts)[chosen]

    if bundle.batch is not None:
        old = atlas.batch.codes if atlas and atlas.batch else None
        categories["batch"] = (both(old, bundle.batch.codes), bundle.batch.levels)
    by_name = {points.name: points for points in carried}
    values: dict[str, FloatArray] = {}
    others: dict[str, str] = {}
    for name, codes in (atlas.labels if atlas else {}).items():
        if name not in by_name:
            others[f"label ({name}, of the reference)"] = QUERY
            categories[f"label ({name}, of the reference)"] = (both(codes.codes, None), codes.levels)
            continue
        got = by_name[name]
        of_all_points = np.concatenate(
            [codes.codes[shown], np.where(got.codes < 0, len(got.levels), got.codes)]
        )
        categories[f"label ({name}, of the query as transferred)"] = (
            of_all_points[chosen],
            (*got.levels, UNKNOWN),
        )
        for what, of_query in (("confidence", got.confidence), ("mapping score", got.mapping)):
            of_all = np.concatenate([np.full(len(reference_z), np.nan, np.float32), of_query])
            values[f"{what}, {name}"] = of_all[chosen]
    if clusters is not None:
        others["cluster (of the query)"] = REFERENCE
        categories["cluster (of the query)"] = (both(None, clusters.codes), clusters.levels)
    n_kept, n_query = np.bincount(side[chosen], minlength=2)
    title = f"UMAP of {n_kept:,} cells of the reference and {n_query:,} of the query"
    points = (
        "One point a cell"
        if bundle.pairing is not Pairing.UNPAIRED
        else "One point for each cell of a modality"
    )
    return Layout(title, xy, categories, values, points=points, others=others)
