"""Mean average precision against scikit-learn, cell by cell."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score

from mocli.metrics.embedding import Embedding
from mocli.metrics.matching import average_precision, mean_average_precision


def brute(x, label):
    d = cdist(x, x)
    np.fill_diagonal(d, np.inf)
    k = max(1, round(0.01 * len(x)))
    found = []
    for i, row in enumerate(d):
        hits = label[np.argsort(row, kind="stable")[:k]] == label[i]
        found.append(average_precision_score(hits, -np.arange(k)) if hits.any() else 0.0)
    return np.mean(found)


def sample(n=250):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 2 * n)
    x = (rng.normal(size=(4, 3))[label] + rng.normal(size=(2 * n, 3))).astype("f4")
    return x, label


@pytest.mark.parametrize("n_unknown", [0, 120])
def test_equals_scikit_learn(n_unknown):
    x, label = sample()
    label[:n_unknown] = -1
    e = Embedding(z={"a": x[:250], "b": x[250:]}, label={"a": label[:250], "b": label[250:]})
    (score,) = mean_average_precision(e)
    known = label >= 0
    assert 0.2 < score.value < 0.9
    assert score.value == pytest.approx(brute(x[known].astype(float), label[known]))
    assert score.n == 500 - n_unknown


def test_by_hand():
    hits = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1]], bool)
    assert average_precision(hits) == pytest.approx([(1 + 2 / 3) / 2, 0, 1, 1 / 3])


def test_one_cell_is_undefined():
    (score,) = mean_average_precision(Embedding(z={"a": np.zeros((1, 2))}, label={"a": np.zeros(1, int)}))
    assert math.isnan(score.value)
