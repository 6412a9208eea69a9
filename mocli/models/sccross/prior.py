"""The common-gene prior: linked features of two modalities, made comparable by mutual nearest neighbours.

Two modalities' linked features become the scores of common components, averaged over own neighbours where
the bundle says so, of length 1, and one is corrected onto the other. Above `n_metacells` cells, both sides
are k-means centres instead, and a cell moves as its centre does (the authors' recipe for atlases).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from mocli.data.bundle import Edge, FeatureMatrix, LinkedFeatures, MultiOmics
from mocli.models.sccross.params import SccrossParams
from mocli.nn.correction import mnn_correct
from mocli.nn.losses import squared_distances
from mocli.nn.neighbors import chunks, drawn_rows, neighbor_mean
from mocli.nn.principal import principal_components
from mocli.types import DoubleArray, FloatArray, IntArray

SAMPLE, LEAST, MOST = 2000, 0.5, 0.95
"""Cells from which the share of noise is read, and the bounds of what neighbours weigh."""

KMEANS_CELLS = 50_000
"""Cells that metacells are made from."""


def prior_of(
    bundle: MultiOmics, neighbors: Mapping[str, IntArray], params: SccrossParams, *, seed: int
) -> dict[Edge, tuple[Tensor, Tensor]]:
    """Return by edge the prior of both modalities' cells, `(n_obs, k)` each, rows of length 1 or 0.

    `neighbors`: rows to average a cell's linked features over, `(n_obs, k)` by modality; none where it has
    none.
    """
    return {link.edge: _of_edge(link, neighbors, params, seed=seed) for link in bundle.links}


def _of_edge(
    link: LinkedFeatures, neighbors: Mapping[str, IntArray], params: SccrossParams, *, seed: int
) -> tuple[Tensor, Tensor]:
    a, b = link.source_features, link.target_features
    n_linked = a.n_vars
    loadings: DoubleArray = np.eye(n_linked)
    if n_linked > params.n_prior:
        both = (
            np.concatenate([a.values, b.values])
            if isinstance(a.values, np.ndarray) and isinstance(b.values, np.ndarray)
            else sparse.vstack([sparse.csr_matrix(a.values), sparse.csr_matrix(b.values)], format="csr")
        )
        loadings = principal_components(both, params.n_prior, seed=seed).loadings
    first = _scores(a, loadings, neighbors.get(link.source), seed=seed)
    second = _scores(b, loadings, neighbors.get(link.target), seed=seed)
    # the side with more cells holds still
    swap = len(second) > len(first)
    still, moved = (second, first) if swap else (first, second)
    moved = _corrected(still, moved, params, seed=seed)
    return (_unit(moved), _unit(still)) if swap else (_unit(still), _unit(moved))


def _scores(
    side: FeatureMatrix, loadings: DoubleArray, neighbors: IntArray | None, *, seed: int
) -> FloatArray:
    """Return scores of centred features, averaged over own neighbours, of length 1.

    The weight of a cell's neighbours follows from how much of the scores they explain.
    """
    mean = np.asarray(side.values.mean(axis=0), np.float64).ravel()
    scores = np.asarray(side.values @ loadings - mean @ loadings, np.float32)
    if neighbors is not None and neighbors.shape[1]:
        rows = np.sort(
            np.random.default_rng(seed).choice(len(scores), min(len(scores), SAMPLE), replace=False)
        )
        explained = _explained(scores[rows], neighbor_mean(scores, neighbors[rows]))
        weight = np.clip(1 - explained.mean(), LEAST, MOST)
        scores = np.asarray((1 - weight) * scores + weight * neighbor_mean(scores, neighbors), np.float32)
    length = np.sqrt(np.square(scores).sum(1, keepdims=True))
    return np.divide(scores, length, out=np.zeros_like(scores), where=length > 0)


def _explained(values: FloatArray, mean: FloatArray) -> FloatArray:
    """R^2, at least 0, of every column when predicted by the neighbours' mean, `(k,)`."""
    variance = values.var(0)
    residual = np.square(values - mean).mean(0)
    r: FloatArray = np.divide(variance - residual, variance, out=np.zeros_like(variance), where=variance > 0)
    return np.clip(r, 0, 1)


def _corrected(still: FloatArray, moved: FloatArray, params: SccrossParams, *, seed: int) -> FloatArray:
    if max(len(still), len(moved)) <= params.n_metacells:
        return mnn_correct(still, moved, params.n_mutual)
    (centres, _), (moved_centres, of_cell) = (
        _metacells(x, params.n_metacells, seed=seed) for x in (still, moved)
    )
    shift = mnn_correct(centres, moved_centres, params.n_mutual) - moved_centres
    return moved + shift[of_cell]


def _metacells(x: FloatArray, n: int, *, seed: int) -> tuple[FloatArray, IntArray]:
    """Return centres and the nearest centre of every row; where there are few rows, they are the centres."""
    if len(x) <= n:
        return x, np.arange(len(x))
    from sklearn.cluster import MiniBatchKMeans

    some = x
    if len(x) > KMEANS_CELLS:
        some = x[drawn_rows(len(x), KMEANS_CELLS, seed=seed)]
    # from drawn cells and by minibatches: better seeds for so many centres would cost more than all else
    fitted = MiniBatchKMeans(n, init="random", n_init=1, batch_size=4096, max_iter=10, random_state=seed)
    centres = torch.from_numpy(np.asarray(fitted.fit(some).cluster_centers_, np.float32))
    nearest = [
        squared_distances(torch.from_numpy(x[rows]), centres).argmin(1) for rows in chunks(len(x), 4096)
    ]
    return centres.numpy(), torch.cat(nearest).numpy()


def _unit(x: FloatArray) -> Tensor:
    return F.normalize(torch.from_numpy(np.ascontiguousarray(x, np.float32)), dim=1)
