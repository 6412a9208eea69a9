"""Mixing metric by hand and by a loop over cells."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mocli.metrics.embedding import Embedding
from mocli.metrics.mixing import mixing, rank_of_nth


def brute(z):
    """One cell after another, from the definition."""
    x = np.concatenate(list(z.values())).astype(float)
    of = np.repeat(np.arange(len(z)), [len(v) for v in z.values()])
    d, k = cdist(x, x), min(300, len(x) - 1)
    total = 0.0
    for i in range(len(x)):
        others = [j for j in np.argsort(d[i], kind="stable") if j != i][:k]
        ranks = []
        for m in range(len(z)):
            where = [rank for rank, j in enumerate(others, start=1) if of[j] == m]
            ranks.append(where[4] if len(where) > 4 else k)
        total += np.median(ranks)
    return total / len(x)


def test_by_hand():
    """Six cells of a far from five of b, so k = 10.

    A cell of a meets five others of its own first (rank 5), then all five of b (rank 10): 7.5.
    A cell of b meets its four others, then a, whose fifth has rank 9; no fifth of b: 10; so 9.5.
    """
    z = {"a": np.arange(6.0)[:, None], "b": 1000 + 1.5 * np.arange(5.0)[:, None]}
    (score,) = mixing(Embedding(z=z))
    assert score.value == pytest.approx((6 * 7.5 + 5 * 9.5) / 11)
    assert (score.n, score.of) == (11, None)


@pytest.mark.parametrize("sizes", [(40, 30), (25, 30, 8), (200, 190)])
def test_equals_a_loop(sizes):
    rng = np.random.default_rng(0)
    z = {f"m{i}": rng.normal(i, 1, size=(n, 3)).astype("f4") for i, n in enumerate(sizes)}
    assert mixing(Embedding(z=z))[0].value == pytest.approx(brute(z), rel=1e-6)


def test_modalities_apart_reach_the_end_of_the_neighbourhood():
    rng = np.random.default_rng(1)
    z = {"a": rng.normal(size=(400, 3)), "b": 1000 + rng.normal(size=(400, 3))}
    assert mixing(Embedding(z=z))[0].value == (5 + 300) / 2


def test_too_few_cells_to_tell():
    z = {"a": np.arange(5.0)[:, None], "b": np.arange(5.0)[:, None]}
    assert np.isnan(mixing(Embedding(z=z))[0].value)


def test_rank_of_nth():
    hits = np.array([[1, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 0]], dtype=bool)
    assert rank_of_nth(hits, 2).tolist() == [3, 4, 3]
