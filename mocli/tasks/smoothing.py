"""Linked features averaged over each cell's own neighbours, before anchors are searched.

A single cell's linked features are noisy, its neighbourhood in its own modality
much less so. How far to lean on the neighbours is read from the data: the less
of a linked feature the neighbours' mean explains, the more of it is noise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mocli.data.batches import dense_rows
from mocli.nn.neighbors import chunks, knn
from mocli.tasks.baseline import N_COMPONENTS, principal_components

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mocli.data.bundle import FeatureMatrix, MultiOmics
    from mocli.types import FloatArray

LEADING = 30
"""Principal components that define neighbours; the later ones are mostly noise."""

SAMPLE = 2000
"""Cells from which the share of noise is read."""

LEAST, MOST = 0.5, 0.95


def smooth_links(bundle: MultiOmics, *, seed: int, say: Callable[[str], None]) -> MultiOmics:
    """Return the bundle with linked features that are averaged when a minibatch is cut.

    The neighbours are the round(sqrt(n)) nearest cells (10 to 100) by cosine in
    the modality's own principal components; the weight is 1 minus the mean R^2
    of predicting a linked feature from them, between 0.5 and 0.95.
    """
    near = {name: _neighbors(m.features, seed=seed) for name, m in bundle.modalities.items()}
    links = []
    for link in bundle.links:
        source = _smoothed(link.source_features, near[link.source], seed=seed)
        target = _smoothed(link.target_features, near[link.target], seed=seed)
        for name, side in ((link.source, source), (link.target, target)):
            if side.neighbors is not None:
                k = side.neighbors.shape[1]
                say(f"{name}: linked features averaged over {k} own neighbours, weight {side.smoothing:.2f}")
        links.append(replace(link, source_features=source, target_features=target))
    return replace(bundle, links=tuple(links))


def _neighbors(features: FeatureMatrix, *, seed: int) -> NDArray[np.int32] | None:
    n = features.n_obs
    if n < 3:
        return None
    points = principal_components(features, np.arange(n), seed=seed)
    if features.n_vars > N_COMPONENTS:
        points = points[:, :LEADING]
    k = min(int(np.clip(round(np.sqrt(n)), 10, 100)), n - 1)
    # the table lives as long as training does: half the bytes are enough, and no second copy
    near = np.empty((n, k), np.int32)
    for part in chunks(n, 4096):
        found = knn(points[part], points, k + 1, metric="cosine")[1]
        own = found == np.arange(part.start, part.stop)[:, None]
        # a cell that its duplicates crowd out of its own list loses the last of them
        own[~own.any(1), -1] = True
        near[part] = found[~own].reshape(-1, k)
    return near


def _smoothed(features: FeatureMatrix, near: NDArray[np.int32] | None, *, seed: int) -> FeatureMatrix:
    if near is None:
        return features
    weight = float(np.clip(1 - _explained(features, near, seed=seed).mean(), LEAST, MOST))
    return replace(features, neighbors=near, smoothing=weight)


def _explained(features: FeatureMatrix, near: NDArray[np.int32], *, seed: int) -> FloatArray:
    """R^2, at least 0, of each column when predicted by the neighbours' mean, `(n_columns,)`."""
    n = features.n_obs
    rows = np.sort(np.random.default_rng(seed).choice(n, min(n, SAMPLE), replace=False))
    own = dense_rows(features, rows)
    mean = dense_rows(replace(features, neighbors=near, smoothing=1.0), rows)
    variance = own.var(0)
    residual = np.square(own - mean).mean(0)
    explained = np.zeros_like(variance)
    np.divide(variance - residual, variance, out=explained, where=variance > 0)
    clipped: FloatArray = np.clip(explained, 0, 1)
    return clipped
