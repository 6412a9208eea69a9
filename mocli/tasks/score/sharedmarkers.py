"""Test whether a group's markers in one modality are its markers in the other, over linked features."""

from __future__ import annotations

from typing import Any

import numpy as np

from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, MultiOmics
from mocli.data.transforms.components import without_averaging
from mocli.metrics.correlation import false_discovery_rate
from mocli.nn.neighbors import drawn_rows
from mocli.report.figures import Entry, table
from mocli.tasks.score.describe import FEWEST, MOST_CELLS, find_markers
from mocli.types import BoolArray, IntArray

MARKER_FDR = 0.05
LEAST_EFFECT = 0.25
"""Least difference of a group's mean from that of all others, in standard deviations of the feature."""

LEAST_LINKED = 10
"""Fewest linked features for a test of the overlap."""

NAMED = 5


def shared_markers(bundle: MultiOmics, groups: Codes, *, seed: int = 0) -> Entry | None:
    """Return, for every link and group, how many markers both modalities share, and whether that is chance.

    A marker is a linked feature whose mean in the group is higher than in all other cells (Welch's t,
    one-sided, Benjamini-Hochberg within group and modality, and an effect of a quarter of a standard
    deviation); the sign of negative links is already reversed. Fisher's exact test, one-sided, asks
    whether more features are markers in both than the two numbers of markers would give; its p are
    adjusted over all lines. None where there is nothing to compare.
    """
    from scipy.stats import hypergeom

    lines: list[list[Any]] = []
    p: list[float] = []
    for link in bundle.links:
        if len(link.names) < LEAST_LINKED:
            continue
        source, target = _markers_of(bundle, link, groups, seed=seed)
        for code, (a, b) in enumerate(zip(source, target, strict=True)):
            if a is None or b is None:
                continue
            both, n = np.flatnonzero(a & b), len(a)
            p.append(float(hypergeom.sf(len(both) - 1, n, a.sum(), b.sum())))
            lines.append(
                [
                    f"{link.source}-{link.target}",
                    groups.levels[code],
                    n,
                    int(a.sum()),
                    int(b.sum()),
                    len(both),
                    float(f"{a.sum() * b.sum() / n:.3g}"),
                    ", ".join(link.names[j] for j in both[:NAMED]),
                ]
            )
    if not lines:
        return None
    fdr = false_discovery_rate(np.array(p))
    rows = [
        [*line[:-1], float(f"{value:.3g}"), float(f"{adjusted:.3g}"), line[-1]]
        for line, value, adjusted in zip(lines, p, fdr, strict=True)
    ]
    return table(
        "Markers that modalities share",
        f"Linked features that are markers of a group of cells ({groups.key}) in both modalities: higher in "
        f"it than in all others (Welch's t, FDR {MARKER_FDR:g}, a quarter of a standard deviation). Fisher's "
        "exact test asks whether more are shared than chance gives; few shared markers mean that links or "
        "labels do not hold there.",
        ["modalities", groups.key, "linked features", "markers in the first", "in the second", "in both",
         "expected by chance", "p", "FDR", "such as"],
        rows,
    )  # fmt: skip


def _markers_of(
    bundle: MultiOmics, link: LinkedFeatures, groups: Codes, *, seed: int
) -> tuple[list[BoolArray | None], list[BoolArray | None]]:
    sides = ((link.source, link.source_features), (link.target, link.target_features))
    source, target = (
        _markers(features, groups.codes[bundle.cells_of(name)], len(groups.levels), seed=seed)
        for name, features in sides
    )
    return source, target


def _markers(features: FeatureMatrix, codes: IntArray, n_groups: int, *, seed: int) -> list[BoolArray | None]:
    """Return which features are markers of each group; None for a group of too few cells."""
    from scipy.stats import norm

    features = without_averaging(features)
    rows = drawn_rows(features.n_obs, MOST_CELLS, seed=seed)
    rows = rows[codes[rows] >= 0]
    markers: list[BoolArray | None] = [None] * n_groups
    if not len(rows):
        return markers
    codes, values = codes[rows], features.values[rows]
    statistics = find_markers(values, codes)
    deviation = np.sqrt(np.maximum(_variance(values), 1e-12))
    effect = (statistics.mean - statistics.mean_other) / deviation
    sizes = np.bincount(codes, minlength=n_groups)
    for code in np.flatnonzero(sizes >= FEWEST):
        fdr = false_discovery_rate(norm.sf(statistics.t[code]))
        markers[code] = (fdr < MARKER_FDR) & (effect[code] >= LEAST_EFFECT)
    return markers


def _variance(values: Any) -> Any:
    from scipy import sparse

    x = sparse.csr_matrix(values, dtype=np.float64)
    mean = np.asarray(x.mean(0)).ravel()
    return np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
