"""What the links know by themselves: two baselines beside every integration.

Both place cells by their linked features, standardised per column and scaled to
unit length, so that Euclidean neighbours are cosine neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.data.batches import dense_rows
from mocli.nn.neighbors import knn, smooth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.data.bundle import FeatureMatrix, LinkedFeatures, MultiOmics
    from mocli.types import FloatArray, IntArray

N_NEIGHBORS = 15
SMOOTHING = 0.9
N_COMPONENTS = 50


@dataclass(frozen=True)
class Baseline:
    """A placement of cells that needs no model."""

    name: str
    title: str
    definition: str
    z: Mapping[str, FloatArray]


def link_baselines(
    bundle: MultiOmics, link: LinkedFeatures, rows: Mapping[str, IntArray], seed: int
) -> list[Baseline]:
    """Link features alone, and smoothed over each modality's own neighbours.

    Parameters
    ----------
    rows
        Rows of each modality to place (all, or a sample where there are many).
    """
    raw = {
        link.source: dense_rows(link.source_features, rows[link.source]),
        link.target: dense_rows(link.target_features, rows[link.target]),
    }
    own = {
        name: smooth(
            values,
            own_neighbors(bundle.modalities[name].features, rows[name], seed=seed),
            SMOOTHING,
        )
        for name, values in raw.items()
    }
    return [
        Baseline(
            "link_features",
            "linked features alone",
            "cells placed by their standardised linked features, cosine",
            {name: unit(values) for name, values in raw.items()},
        ),
        Baseline(
            "smoothed_link_features",
            "linked features, smoothed",
            f"linked features averaged over the {N_NEIGHBORS} nearest cells of the same modality "
            f"(weight {SMOOTHING}), cosine",
            {name: unit(values) for name, values in own.items()},
        ),
    ]


def own_neighbors(
    features: FeatureMatrix, rows: IntArray, *, seed: int, n_neighbors: int = N_NEIGHBORS
) -> IntArray:
    """Nearest cells within a modality by cosine in principal components of its own features."""
    points = principal_components(features, rows, seed=seed)
    k = min(n_neighbors, max(len(rows) - 1, 1))
    return knn(points, points, k, metric="cosine", exclude_self=True)[1]


def principal_components(features: FeatureMatrix, rows: IntArray, *, seed: int) -> FloatArray:
    """Scores `(n, <= 50)`, centred; a sparse matrix stays sparse. Few features are taken as they are."""
    from sklearn.decomposition import PCA

    n_components = min(N_COMPONENTS, len(rows) - 1, features.n_vars - 1)
    if n_components < 2 or features.n_vars <= N_COMPONENTS:
        return centred(dense_rows(features, rows))
    pca = PCA(n_components=n_components, svd_solver="arpack", random_state=seed)
    scores: FloatArray = pca.fit_transform(features.values[rows]).astype(np.float32)
    return scores


def centred(x: FloatArray) -> FloatArray:
    """Columns with mean 0."""
    out: FloatArray = x - x.mean(0, keepdims=True)
    return out


def unit(x: FloatArray) -> FloatArray:
    """Rows of length 1; a zero row stays zero."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    out: FloatArray = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    return out
