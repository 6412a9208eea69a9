"""MaxFuse: cells of weakly linked modalities matched by smoothed links, then by CCA (Chen et al. 2023)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    # this file runs where mocli is not installed
    from mocli.peers.runner import Floats, Given

PEER: dict[str, Any] = {
    "name": "maxfuse",
    "title": "MaxFuse",
    "doi": "10.1038/s41587-023-01935-0",
    "package": "maxfuse",
    "module": "maxfuse",
    "licence": "Stanford academic, non-commercial",
    "takes": ["features", "linked"],
    "needs": ["links"],
    "pairings": ["unpaired", "paired", "mosaic"],
    "kinds": [],
    "n_modalities": 2,
    "seeds": True,
    "params": {"n_iters": 3, "max_outward_size": 8000},
}

FEW = 100
"""A modality with fewer features counts as a panel, with lower ranks."""


def place(given: Given) -> dict[str, Floats]:
    """Return coordinates of both modalities' cells, `(n_obs, d)` each; equal names are not used.

    Ranks, weights and filters are those of its tutorial on genes and proteins.
    """
    import maxfuse

    # the package and its graphs draw from the global generators
    np.random.seed(given.seed)  # noqa: NPY002
    random.seed(given.seed)
    one, two = given.linked
    features = {name: varying(given.features[name]) for name in (one, two)}
    both = (given.linked[one].std(0) > 0) & (given.linked[two].std(0) > 0)
    shared = {name: given.linked[name][:, both] for name in (one, two)}
    rank = {name: least(x, 15 if x.shape[1] < FEW else 40) for name, x in features.items()}
    panel = {name: x.shape[1] < FEW for name, x in features.items()}
    first = {name: least(x, 20 if panel[name] else 25) for name, x in shared.items()}
    fusor = maxfuse.model.Fusor(
        shared_arr1=shared[one],
        shared_arr2=shared[two],
        active_arr1=features[one],
        active_arr2=features[two],
        labels1=None,
        labels2=None,
    )
    fusor.split_into_batches(
        max_outward_size=given.params["max_outward_size"], matching_ratio=4, metacell_size=2, verbose=False
    )
    fusor.construct_graphs(
        n_neighbors1=15,
        n_neighbors2=15,
        svd_components1=rank[one],
        svd_components2=rank[two],
        resolution1=2,
        resolution2=2,
        resolution_tol=0.1,
        verbose=False,
    )
    fusor.find_initial_pivots(wt1=0.3, wt2=0.3, svd_components1=first[one], svd_components2=first[two])
    fusor.refine_pivots(
        wt1=0.3,
        wt2=0.3,
        svd_components1=rank[one],
        svd_components2=None if panel[two] else rank[two],
        cca_components=min(20, *rank.values()),
        n_iters=given.params["n_iters"],
        randomized_svd=False,
        svd_runs=1,
        verbose=False,
    )
    fusor.filter_bad_matches(target="pivot", filter_prop=0.3)
    fusor.propagate(wt1=0.7, wt2=0.7)
    fusor.filter_bad_matches(target="propagated", filter_prop=0)
    embedding = fusor.get_embedding(active_arr1=fusor.active_arr1, active_arr2=fusor.active_arr2)
    return {one: embedding[0], two: embedding[1]}


def varying(x: Floats) -> Floats:
    """Leave out constant columns."""
    return x[:, x.std(0) > 0]


def least(x: Floats, most: int) -> int:
    """Return a rank that the matrix has."""
    return int(min(most, min(x.shape) - 1))
