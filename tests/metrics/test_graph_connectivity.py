"""Graph connectivity and the neighbour graph against brute force."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mocli.metrics import embedding
from mocli.metrics.clusters import graph_connectivity
from mocli.metrics.embedding import Embedding, coordinate_order, nearest_among, neighbor_graph


def neighbors_of(x, k):
    d = cdist(x, x)
    np.fill_diagonal(d, np.inf)
    return np.argsort(d, axis=1, kind="stable")[:, :k]


def island(x, members, k=15):
    """Share of the members in their largest island: merge the islands of every two linked members."""
    near, of = neighbors_of(x, k), np.arange(len(x))
    for i in np.flatnonzero(members):
        for j in near[i]:
            if members[j]:
                of[of == of[j]] = of[i]
    return np.unique(of[members], return_counts=True)[1].max() / members.sum()


def brute(x, label):
    return np.mean([island(x.astype(float), label == level) for level in np.unique(label[label >= 0])])


def sample(n=70):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * n, 2)).astype("f4")
    return x, rng.integers(0, 12, 2 * n)


def test_equals_brute_force():
    x, label = sample()
    e = Embedding(z={"a": x[:70], "b": x[70:]}, label={"a": label[:70], "b": label[70:]})
    (score,) = graph_connectivity(e)
    assert 0.2 < score.value < 1
    assert score.value == pytest.approx(brute(x, label))
    assert (score.n, score.of) == (140, None)


def test_by_hand():
    """Twenty cells at 0 and sixty far away; the label of both is one third and two thirds connected."""
    x = np.concatenate([np.linspace(0, 1, 20), np.linspace(1000, 1001, 60)])[:, None].astype("f4")
    label = np.r_[np.zeros(20, int), np.zeros(40, int), np.ones(20, int)]
    (score,) = graph_connectivity(Embedding(z={"a": x}, label={"a": label}))
    assert score.value == pytest.approx((40 / 60 + 1) / 2)


def test_unknown_labels_join_nothing():
    x, label = sample()
    label[:50] = -1
    (score,) = graph_connectivity(Embedding(z={"a": x}, label={"a": label}))
    assert (score.value, score.n) == (pytest.approx(brute(x, label)), 90)


def test_the_graph_does_not_know_the_order_of_cells():
    x, _ = sample()
    shuffled = np.random.default_rng(1).permutation(len(x))
    (cells, graph), (moved, again) = (neighbor_graph(Embedding(z={"a": v})) for v in (x, x[shuffled]))
    np.testing.assert_array_equal(x[cells], x[shuffled][moved])
    assert (graph != again).nnz == 0
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0
    np.testing.assert_array_equal(x[cells][:, 0], np.sort(x[:, 0]))


def test_a_drawn_graph_is_of_the_drawn_cells(monkeypatch):
    x, _ = sample(400)
    monkeypatch.setattr(embedding, "MAX_CELLS", 60)
    monkeypatch.setattr(embedding, "MAX_NEIGHBORS", 100)  # some cells must search again
    e = Embedding(z={"a": x})
    cells, graph = neighbor_graph(e)
    assert len(cells) == 60
    near = neighbors_of(x[cells].astype(float), 15)
    expected = np.zeros((60, 60))
    expected[np.arange(60)[:, None], near] = 1
    np.testing.assert_array_equal(graph.toarray(), np.maximum(expected, expected.T))


def test_nearest_members():
    x, label = sample()
    e = Embedding(z={"a": x})
    members = label < 3
    asking = np.flatnonzero(members)
    rows = np.flatnonzero(members)
    expected = rows[neighbors_of(x[rows].astype(float), 9)]
    np.testing.assert_array_equal(nearest_among(e, asking, members, 9), expected)
    assert nearest_among(e, asking, members, 300).shape == (len(rows), len(rows) - 1)
    assert nearest_among(e, asking[:1], np.arange(140) == asking[0], 5).shape == (1, 0)


def test_order_by_coordinates():
    x = np.array([[2.0, 1.0], [1.0, 5.0], [1.0, 2.0]])
    assert coordinate_order(Embedding(z={"a": x}), np.arange(3)).tolist() == [2, 1, 0]
