"""Votes of the 15 nearest cells against scikit-learn, each cell left out."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mocli.metrics.embedding import Embedding
from mocli.metrics.matching import knn_accuracy


def by_rank(distances):
    """One vote each; of equal counts the smaller sum of ranks wins."""
    return np.zeros_like(distances) + 1 - 1e-5 * np.arange(distances.shape[1])


def sample(n):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, n)
    return (rng.normal(size=(4, 3))[label] + rng.normal(size=(n, 3))).astype("f4"), label


@pytest.mark.parametrize(("n", "n_unknown"), [(500, 0), (500, 120), (10, 0)])
def test_equals_scikit_learn(n, n_unknown):
    x, label = sample(n)
    label[:n_unknown] = -1
    half = n // 2
    e = Embedding(z={"a": x[:half], "b": x[half:]}, label={"a": label[:half], "b": label[half:]})
    (score,) = knn_accuracy(e)
    known = label >= 0
    k = min(15, known.sum() - 1)
    reference = KNeighborsClassifier(k, weights=by_rank, algorithm="brute").fit(x[known], label[known])
    # predict(None): every fitted cell, without itself among its neighbours
    expected = (reference.predict(None) == label[known]).mean()
    assert 0 < expected < 0.95
    assert score.value == pytest.approx(expected)
    assert (score.n, score.of) == (n - n_unknown, None)


def test_one_cell_is_undefined():
    (score,) = knn_accuracy(Embedding(z={"a": np.zeros((1, 2))}, label={"a": np.zeros(1, int)}))
    assert math.isnan(score.value)
