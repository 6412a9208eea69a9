"""Weighted nearest neighbours on cells that only one of two modalities can tell apart."""

import tracemalloc

import numpy as np
import pytest

from mocli.tasks.score.baselines import graph_coordinates, weighted_neighbors


def two_views(n=120, seed=0):
    """The first modality tells a from b, c; the second b from c; either is noise elsewhere."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    corners = 4 * np.eye(6)
    first = corners[np.where(kind == 0, 0, 1)] + rng.normal(size=(n, 6))
    second = corners[np.where(kind == 2, 2, 3)] + rng.normal(size=(n, 6))
    return first.astype("f4"), second.astype("f4"), kind


def test_neighbours_agree_with_what_both_modalities_tell():
    first, second, kind = two_views()
    both = weighted_neighbors([first, second], n_neighbors=10, n_candidates=60)
    alone = weighted_neighbors([first, first], n_neighbors=10, n_candidates=60)

    def purity(of):
        return (kind[of.neighbors] == kind[:, None]).mean()

    assert purity(both) > purity(alone) + 0.15
    assert purity(both) > 0.85


def test_a_modality_of_noise_counts_less():
    first, _, _ = two_views()
    noise = np.random.default_rng(1).normal(size=(len(first), 60)).astype("f4")
    weights = weighted_neighbors([first, noise]).weights
    np.testing.assert_allclose(weights.sum(1), 1)
    assert weights[:, 0].mean() > 0.52


def test_coordinates_keep_the_groups_apart_and_are_the_same_twice():
    first, second, kind = two_views()
    graph = weighted_neighbors([first, second], n_candidates=60)
    z = graph_coordinates(graph)
    assert z.shape == (120, 30)
    d = np.square(z[:, None, :3] - z[None, :, :3]).sum(-1) + 1e9 * np.eye(120)
    assert (kind[d.argmin(1)] == kind).mean() > 0.85
    assert np.array_equal(z, graph_coordinates(graph))


def test_similarities_fall_along_a_row():
    first, second, _ = two_views(30)
    graph = weighted_neighbors([first, second])
    assert (np.diff(graph.similarity, axis=1) <= 0).all()
    assert (graph.neighbors != np.arange(30)[:, None]).all()
    assert all(len(set(row)) == len(row) for row in graph.neighbors.tolist())


def test_coordinates_of_all_pairs_are_never_held_at_once():
    x = np.random.default_rng(0).normal(size=(600, 60)).astype("f4")
    weighted_neighbors([x, x[:, ::-1]])  # what is loaded at first use
    tracemalloc.start()
    try:
        weighted_neighbors([x, x[:, ::-1]])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 100,000 pairs of 60 coordinates are 48 MB a copy
    assert peak < 40e6


def test_other_cells_are_refused():
    with pytest.raises(ValueError, match="the same three cells"):
        weighted_neighbors([np.zeros((4, 2), "f4"), np.zeros((5, 2), "f4")])
