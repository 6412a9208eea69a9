"""Build a model for prepared data, train it, encode with it; or load the one that is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mocli import __version__
from mocli.data.bundle import MultiOmics
from mocli.data.files.modality import ModalityFile
from mocli.errors import UsageError
from mocli.models.base import Draws, Encodes, EncodesJointly, Model, Schedule, SmoothsLinks
from mocli.models.registry import as_dict, available, load_class, resolve, traits_of
from mocli.options import plain
from mocli.tasks.prepare.footprint import (
    choose_place,
    duration,
    footprint_of_given,
    tell_duration,
    tell_memory,
)
from mocli.tasks.prepare.load import Prepared, load
from mocli.tasks.prepare.pairing import doubtful_pairs
from mocli.tasks.prepare.plan import Aim, Plan
from mocli.tasks.prepare.smoothing import smooth_links
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.guard import return_freed_memory
from mocli.tasks.run.options import TrainOptions
from mocli.tasks.run.paths import DESCRIPTION, WEIGHTS
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run, digest
from mocli.tasks.trained.atlas import Atlas, LabelColumn
from mocli.tasks.trained.featurereadout import FeatureReadout
from mocli.tasks.trained.foresee import plan_training
from mocli.tasks.trained.latent import Latent, gives_one_place
from mocli.tasks.trained.record import (
    describe_inputs,
    describe_model,
    describe_training,
    warn_batches,
    warn_small,
)
from mocli.tasks.trained.saved import SavedModel, load_model, save_model
from mocli.tasks.trained.start import InitialModel, frozen_record
from mocli.train.captured import CudaGraphs, Recorder
from mocli.train.checkpoint import Checkpoints
from mocli.train.loop import Fitted, Training, fit
from mocli.train.optim import names_of
from mocli.train.predict import draw_cells, encode_cells, encode_rows
from mocli.types import Preset, Task


@dataclass(frozen=True, eq=False)
class Trained:
    """A newly trained model, with its training data."""

    plan: Plan
    prepared: Prepared
    model: Model
    latent: Latent


def train_model(
    run: Run,
    request: Request,
    aim: Aim,
    files: Sequence[ModalityFile] | None = None,
    *,
    labels: Sequence[LabelColumn] = (),
    check: Callable[[Any, str], None] | None = None,
) -> Trained:
    """Plan, load, train, encode and write the model's folder, and record all of it in the report.

    Args:
        files: The modalities where they are open already, perhaps with some cells only.
        labels: Columns that the model keeps for queries, besides the one of `--label-key`.
        check: Called with the model's class and name once it is chosen, to refuse before the work.
    """
    with run.timed("load"):
        plan = plan_training(request, aim.task, run.say, files)
        if check is not None:
            check(load_class(plan.traits.model), plan.traits.name)
        params = resolve(plan.traits, request.train.params, request.train.preset)
        for warning in plan.warnings:
            run.warn(warning)
        size = choose_place(plan, params, aim, limit=request.run.max_memory, tell=run)
        tell_memory(run, size)
        tell_duration(run, duration(plan, params, request.train, request.run, size, aim))
        origin = InitialModel.of(request.train.init_from)
        if origin is not None:
            run.paths.refuse_inputs([origin.folder / name for name in (WEIGHTS, DESCRIPTION)])
        recipe_of = origin.recipe if origin is not None else lambda *_: None
        prepared = load(
            plan,
            params,
            seed=request.run.seed,
            say=run.say,
            warn=run.warn,
            known_recipe=recipe_of,
            backed=size.backed > 0,
            device=str(run.device),
        )
        return_freed_memory()
        describe_inputs(run, plan, prepared.health, prepared.recipes)
    warn_small(run, prepared, params)
    warn_batches(run, prepared)
    for doubt in doubtful_pairs(prepared.bundle, plan.pairs, plan.columns.label, seed=request.run.seed):
        run.warn(doubt)
    with run.timed("train"):
        model, done, start = train(run, request, plan, prepared, params, origin)
    describe_model(run, plan.traits, as_dict(model.params), plan.why_model)
    describe_training(run, done, sum(c.file.n_obs for c in plan.choices), **start)
    with run.timed("encode"):
        latent = encode(run, model, prepared.bundle)
        keep_model(run, plan, prepared, model, latent, labels)
    return Trained(plan, prepared, model, latent)


@dataclass(frozen=True, eq=False)
class Untrained:
    """A model that is ready to be trained, the start of its weights, and its training data.

    Attributes:
        frozen: Names of parameters that are frozen.
        record: The weights that were given and those that are frozen, for the report.
    """

    model: Model
    bundle: MultiOmics
    frozen: frozenset[str]
    record: dict[str, Any]


def build(
    tell: Tell,
    request: Request,
    plan: Plan,
    prepared: Prepared,
    params: Any,
    origin: InitialModel | None = None,
    device: str = "cpu",
) -> Untrained:
    """Return a model before its training; the same seed starts from the same weights.

    `device`: where neighbours to average over are searched.
    """
    options, seed, bundle = request.train, request.run.seed, prepared.bundle
    torch.manual_seed(seed)
    model: Model = load_class(plan.traits.model).from_bundle(bundle, params)
    settled = {k: v for k, v in as_dict(model.params).items() if v is not None and as_dict(params)[k] is None}
    if settled:
        tell.say("chosen from the data: " + ", ".join(f"{name} {value}" for name, value in settled.items()))
    start = None if origin is None else origin.give(model, prepared)
    if start is not None:
        start.tell(tell)
    frozen = names_of(model.module, options.freeze, list(bundle.modalities))
    if frozen:
        tell.say(f"{len(frozen):,} tensors are frozen: {', '.join(options.freeze)}")
    record = {
        "init_from": None if start is None else start.record(),
        "frozen": frozen_record(model, options.freeze, frozen),
    }
    if isinstance(params, SmoothsLinks) and params.smooth_links:
        bundle = smooth_links(bundle, seed=seed, say=tell.say, device=device)
        return_freed_memory()
    return Untrained(model, bundle, frozen, record)


def train(
    run: Run,
    request: Request,
    plan: Plan,
    prepared: Prepared,
    params: Any,
    origin: InitialModel | None = None,
) -> tuple[Model, Fitted, dict[str, Any]]:
    """Return a trained model and where it started."""
    start = build(run, request, plan, prepared, params, origin, str(run.device))
    model, schedule = start.model, schedule_of(request.train)
    fingerprint = fingerprint_of(run, request, plan, prepared, model.params)
    fingerprint |= {
        "init_from": None if origin is None else origin.sha256,
        "freeze": sorted(start.frozen) or None,
    }
    if getattr(model.params, "lr_factor", None) is not None and not any(
        stop is not None and stop.lr_factor is not None
        for phase in model.phases(schedule, start.bundle)
        for stop in (phase.validation, phase.plateau)
    ):
        run.warn("lr_factor changes nothing: no cells are held out to tell when rates should fall")
    training = replace(training_of(run, fingerprint), frozen=start.frozen, fresh=origin is None)
    return model, fit(model, start.bundle, schedule, training), start.record


def schedule_of(options: TrainOptions) -> Schedule:
    """Return the schedule that the user allows."""
    return Schedule(Preset(options.preset), options.max_steps)


def training_of(run: Run, fingerprint: Mapping[str, Any]) -> Training:
    """Return how to run a fit; a checkpoint is continued only if its whole fingerprint is the same."""
    return Training(
        device=run.device,
        seed=run.options.seed,
        checkpoints=Checkpoints(
            run.paths.checkpoints, fingerprint=dict(fingerprint), resume=run.options.resume
        ),
        checkpoint_every=run.options.checkpoint_every,
        max_time=time_left(run),
        ranks=run.ranks,
        recorder=_recorder_of(run),
    )


def _recorder_of(run: Run) -> Recorder | None:
    """Return what records steps, where that is asked for and can be done."""
    if not run.options.cuda_graphs:
        return None
    if run.device.type == "cpu" or run.ranks.world > 1:
        run.warn("--cuda-graphs changes nothing: steps are recorded on a GPU that trains alone")
        return None
    return CudaGraphs(run.device)


def time_left(run: Run) -> float | None:
    """Return the seconds that `--max-time` leaves; choosing a model by short trainings takes from them."""
    allowed = run.options.max_time
    return None if allowed is None else max(0.0, allowed - run.report.timing.get("choose_s", 0.0))


def fingerprint_of(
    run: Run, request: Request, plan: Plan, prepared: Prepared, params: object
) -> dict[str, Any]:
    """Return what identifies this training: its options, and the contents of the files they name."""
    sets = [(name, m.data, m.indices, m.indptr) for name, m in sorted(prepared.bundle.sets.items())]
    facts = {
        **request.identity,
        "seed": run.options.seed,
        "inputs": [record["sha256"] for record in run.report.inputs],
        # some of a file's cells may be held out, and some features spared by the selection
        "cells": [_hash(c.file.name, *c.file.obs.index) for c in plan.choices],
        "kept": [c.keep for c in plan.choices],
        "links": [record["sha256"] for record in run.report.links],
        "sets": [_hash(*memberships) for memberships in sets],
        # a table from standard input has no file, and other columns of var match other features
        "matched": matches(plan),
        "model": plan.traits.name,
        "params": as_dict(params),
        "mocli": __version__,
    }
    return {key: plain(value) for key, value in facts.items()}


def matches(plan: Plan) -> list[str]:
    """Return what identifies the links between features."""
    edges = [
        (e.source, e.target, e.source_index, e.target_index, e.weight, e.sign) for e in plan.linked.edges
    ]
    return [*(_hash(*edge) for edge in edges), *(m.text for m in plan.linked.matrices)]


def _hash(*parts: Any) -> str:
    h = hashlib.sha256()
    for part in parts:
        is_array = isinstance(part, np.ndarray)
        h.update(np.ascontiguousarray(part).tobytes() if is_array else f"{part}\n".encode())
    return h.hexdigest()


def encode(run: Run, model: Model, bundle: MultiOmics) -> Latent:
    """Latent of every cell, joint where the model offers that; its digest goes to the report."""
    if isinstance(model, EncodesJointly) and gives_one_place(model, bundle.pairing):
        alone = {}
        if isinstance(model, Encodes) and len(bundle.modalities) > 1:
            alone = {
                name: encode_cells(model, bundle.seen_by(name)[0], run.device)
                for name, m in bundle.modalities.items()
                if m.n_obs
            }
        latent = Latent.of_cells(encode_cells(model, bundle, run.device), bundle, alone)
    elif isinstance(model, Encodes):
        latent = Latent(
            {
                name: encode_rows(model, name, m.features, run.device)
                for name, m in bundle.modalities.items()
                if m.n_obs
            }
        )
    else:
        raise TypeError(f"{type(model).__name__} declares integrate but cannot encode")
    if latent.collapsed:
        run.warn(
            f"all cells of {' and of '.join(latent.collapsed)} lie at one place: the model has collapsed and "
            "tells nothing apart; lower the learning rate (--lr), or train with another --seed"
        )
    bitwise = run.device.type == "cpu" or run.options.deterministic
    run.report.determinism = {
        "level": "bitwise" if bitwise else "statistical",
        "other_threads": "up to rounding" if run.device.type == "cpu" else None,
        "latent_sha256": digest(latent.by_modality),
    }
    return latent


def keep_model(
    run: Run, plan: Plan, prepared: Prepared, model: Model, latent: Latent, labels: Sequence[LabelColumn] = ()
) -> None:
    """Relate the latent to all measured features of each modality, and write the model's folder."""
    bundle, seed = prepared.bundle, run.options.seed
    readouts = {
        c.file.name: FeatureReadout.fit(
            c.file, c.layer.layer, prepared.recipes[c.file.name], latent.by_modality[c.file.name], seed=seed
        )
        for c in plan.choices
    }
    columns = {label.name: label.of_cells(bundle) for label in labels}
    if bundle.label is not None:
        columns[plan.column_names["label"]] = bundle.label
    hashes = [str(record["sha256"]) for record in run.report.inputs]
    drawn = draw_cells(model, bundle, run.device, 1, seed=seed)[0] if isinstance(model, Draws) else None
    atlas = Atlas.of(latent, bundle, columns, seed=seed, drawn=drawn)
    save_model(run.paths.model, model, plan, prepared, readouts, seed=seed, trained_on=hashes, atlas=atlas)
    run.keep(run.paths.model)


@dataclass(frozen=True, eq=False)
class Obtained:
    """A model with everything needed to use it.

    `trained`: the training, if it was in this run.
    """

    saved: SavedModel
    trained: Trained | None = None


def obtain(
    run: Run, request: Request, from_model: Path | None, aim: Aim, files: Sequence[ModalityFile]
) -> Obtained:
    """Load the model of a folder, or train one on the files where no folder is given.

    Raises `InputError` or `UsageError`: the folder holds no model, or one that cannot do the task; the files
    cannot be trained on.
    """
    if from_model is not None:
        return Obtained(load_given(run, request, from_model, aim.task, files))
    trained = train_model(run, request, aim, files)
    saved = load_model(run.paths.model)
    run.add_output(run.paths.model, "the trained model")
    return Obtained(saved, trained)


def load_given(
    tell: Tell, request: Request, from_model: Path, task: Task, files: Sequence[ModalityFile]
) -> SavedModel:
    """Load a model that is trained already, and say which options have no effect on it."""
    saved = load_model(from_model)
    tell.say(f"model: {saved.description['model']} from {from_model}")
    for note in (note for f in files for note in f.notes):
        tell.say(note)
    check_task(saved.description["model"], task)
    tell_memory(tell, footprint_of_given(files, from_model, task))
    request.tell_unused(tell.warn)
    return saved


def foresee_given(
    tell: Tell, request: Request, from_model: Path, task: Task, files: Sequence[ModalityFile]
) -> SavedModel:
    """Log what is given; a dry run opens all that the run opens, including a model's weights."""
    for f in files:
        tell.say(f.summary)
    return load_given(tell, request, from_model, task, files)


def check_task(model: str, task: Task) -> None:
    """Raise `UsageError` where a model cannot do a task; the message names those that can."""
    if task not in traits_of(model).tasks:
        able = [name for name, traits in available().items() if task in traits.tasks]
        raise UsageError(
            f"{model} cannot {task}", field="--from-model", hint="these models can: " + ", ".join(able)
        )
