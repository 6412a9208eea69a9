"""Isolated labels against scikit-learn, label by label."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, silhouette_samples

from mocli.metrics.clusters import RESOLUTIONS, louvain
from mocli.metrics.conservation import f1_isolated, isolated_labels, silhouette_isolated
from mocli.metrics.embedding import Embedding, neighbor_graph


def sample(n=100):
    """Labels 1 and 3 are in one batch only, 0 and 2 in both."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 2 * n)
    batch = np.where(label == 1, 0, np.where(label == 3, 1, rng.integers(0, 2, 2 * n)))
    x = (rng.normal(size=(4, 4))[label] * 1.5 + rng.normal(size=(2 * n, 4))).astype("f4")
    return x, label, batch


def embed(x, label, batch):
    n = len(x) // 2
    return Embedding(
        z={"a": x[:n], "b": x[n:]},
        label={"a": label[:n], "b": label[n:]},
        batch={"a": batch[:n], "b": batch[n:]},
    )


def test_which_labels_are_isolated():
    x, label, batch = sample()
    assert isolated_labels(embed(x, label, batch)).tolist() == [1, 3]
    assert isolated_labels(embed(x, label, 0 * batch)).tolist() == [0, 1, 2, 3]
    assert isolated_labels(embed(x, 0 * label - 1, batch)).tolist() == []


@pytest.mark.parametrize("which", [(1, 3), (0, 1, 2, 3)])
def test_silhouette(which):
    x, label, batch = sample()
    if len(which) == 4:
        batch = np.arange(len(batch)) % 2
    (score,) = silhouette_isolated(embed(x, label, batch))
    widths = silhouette_samples(x.astype(float), label)
    expected = [(widths[label == level].mean() + 1) / 2 for level in which]
    assert score.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert score.n == np.isin(label, which).sum()


def test_silhouette_of_a_single_cell_and_unknown_labels():
    x, label, batch = sample()
    label[label == 1] = 0
    label[0], batch[0] = 1, 0
    label[1:20] = -1
    known = label >= 0
    (score,) = silhouette_isolated(embed(x, label, batch))
    widths = silhouette_samples(x[known].astype(float), label[known])
    assert widths[label[known] == 1] == 0  # the only cell of its label
    expected = [(widths[label[known] == v].mean() + 1) / 2 for v in (1, 3)]
    assert score.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert score.n == 1 + (label == 3).sum()


def test_f1():
    x, label, batch = sample()
    e = embed(x, label, batch)
    cells, _ = neighbor_graph(e)
    true = label[cells]
    every = [louvain(e, resolution) for resolution in RESOLUTIONS]
    expected = [
        max(f1_score(true == level, found == c) for found in every for c in np.unique(found))
        for level in (1, 3)
    ]
    (score,) = f1_isolated(e)
    assert 0.2 < score.value < 1
    assert score.value == pytest.approx(np.mean(expected))


def test_one_label_is_undefined():
    x, label, batch = sample()
    e = embed(x, 0 * label, batch)
    assert math.isnan(silhouette_isolated(e)[0].value)
    assert math.isnan(f1_isolated(e)[0].value)
