"""What a reader wants to know first about cells: clusters by label and batch, markers, quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from mocli.data.bundle import Codes, Modality, MultiOmics
from mocli.data.transforms.components import are_components, without_averaging
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

    Attributes
    ----------
    t
        Welch's t of the group's cells against all others; 0 where undefined.
    mean, mean_other
        Mean values of the group and of all others.
    share, share_other
        Shares of cells with a value above 0.
    """

    t: DoubleArray
    mean: DoubleArray
    mean_other: DoubleArray
    share: DoubleArray
    share_other: DoubleArray


def find_markers(values: Any, groups: IntArray) -> Markers:
    """Compare the cells of every group with all others, feature by feature.

    Parameters
    ----------
    values
        `(n, p)`, sparse or dense.
    groups
        `(n,)` codes from 0; -1 belongs to none and is left out.
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
