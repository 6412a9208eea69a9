"""Held-out cells reconstructed by a model from all their modalities: how near to the measured values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from mocli.data.files.modality import ModalityFile
from mocli.data.files.obsm import read_coordinates
from mocli.log import logger
from mocli.metrics.imputation import Detection, accuracy
from mocli.nn.neighbors import chunks
from mocli.report.figures import figure
from mocli.tasks.benchmark.contender import aligned as found_by_name
from mocli.tasks.benchmark.runs import ModelRun
from mocli.tasks.impute.accuracy import detected
from mocli.tasks.impute.denoise import Denoised
from mocli.tasks.infer.align import Aligned, align
from mocli.tasks.infer.batch import OWN, own_batches
from mocli.tasks.infer.decoder import ValueDecoder
from mocli.tasks.infer.predictor import choose_predictor
from mocli.tasks.infer.translation import Translation
from mocli.tasks.prepare.plan import named_cells
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import DoubleArray, FloatArray, Route

MEAN = "mean"
"""The control: every cell has the composition of all training cells, at its own depth."""

MAX_CELLS, MAX_FEATURES = 2000, 5000
"""Held-out cells and features that are compared, drawn by seed where there are more."""

LOSS, RATIO = "reconstruction_loss", "reconstruction_loss_ratio"
LEAST_MEAN = 1e-4
"""Expected counts below which a count that is there costs no more."""

TITLES = {
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "true_positive_rate": "True positive rate",
    "true_negative_rate": "True negative rate",
}


def reconstruction(
    run: ModelRun,
    files: Sequence[ModalityFile],
    data: DataOptions,
    *,
    device: torch.device,
    seed: int,
    cells: Path | None = None,
    like: ModelRun | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the figures of a model and of the control, by metric and modality.

    Args:
        run: Placed the held-out cells by the model of its parent.
        cells: File of some of the held-out cells, to look at these alone.
        like: Another such run: features that its model does not decode are left out.

    Raises:
        InputError: A cell has no coordinates, or the features do not fit the model.
    """
    assert run.parent is not None
    parent, training = run.parent, run.parent.request.data.only_cells
    cells = run.request.data.only_cells if cells is None else cells
    assert cells is not None
    assert training is not None
    saved = load_model(parent.model_folder)
    saved.model.module.to(device)
    recipes = None
    if like is not None and like.parent is not None:
        recipes = load_model(like.parent.model_folder).recipes
    parts = read_coordinates(run.output, f"X_{run.model}")
    by_method: dict[str, dict[str, Any]] = {run.model: {}, MEAN: {}}
    rng = np.random.default_rng(seed)
    for held_out, trained in zip(named_cells(files, cells), named_cells(files, training), strict=True):
        name = held_out.name
        chosen = np.sort(rng.permutation(held_out.n_obs)[:MAX_CELLS])
        held_out = held_out.take(chosen)
        z = found_by_name(parts, list(map(str, held_out.obs.index)), run.output, name)
        denoised = _denoised(saved, held_out, z, data, device)
        scale = "counts" if "counts" in denoised.readout.by_scale else "log"
        present = np.setdiff1d(np.arange(denoised.readout.n_vars), denoised.aligned.absent)
        if recipes is not None:
            present = np.intersect1d(present, recipes[name].selected)
        columns = np.sort(rng.permutation(present)[:MAX_FEATURES])
        rows = np.arange(held_out.n_obs)
        raw = denoised.aligned.read(rows)
        y = denoised.measured(raw, scale, columns)
        predicted = {run.model: denoised.predict(z, rows, scale, columns)}
        mean = _mean(align(saved, name, trained, layers=data.layer, warn=logger.debug), denoised, scale)
        depth = np.asarray(raw.sum(1), np.float64).ravel() if scale == "counts" else np.ones(len(rows))
        predicted[MEAN] = (depth[:, None] * mean[columns]).astype(np.float32)
        for method, x in predicted.items():
            by_method[method] |= _figures(x, y, name, counts=scale == "counts")
    return by_method


def loss_ratios(studied: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Divide the losses of a study by those of the run without one, of the same cells, by key."""
    return {
        key.replace(LOSS, RATIO): figure(
            entry["value"] / whole[key]["value"],
            "Loss over that of the run without a study",
            f"{entry['definition']} Divided by that of the same cells by the model without the study, of the "
            "same seed.",
            "1: the study costs these cells nothing.",
            better="lower",
            n=entry["n"],
        )
        for key, entry in studied.items()
        if key.startswith(f"{LOSS}[") and whole.get(key, {}).get("value")
    }


def control_name(
    entries: Mapping[str, Any], known: Mapping[tuple[str, str], float | None], model: str
) -> str | None:
    """Return what to call the control of a model, None where it is known already.

    A model that gives back other features, or values on another scale, than those before it has a control of
    its own, `mean (MODEL)`: beside the others' it would be held against other numbers.

    `known`: values of the same seed by method and metric.
    """
    if not any(method == MEAN for method, _ in known):
        return MEAN
    theirs = [known.get((MEAN, key)) for key in entries]
    mine = [entry["value"] for entry in entries.values()]
    same = all(
        (a is None) == (b is None) and np.isclose(a or 0.0, b or 0.0)
        for a, b in zip(theirs, mine, strict=True)
    )
    return None if same else f"{MEAN} ({model})"


def _denoised(
    saved: SavedModel, file: ModalityFile, z: FloatArray, data: DataOptions, device: torch.device
) -> Denoised:
    """Return a function that gives values of a modality at coordinates, each cell under its own batch."""
    name, quiet = file.name, logger.debug
    about = {"route": Route.AUTO, "device": device, "warn": quiet}
    predictor, _ = choose_predictor(saved, name, name, batch=None, **about)  # type: ignore[arg-type]
    batches = None
    if isinstance(predictor, ValueDecoder) and predictor.batch is not None:
        predictor, _ = choose_predictor(saved, name, name, batch=OWN, **about)  # type: ignore[arg-type]
        batches = own_batches(saved, name, file, data.batch_key, quiet)
    pairs = np.zeros((0, 2), np.int64)
    return Denoised.of(Translation(saved, name, name, file, file, pairs, data.layer, z, predictor, batches))


def _mean(training: Aligned, like: Denoised, scale: str) -> DoubleArray:
    """Return the share of each feature in all counts of the training cells, or its mean, `(n_vars,)`."""
    total = np.zeros(like.readout.n_vars)
    n = training.file.n_obs
    for rows in chunks(n, 4096):
        raw = training.read(np.arange(n)[rows])
        values = raw if scale == "counts" else like.readout.values(raw, scale)
        total += np.asarray(values.sum(0), np.float64).ravel()
    return total / (max(total.sum(), 1e-12) if scale == "counts" else n)


def _figures(x: FloatArray, y: FloatArray, name: str, *, counts: bool) -> dict[str, Any]:
    n, p = y.shape
    fit = accuracy(x, y)
    over = f"over {n:,} held-out cells x {p:,} features, " + (
        "counts at the cell's own depth" if counts else "normalised and logged"
    )
    entries = {
        f"reconstruction_rmse[{name}]": figure(
            float(np.sqrt(np.mean(fit.rmse**2))), "Root mean squared error of reconstructed values",
            f"Root of the mean squared difference {over}.", better="lower", n=n,
        ),
        f"reconstruction_mae[{name}]": figure(
            float(np.mean(fit.mae)), "Mean absolute error of reconstructed values",
            f"Mean absolute difference {over}.", better="lower", n=n,
        ),
    }  # fmt: skip
    if not counts:
        return entries
    mean = np.maximum(x.astype(np.float64), LEAST_MEAN)
    loss = mean - y * np.log(mean) + gammaln(y.astype(np.float64) + 1)
    entries[f"{LOSS}[{name}]"] = figure(
        float(loss.mean()),
        "Loss of reconstructed counts",
        f"Negative log-likelihood of Poisson counts at the expected ones (at least {LEAST_MEAN:g}), mean "
        f"{over}: one yardstick for all models, whatever their own likelihood.",
        better="lower",
        n=n,
    )
    detections = detected(x, y)
    for field in fields(Detection):
        if field.name in TITLES:
            values = getattr(detections, field.name)
            values = values[np.isfinite(values)]
            entries[f"reconstruction_{field.name}[{name}]"] = figure(
                float(np.mean(values)) if len(values) else None,
                f"{TITLES[field.name]} of reconstructed values",
                "For telling cells with a feature from those without, as many cells called as have it; "
                f"mean over {len(values):,} features.",
                better="higher",
                bounds=(0.0, 1.0),
                n=n,
            )
    return entries
