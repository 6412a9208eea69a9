"""What the links know by themselves: two baselines beside every integration.

Both place cells by their linked features, standardised per column and scaled to
unit length, so that Euclidean neighbours are cosine neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.batches import dense_rows
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
    """Scores `(n, <= 50)`, centred; a sparse matrix stays sparse. Few features are taken as they are."""
    from scipy.sparse.linalg import LinearOperator, svds

    n_components = min(N_COMPONENTS, len(rows) - 1, features.n_vars - 1)
    if n_components < 2 or features.n_vars <= N_COMPONENTS:
        return centred(dense_rows(features, rows))
    whole = np.array_equal(rows, np.arange(features.n_obs))
    x = features.values if whole else features.values[rows]
    mean = np.asarray(x.mean(axis=0), dtype=x.dtype).ravel()

    def times(v: FloatArray) -> Any:
        return x @ v - mean @ v

    def transposed_times(u: FloatArray) -> Any:
        return x.T @ u - np.multiply.outer(mean, u.sum(axis=0))

    operator = LinearOperator(
        x.shape,
        matvec=times,
        rmatvec=transposed_times,
        matmat=times,
        rmatmat=transposed_times,
        dtype=x.dtype,
    )
    start = np.random.default_rng(seed).uniform(-1, 1, min(x.shape)).astype(x.dtype)
    u, s, _ = svds(operator, k=n_components, v0=start)
    scores: FloatArray = (u * s)[:, ::-1].astype(np.float32)
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
