"""Whether the modalities of a simulated cell belong together as those of a real cell do (FOSCTTM)."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from mocli.metrics import registry
from mocli.metrics.embedding import Embedding
from mocli.metrics.generated import Generated, project
from mocli.report.figures import Entry, figure
from mocli.types import DoubleArray, FloatArray, IntArray

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
    found = registry.evaluate(Embedding(z=z, pairs=pairs, seed=cells.seed), ["foscttm"])
    return {f"simulated_{key}": entry for key, entry in found.items()}


def matched_within(cells: Generated) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Return FOSCTTM among cells of one label, of simulated and of real cells: means over labels.

    A model knows the pairs of the cells that it was trained on, so that these would look better than any new
    cells do. So both are compared by canonical components of one half of the real cells; the real cells
    are those of the other half.
    """
    found: tuple[dict[str, Entry], dict[str, Entry]] = ({}, {})
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
        for kept, label, of in zip(found, labels, (2, 1), strict=True):
            placed = [(side[of] @ to).astype(np.float32) for side, to in zip(sides, maps, strict=True)]
            z = dict(zip((first, second), placed, strict=True))
            for key, entry in _within(z, label, cells.labels(first), cells.seed).items():
                kept[f"{key}_within_label"] = entry
    return found


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
