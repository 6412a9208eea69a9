"""Two dimensions to look at: UMAP of the joint latent."""

from __future__ import annotations

import warnings

import numpy as np

from mocli.types import FloatArray

MOST_COLUMNS = 50
"""Wider places are drawn by as many of their principal components."""

FEW = 15
"""Below this many cells UMAP has no neighbourhood to speak of; principal components do."""


def layout(z: FloatArray, *, seed: int) -> FloatArray:
    """Return `(n, 2)` float32: UMAP with the settings of the scMODAL paper's figures.

    30 neighbours, minimal distance 0.3, correlation distance, seeded.
    """
    if z.shape[1] > 2 * MOST_COLUMNS:
        z = _components(z, seed=seed)
    if len(z) < FEW or np.ptp(z, axis=0).max() == 0:
        centred = z - z.mean(0)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        flat = np.zeros((len(z), 2), dtype=np.float32)
        flat[:, : min(2, len(s))] = (u * s)[:, :2]
        return flat
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba and pynndescent announce their own deprecations
        from umap import UMAP

        n_neighbors = min(30, len(z) - 1)
        mapper = UMAP(
            n_neighbors=n_neighbors, min_dist=0.3, metric="correlation", random_state=seed, n_jobs=1
        )
        return np.asarray(mapper.fit_transform(z), dtype=np.float32)


def _components(z: FloatArray, *, seed: int) -> FloatArray:
    from sklearn.decomposition import PCA

    n = min(MOST_COLUMNS, len(z))
    return np.asarray(PCA(n, svd_solver="randomized", random_state=seed).fit_transform(z), dtype=np.float32)
