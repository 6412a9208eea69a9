"""What a reader wants to know first about cells: clusters by label and batch, markers, quality.

A test says whether a group's markers in one modality are its markers in the other, over linked features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.data.transforms.components import are_components, without_averaging
from mocli.metrics.correlation import false_discovery_rate
from mocli.nn.neighbors import drawn_rows
from mocli.report.figures import Entry, table
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray

MOST_CELLS = 20_000
"""Most cells of a modality that markers are computed from."""
MARKERS = 5
"""Markers shown of each cluster and modality."""
FEWEST = 5
"""Fewest cells of a cluster with markers."""
MOST_LEVELS = 60
"""Most labels or batches in a table with one column for each."""


@dataclass(frozen=True, eq=False)
class Markers:
    """Features by group of cells, `(n_groups, n_features)` each.

    Attributes:
        t: Welch's t of the group's cells against all others; 0 where undefined.
        mean, mean_other: Mean values of the group and of all others.
        share, share_other: Shares of cells with a value above 0.
    """

    t: DoubleArray
    mean: DoubleArray
    mean_other: DoubleArray
    share: DoubleArray
    share_other: DoubleArray


def find_markers(values: Any, groups: IntArray) -> Markers:
    """Compare the cells of every group with all others, feature by feature.

    Args:
        values: `(n, p)`, sparse or dense.
        groups: `(n,)` codes from 0; -1 belongs to none and is left out.
    """
    x = sparse.csr_matrix(values, dtype=np.float64)
    n_groups = int(groups.max(initial=-1)) + 1
    size = np.bincount(groups[groups >= 0], minlength=n_groups)[:, None]
    rest = size.sum() - size
    sums, squares, above = (np.zeros((n_groups, x.shape[1])) for _ in range(3))
    for code in range(n_groups):
        members = x[groups == code]
        sums[code] = np.asarray(members.sum(0)).ravel()
        squares[code] = np.asarray(members.multiply(members).sum(0)).ravel()
        above[code] = np.asarray((members > 0).sum(0)).ravel()

    def both(values: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
        return values / np.maximum(size, 1), (values.sum(0) - values) / np.maximum(rest, 1)

    (mean, other), (square, square_other), (share, share_other) = (both(s) for s in (sums, squares, above))
    spread = np.maximum(square - mean**2, 0) / np.maximum(size - 1, 1)
    spread = spread + np.maximum(square_other - other**2, 0) / np.maximum(rest - 1, 1)
    t = np.divide(mean - other, np.sqrt(spread), out=np.zeros_like(mean), where=spread > 1e-15)
    return Markers(t, mean, other, share, share_other)


def describe_clusters(bundle: MultiOmics, clusters: Codes, *, seed: int = 0) -> dict[str, Entry]:
    """Return the report's tables of clusters: by label, by batch, and their markers in every modality."""
    tables: dict[str, Entry] = {}
    for codes, word in ((bundle.label, "label"), (bundle.batch, "batch")):
        if codes is not None and len(codes.levels) <= MOST_LEVELS:
            tables[f"clusters_by_{word}"] = cross_table(clusters, codes, word)
    for name, m in bundle.modalities.items():
        markers = marker_table(name, m, clusters, bundle.cells_of(name), seed=seed)
        if markers is not None:
            tables[f"markers_{name}"] = markers
    return tables


def cross_table(clusters: Codes, codes: Codes, word: str) -> Entry:
    """Count the cells of every cluster by a column of obs; those without a value come last."""
    n = len(codes.levels)
    counts = np.zeros((len(clusters.levels), n + 1), np.int64)
    clustered = clusters.codes >= 0
    np.add.at(counts, (clusters.codes[clustered], codes.codes[clustered]), 1)  # -1 is the last column
    lacking = bool(counts[:, n].any())
    columns = [*codes.levels, *(["not known"] if lacking else [])]
    rows = [
        [level, *map(int, row[: len(columns)])] for level, row in zip(clusters.levels, counts, strict=True)
    ]
    sentence = {
        "label": "Cells of each cluster by label: a cluster with one label is a cell type, one with many a "
        "mixture.",
        "batch": "Cells of each cluster by batch: a cluster from one batch alone may be a batch effect.",
    }[word]
    return table(f"Clusters by {codes.key}", sentence, ["cluster", *columns], rows)


def marker_table(name: str, m: Modality, clusters: Codes, cells: IntArray, *, seed: int) -> Entry | None:
    """Return the strongest features of every cluster; None where a modality's columns are components."""
    features = without_averaging(m.features)
    if are_components(features.names) or features.n_vars < 2:
        return None
    rows = drawn_rows(len(cells), MOST_CELLS, seed=seed)
    groups, values = clusters.codes[cells[rows]], features.values[rows]
    if m.is_counted:
        values = _logged(values, m.library[rows])
    markers = find_markers(values, groups)
    sizes = np.bincount(groups[groups >= 0], minlength=len(markers.t))
    marker_rows: list[list[Any]] = []
    for code in np.flatnonzero(sizes >= FEWEST):
        for j in np.argsort(-markers.t[code], kind="stable")[:MARKERS]:
            if markers.t[code, j] > 0:
                figures = (markers.t, markers.mean, markers.mean_other, markers.share, markers.share_other)
                marker_rows.append(
                    [
                        clusters.levels[code],
                        features.names[j],
                        *(_short(figure[code, j]) for figure in figures),
                    ]
                )
    if not marker_rows:
        return None
    sentence = (
        f"The {MARKERS} features of {name} with the largest Welch t of a cluster's cells against all others, "
        "among the features that the model was trained on; means are of the values that it takes "
        "(counts: logged, per 10,000)."
    )
    columns = ["cluster", "feature", "t", "mean", "mean of others", "cells with it", "other cells with it"]
    return table(f"Markers of the clusters, {name}", sentence, columns, marker_rows)


def _logged(values: Any, library: FloatArray) -> Any:
    x = sparse.csr_matrix(values, dtype=np.float64)
    factor = np.divide(1e4, library, out=np.zeros(len(library)), where=library > 0)
    x = sparse.csr_matrix(sparse.diags_array(factor) @ x)
    x.data = np.log1p(x.data)
    return x


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def describe_quality(bundle: MultiOmics) -> Entry:
    """Return a table with the depth of every modality, and of every batch of it."""
    rows: list[list[Any]] = []
    for name, m in bundle.modalities.items():
        features = without_averaging(m.features)
        if not m.n_obs or are_components(features.names):
            continue
        detected = np.concatenate([np.diff(sparse.csr_matrix(x).indptr) for x in features.blocks()])
        batch = bundle.batch
        parts: list[tuple[str, BoolArray]] = [("all", np.ones(m.n_obs, bool))]
        if batch is not None and len(batch.levels) <= MOST_LEVELS:
            batch_codes = batch.codes[bundle.cells_of(name)]
            parts += [
                (level, batch_codes == code)
                for code, level in enumerate(batch.levels)
                if (batch_codes == code).any()
            ]
        for word, members in parts:
            depth = float(np.median(m.library[members])) if has_counts(m) else None
            rows.append([name, word, int(members.sum()), depth, float(np.median(detected[members]))])
    return table(
        "Quality by modality",
        "Medians over cells: of the total counts (where values are counts) over all features, and of the "
        "number of features detected in a cell among those that the model was trained on.",
        ["modality", "batch", "cells", "median counts", "median features seen"],
        rows,
    )


def has_counts(m: Modality) -> bool:
    """Say whether the totals of the raw values are whole numbers."""
    return bool(m.n_obs and m.library.max() > 0 and (m.library == np.round(m.library)).all())


def depth_of(m: Modality) -> DoubleArray | None:
    """Return the log10 of the total counts of every cell, `(n_obs,)`; None if values are not counts."""
    totals = m.library.astype(np.float64)
    return np.log10(np.maximum(totals, 1)) if has_counts(m) else None


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
    source, target = (
        _markers(features, groups.codes[bundle.cells_of(name)], len(groups.levels), seed=seed)
        for name, features in link.sides.items()
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
    x = sparse.csr_matrix(values, dtype=np.float64)
    mean = np.asarray(x.mean(0)).ravel()
    return np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
