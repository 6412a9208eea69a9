"""What the links know by themselves: two baselines beside every integration.

Both place cells by their linked features, standardised per column and scaled to
unit length, so that Euclidean neighbours are cosine neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mocli.data.batches import dense_rows
from mocli.data.components import principal_scores, without_averaging
from mocli.nn.neighbors import knn, smooth

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mocli.data.bundle import FeatureMatrix, LinkedFeatures, MultiOmics
    from mocli.types import FloatArray, IntArray

N_NEIGHBORS = 15
SMOOTHING = 0.9
MAX_CELLS = 10_000
MAX_VALUES = 2**24
"""Coordinates of one modality, cells x links: 64 MB, of which a dozen copies may exist at a time."""
DRAWN = f"at most {MAX_CELLS:,} cells of each modality (fewer above {MAX_VALUES // MAX_CELLS:,} links)"
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
) -> Iterator[Baseline]:
    """Yield link features alone, then smoothed over each modality's own neighbours, one at a time.

    Parameters
    ----------
    rows
        Rows of each modality to place (all, or a sample where there are many).
    """
    raw = {
        link.source: dense_rows(link.source_features, rows[link.source]),
        link.target: dense_rows(link.target_features, rows[link.target]),
    }
    yield Baseline(
        "link_features",
        "linked features alone",
        f"cells placed by their standardised linked features, cosine; {DRAWN}",
        {name: unit(values) for name, values in raw.items()},
    )
    smoothed = {}
    for name in list(raw):
        near = own_neighbors(bundle.modalities[name].features, rows[name], seed=seed)
        smoothed[name] = unit(smooth(raw.pop(name), near, SMOOTHING))
    yield Baseline(
        "smoothed_link_features",
        "linked features, smoothed",
        f"linked features averaged over the {N_NEIGHBORS} nearest cells of the same modality "
        f"(weight {SMOOTHING}), cosine; {DRAWN}",
        smoothed,
    )


def own_neighbors(
    features: FeatureMatrix, rows: IntArray, *, seed: int, n_neighbors: int = N_NEIGHBORS
) -> IntArray:
    """Nearest cells within a modality by cosine in principal components of its own features."""
    points = principal_components(features, rows, seed=seed)
    k = min(n_neighbors, max(len(rows) - 1, 1))
    return knn(points, points, k, metric="cosine", exclude_self=True)[1]


def principal_components(features: FeatureMatrix, rows: IntArray, *, seed: int) -> FloatArray:
    """Scores `(n, <= 50)`, centred, not averaged over neighbours. Few features are taken as they are."""
    features = without_averaging(features)
    if min(N_COMPONENTS, len(rows) - 1, features.n_vars - 1) < 2 or features.n_vars <= N_COMPONENTS:
        return centred(dense_rows(features, rows))
    if not np.array_equal(rows, np.arange(features.n_obs)):
        features = replace(features, values=features.values[rows])
    return principal_scores(features, n_components=N_COMPONENTS, seed=seed)


def centred(x: FloatArray) -> FloatArray:
    """Columns with mean 0."""
    out: FloatArray = x - x.mean(0, keepdims=True)
    return out


def unit(x: FloatArray) -> FloatArray:
    """Rows of length 1; a zero row stays zero."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    out: FloatArray = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    return out
