"""Simulated cells, as in the output, compared with the real ones of the input files.

Whether the modalities of a cell belong together as those of a real one do is measured by FOSCTTM.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.files.frames import words
from mocli.data.files.inputs import open_inputs
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError
from mocli.metrics import registry
from mocli.metrics.embedding import Embedding
from mocli.metrics.generated import Generated, project
from mocli.models.base import Encodes
from mocli.report.figures import Entry, figure
from mocli.tasks.infer.align import Aligned, align, find_modality, place
from mocli.tasks.infer.decoder import is_counted, likelihood_of
from mocli.tasks.run.run import Run
from mocli.tasks.simulate.work import Simulated
from mocli.tasks.trained.saved import SavedModel
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

MOST_REAL = 6_000
"""Real cells compared with, drawn evenly so that labels keep their shares."""

MOST_OF_LABEL, MOST_SIMULATED = 1_000, 6_000
FEWEST = 20
"""Fewest cells for a comparison."""

ALL = "all cells"


def compared(
    run: Run, simulated: Simulated, layers: Mapping[str, str], drawn_values: Mapping[str, CSR] | None = None
) -> Generated | None:
    """Return real and simulated cells to compare; None, with a log line, if no input holds real ones.

    The simulated cells are read from the output, or are those given, `(n, n_features)` by modality.
    """
    saved, modalities, seed = simulated.saved, simulated.plan.modalities, run.options.seed
    real_files: dict[str, Aligned] = {}
    for name in modalities:
        file = find_modality(simulated.files, name, saved)
        if file is None:
            continue
        try:
            real_files[name] = align(saved, name, file, layers=layers, warn=run.warn)
        except InputError as error:
            run.warn(f"{name} is not compared with real cells: {error.message}")
    missing = [name for name in modalities if name not in real_files]
    if missing:
        run.warn(
            f"no input holds real cells of {' and '.join(missing)}, so simulated cells are not compared "
            "with them; give their files together with --from-model"
        )
    if not real_files:
        return None
    label, levels = _labels(run, simulated, {name: a.file for name, a in real_files.items()})
    rows, paired = _rows({name: a.file for name, a in real_files.items()}, seed=seed)
    chosen = _chosen(simulated, seed)
    real, drawn, latent = {}, {}, {}
    written = {} if drawn_values else {f.name: f for f in open_inputs([str(run.paths.output)], kinds={})}
    for name, aligned in real_files.items():
        x = aligned.read(rows[name])
        y = written[name].read(rows=chosen) if drawn_values is None else drawn_values[name][chosen]
        real[name], drawn[name] = _same_scale(saved, name, aligned, x, y)
        places = _encoded(saved, name, aligned, x, y, run.device)
        if places is not None:
            latent[name] = places
    return Generated(
        real=real,
        simulated=drawn,
        real_label={name: label[name][rows[name]] for name in real_files},
        simulated_label=simulated.cells.label[chosen]
        if levels != (ALL,)
        else np.zeros(len(chosen), np.int64),
        levels=levels,
        counted=frozenset(name for name in real_files if is_counted(saved, name)),
        paired=paired,
        latent=latent,
        seed=seed,
    )


def _labels(
    run: Run, simulated: Simulated, files: Mapping[str, ModalityFile]
) -> tuple[dict[str, IntArray], tuple[str, ...]]:
    """Codes of the real cells' labels by modality, and their levels; one level where labels are not known."""
    labels = simulated.plan.labels
    everyone = {name: np.zeros(f.n_obs, np.int64) for name, f in files.items()}
    if labels is None or any(group.label is None for group in simulated.plan.groups):
        return everyone, (ALL,)
    named: dict[str, str] = {}
    for f in simulated.files:
        if labels.key in f.obs:
            values = words(f.obs[labels.key])
            labelled = values != None  # noqa: E711 - element by element
            named |= dict(zip(f.obs.index.astype(str)[labelled], values[labelled], strict=True))
    if not named:
        run.warn(
            f"the input files have no column '{labels.key}': simulated cells are compared with all real "
            f"ones together"
        )
        return everyone, (ALL,)
    code = {level: i for i, level in enumerate(labels.levels)}
    codes = {
        name: np.array([code.get(named.get(str(cell), ""), -1) for cell in f.obs.index], np.int64)
        for name, f in files.items()
    }
    return codes, labels.levels


def _rows(files: Mapping[str, ModalityFile], *, seed: int) -> tuple[dict[str, IntArray], bool]:
    """Choose real cells: the same in every modality where they share enough names."""
    rng = np.random.default_rng(seed)
    index = {name: pd.Index(f.obs.index.astype(str)) for name, f in files.items()}
    first, *others = index.values()
    common = first
    for other in others:
        common = common[common.isin(other)]
    if len(common) >= FEWEST and common.is_unique:
        drawn = common[np.sort(rng.permutation(len(common))[:MOST_REAL])]
        return {name: i.get_indexer(drawn).astype(np.int64) for name, i in index.items()}, True
    return {name: np.sort(rng.permutation(len(i))[:MOST_REAL]) for name, i in index.items()}, False


def _chosen(simulated: Simulated, seed: int) -> IntArray:
    """Choose simulated cells, of each group evenly."""
    group, n = simulated.cells.group, len(simulated.plan.groups)
    most = min(MOST_OF_LABEL, max(100, MOST_SIMULATED // n))
    rng = np.random.default_rng(seed)
    parts = [np.flatnonzero(group == k) for k in range(n)]
    return np.sort(np.concatenate([rng.permutation(part)[:most] for part in parts]))


def _same_scale(saved: SavedModel, name: str, aligned: Aligned, x: CSR, y: CSR) -> tuple[CSR, CSR]:
    """Real values on the scale of the simulated ones; features that real cells lack are left out of both."""
    recipe = saved.recipes[name]
    measured = np.flatnonzero(~np.isin(recipe.selected, aligned.absent))
    if is_counted(saved, name):
        x = x[:, recipe.selected]
    elif likelihood_of(saved, name) == "bernoulli":
        x = (x[:, recipe.selected] > 0).astype(np.float32)
    else:
        features = recipe.apply(x, aligned.absent)
        x = sparse.csr_matrix(dense_rows(features, np.arange(features.n_obs)))
    return sparse.csr_matrix(x[:, measured]), sparse.csr_matrix(y[:, measured])


def _encoded(
    saved: SavedModel, name: str, aligned: Aligned, x: CSR, y: CSR, device: torch.device
) -> tuple[FloatArray, FloatArray] | None:
    """Return coordinates of real and simulated cells from this modality alone; None without such a model."""
    recipe = saved.recipes[name]
    if not isinstance(saved.model, Encodes) or not recipe.transform.keeps_values:
        return None
    whole = sparse.csr_matrix(
        (np.ones(len(recipe.selected), np.float32), (np.arange(len(recipe.selected)), recipe.selected)),
        shape=(len(recipe.selected), recipe.n_vars),
    )
    return (
        place(saved, name, x, aligned.absent, device),
        place(saved, name, sparse.csr_matrix(y @ whole), aligned.absent, device),
    )


FEWEST_MATCHED = 10
"""Cells of a label, simulated and real, below which it is not asked which two modalities are of one cell."""
FEWEST_FITTED = 50
"""Real cells that canonical components are fitted to, at least."""
N_CANONICAL = 10
RIDGE = 0.1
"""Added to the variance of principal components, as a share of their mean variance."""


def matched(cells: Generated) -> dict[str, Entry]:
    """Encode each modality of simulated cells alone: are the two of a cell found to be one."""
    if len(cells.latent) < 2:
        return {}
    z = {name: simulated for name, (_, simulated) in cells.latent.items()}
    every = np.arange(len(cells.simulated_label))
    pairs = {pair: np.stack([every, every], 1) for pair in combinations(z, 2)}
    entries = registry.evaluate(Embedding(z=z, pairs=pairs, seed=cells.seed), ["foscttm"])
    return {f"simulated_{key}": entry for key, entry in entries.items()}


def matched_within(cells: Generated) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Return FOSCTTM among cells of one label, of simulated and of real cells: means over labels.

    A model knows the pairs of the cells that it was trained on, so that these would look better than any new
    cells do. So both are compared by canonical components of one half of the real cells; the real cells
    are those of the other half.
    """
    entries: tuple[dict[str, Entry], dict[str, Entry]] = ({}, {})
    for first, second in combinations(cells.real if cells.paired else (), 2):
        order = np.random.default_rng(cells.seed).permutation(cells.real[first].shape[0])
        fitted, others = np.sort(order[::2]), np.sort(order[1::2])
        if len(fitted) < FEWEST_FITTED:
            continue
        sides = []
        for name in (first, second):
            real, simulated = cells.logged(name)
            sides.append(project(real[fitted], real[fitted], real[others], simulated, seed=cells.seed))
        maps = canonical(sides[0][0], sides[1][0])
        labels = cells.simulated_label, cells.real_label[first][others]
        for kept, label, of in zip(entries, labels, (2, 1), strict=True):
            placed = [(side[of] @ to).astype(np.float32) for side, to in zip(sides, maps, strict=True)]
            z = dict(zip((first, second), placed, strict=True))
            for key, entry in _within(z, label, cells.labels(first), cells.seed).items():
                kept[f"{key}_within_label"] = entry
    return entries


def canonical(a: DoubleArray, b: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Return maps of principal components of the same cells, `(n, p)` and `(n, q)`, to canonical ones.

    Components are scaled by their correlation (Hotelling 1936, doi:10.1093/biomet/28.3-4.321).
    """
    scales = []
    for x in (a, b):
        variance = x.var(0)
        scales.append(1 / np.sqrt(np.maximum(variance + RIDGE * variance.mean(), 1e-12)))
    cross = (a * scales[0]).T @ (b * scales[1]) / len(a)
    left, correlation, right = np.linalg.svd(cross, full_matrices=False)
    k = min(N_CANONICAL, len(correlation))
    weight = correlation[:k]
    return scales[0][:, None] * left[:, :k] * weight, scales[1][:, None] * right[:k].T * weight


def _within(z: dict[str, FloatArray], label: IntArray, codes: list[int], seed: int) -> dict[str, Entry]:
    """Return the mean over labels of FOSCTTM of cells at places `(n, d)` by modality."""
    values: dict[str, list[float]] = {}
    for code in codes:
        rows = np.flatnonzero(label == code)
        if len(rows) < FEWEST_MATCHED:
            continue
        every = np.arange(len(rows))
        (first, second) = z
        seen = Embedding(
            z={name: places[rows] for name, places in z.items()},
            pairs={(first, second): np.stack([every, every], 1)},
            seed=seed,
        )
        for key, entry in registry.evaluate(seen, ["foscttm"]).items():
            if entry["value"] is not None:
                values.setdefault(key, []).append(float(entry["value"]))
    return {
        key: figure(
            float(np.mean(of)),
            "FOSCTTM within a label",
            "Fraction of cells of the same label that lie closer than the other modality of the cell, on ten "
            "canonical components of the two, fitted to one half of the real cells; mean over labels. Real "
            "cells are those of the other half.",
            "Should be as in real cells: lower, and modalities of a cell are more alike than they are.",
            bounds=(0.0, 1.0),
            n=len(of),
        )
        for key, of in values.items()
    }
