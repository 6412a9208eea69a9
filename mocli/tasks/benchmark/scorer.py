"""Score every contender by the same metrics on the same cells, and models by held-out cells reconstructed.

Metrics of partners, of links and (if no cell has two modalities) of modalities use the coordinates of
modalities; all others use one set of coordinates for each cell, the mean over its modalities if a method
gives no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from mocli import __version__
from mocli.data.bundle import Codes
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import read_coordinates
from mocli.log import logger
from mocli.metrics.embedding import Embedding
from mocli.metrics.imputation import Detection, accuracy
from mocli.metrics.matching import majority
from mocli.metrics.registry import available_metrics
from mocli.nn.neighbors import chunks, knn
from mocli.report.figures import figure
from mocli.report.file import write_text
from mocli.tasks.benchmark.contender import Contender
from mocli.tasks.benchmark.contender import aligned as found_by_name
from mocli.tasks.benchmark.ground import Ground
from mocli.tasks.benchmark.runs import ModelRun
from mocli.tasks.impute.accuracy import detected
from mocli.tasks.impute.denoise import Denoised
from mocli.tasks.infer.align import Aligned, align
from mocli.tasks.infer.decoder import OWN, ValueDecoder, own_batches
from mocli.tasks.infer.predictor import choose_predictor
from mocli.tasks.infer.translation import Translation
from mocli.tasks.prepare.plan import named_cells
from mocli.tasks.run.options import DataOptions
from mocli.tasks.score.baselines import Baseline, component_baseline
from mocli.tasks.score.evaluate import Own, embedding_of, every_metric, linked_features, own_components
from mocli.tasks.trained.latent import measured_together
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.types import DoubleArray, FloatArray, IntArray, Route

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
    entries: Mapping[str, Any], values: Mapping[tuple[str, str], float | None], model: str
) -> str | None:
    """Return what to call the control of a model, None where it is known already.

    A model that gives back other features, or values on another scale, than those before it has a control of
    its own, `mean (MODEL)`: beside the others' it would be held against other numbers.

    `values`: of the same seed, by method and metric.
    """
    if not any(method == MEAN for method, _ in values):
        return MEAN
    of_control = [values.get((MEAN, key)) for key in entries]
    of_model = [entry["value"] for entry in entries.values()]
    same = all(
        (a is None) == (b is None) and np.isclose(a or 0.0, b or 0.0)
        for a, b in zip(of_control, of_model, strict=True)
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
    for name_of in (f.name for f in fields(Detection)):
        if name_of in TITLES:
            values = getattr(detections, name_of)
            values = values[np.isfinite(values)]
            entries[f"reconstruction_{name_of}[{name}]"] = figure(
                float(np.mean(values)) if len(values) else None,
                f"{TITLES[name_of]} of reconstructed values",
                "For telling cells with a feature from those without, as many cells called as have it; "
                f"mean over {len(values):,} features.",
                better="higher",
                bounds=(0.0, 1.0),
                n=n,
            )
    return entries


OF_PLACES = frozenset({"pairs", "linked"})
"""Needs of metrics that only coordinates of modalities can meet."""


@dataclass(eq=False)
class Scorer:
    """Scores contenders on one ground.

    Attributes:
        cache: Folder that keeps scores by what was scored.
        labels: Labels that are scored one by one; see `label_f1`.
    """

    ground: Ground
    cache: Path
    seed: int = 0
    device: str = "cpu"
    labels: Sequence[str] = ()
    reused: int = 0

    def score(self, contender: Contender, *, uncorrected: bool = False) -> dict[str, Any]:
        """Return entries by metric, as `mocli.metrics.registry.evaluate` does.

        `uncorrected`: the coordinates are uncorrected: metrics of conservation are meaningless for them.
        """
        of_labels = label_f1(contender.whole(self.ground), self.ground.bundle.label, self.labels, self.device)
        return self._by_metrics(contender, uncorrected=uncorrected) | of_labels

    def _by_metrics(self, contender: Contender, *, uncorrected: bool) -> dict[str, Any]:
        views = self._views(contender, uncorrected=uncorrected)
        fingerprint = self._fingerprint(views)
        file = self.cache / f"{fingerprint[:24]}.json"
        if file.exists():
            self.reused += 1
            return json.loads(file.read_text(encoding="utf-8"))
        metrics: dict[str, Any] = {}
        for names, embedding in views:
            metrics |= every_metric(embedding, names)
        self.cache.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(metrics))
        return metrics

    def _views(self, c: Contender, *, uncorrected: bool) -> list[tuple[list[str], Embedding]]:
        ground, metrics = self.ground, available_metrics()
        bundle = ground.bundle
        if ground.apart:
            everything = self._apart(c, own_places={} if uncorrected else self._of_modalities)
            return [(list(metrics), everything)]
        whole = c.whole(ground)
        groups = self._groups(c)
        own_places = {} if uncorrected else self._of_cells(groups)
        cells = embedding_of(
            {name: whole[rows] for name, rows in groups.items()},
            groups,
            bundle,
            seed=self.seed,
            own_places=own_places,
            device=self.device,
        )
        of_places = OF_PLACES if len(groups) > 1 else OF_PLACES | {"modalities"}
        first = [name for name, one in metrics.items() if not one.needs & of_places]
        views = [(first, cells)]
        if c.by_modality:
            rest = [name for name, one in metrics.items() if one.needs & of_places]
            views.append((rest, self._apart(c, own_places={})))
        return views

    def _apart(self, c: Contender, own_places: Mapping[str, Own]) -> Embedding:
        bundle, ground = self.ground.bundle, self.ground
        rows = {name: np.arange(len(z)) for name, z in c.by_modality.items()}
        pairs = {edge: p for edge, p in ground.pairs.items() if set(edge) <= set(c.by_modality)}
        if pairs and all(
            np.array_equal(c.by_modality[a][p[:, 0]], c.by_modality[b][p[:, 1]])
            for (a, b), p in pairs.items()
        ):
            # told the pairing: there is no distance between partners to measure
            pairs = pairs if c.kind == "control" else {}
        return embedding_of(
            c.by_modality,
            {name: bundle.cells_of(name) for name in c.by_modality},
            bundle,
            seed=self.seed,
            pairs=pairs,
            linked=linked_features(bundle, rows, seed=self.seed),
            own_places={name: places for name, places in own_places.items() if name in c.by_modality},
            device=self.device,
        )

    def _groups(self, c: Contender) -> dict[str, IntArray]:
        """Return the cells that the contender places, grouped by the modalities measured in them."""
        bundle = self.ground.bundle
        if c.joint is not None or set(c.by_modality) == set(bundle.modalities):
            return measured_together(bundle)
        columns = [i for i, name in enumerate(bundle.modalities) if name in c.by_modality]
        is_placed = np.asarray((bundle.rows[:, columns] >= 0).any(1))
        return {
            name: group_cells[is_placed[group_cells]]
            for name, group_cells in measured_together(bundle).items()
            if is_placed[group_cells].any()
        }

    @cached_property
    def _of_modalities(self) -> dict[str, Own]:
        """Uncorrected coordinates of cells from each modality alone."""
        return own_components(self.ground.bundle, seed=self.seed)

    @cached_property
    def _components(self) -> tuple[Baseline, dict[str, IntArray]]:
        """Uncorrected coordinates of cells from all their modalities, and the cells of each group."""
        return component_baseline(self.ground.bundle, np.arange(self.ground.bundle.n_cells), self.seed)

    def _of_cells(self, groups: Mapping[str, IntArray]) -> dict[str, Own]:
        """Return uncorrected coordinates of the cells of some groups."""
        base, cells_of = self._components
        return {
            name: (
                np.flatnonzero(np.isin(cells, cells_of[name])),
                base.z[name][np.isin(cells_of[name], cells)],
            )
            for name, cells in groups.items()
        }

    def _fingerprint(self, views: list[tuple[list[str], Embedding]]) -> str:
        h = hashlib.sha256(f"{__version__} {self.seed} {self.device}".encode())
        metrics = available_metrics()
        for names, e in views:
            for name in names:
                h.update(f"{name} {metrics[name].definition}".encode())
            parts: list[Any] = [e.z, e.label, e.batch, e.pairs, e.linked, e.own]
            for part in parts:
                for key, values in (part or {}).items():
                    h.update(str(key).encode())
                    for array in values if isinstance(values, tuple) else (values,):
                        h.update(_bytes(array))
        return h.hexdigest()


def label_f1(z: FloatArray, label: Codes | None, wanted: Sequence[str], device: str) -> dict[str, Any]:
    """Return how well each of some labels is found by the vote of a cell's 15 nearest others: F1.

    It is the harmonic mean of recall and precision, over cells of known label, with one set of coordinates
    each.
    """
    if label is None or not wanted:
        return {}
    labelled = np.flatnonzero(label.codes >= 0)
    true = label.codes[labelled]
    neighbors = knn(z[labelled], z[labelled], 15, exclude_self=True, device=device)[1]
    called = majority(true[neighbors])
    entries = {}
    for level in (one for one in wanted if one in label.levels):
        code = label.levels.index(level)
        hits, either = int(((called == code) & (true == code)).sum()), int((called == code).sum())
        n = int((true == code).sum())
        entries[f"label_f1[{level}]"] = figure(
            2 * hits / (either + n) if n else None,
            "F1 of a label",
            "F1 of the vote of the 15 nearest other cells for one label, over cells of known label.",
            better="higher",
            bounds=(0.0, 1.0),
            n=n,
        )
    return entries


def _bytes(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes() if isinstance(array, np.ndarray) else repr(array).encode()
