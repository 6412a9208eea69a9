"""Label transfer against scikit-learn's 1-NN classifier."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mocli.metrics.label_transfer import label_transfer
from mocli.metrics.registry import Embedding


def test_equals_one_nearest_neighbour_classifier():
    rng = np.random.default_rng(0)
    label = {"rna": rng.integers(0, 4, 90), "prot": rng.integers(0, 4, 70)}
    z = {m: (c[:, None] + rng.normal(size=(len(c), 5))).astype("f4") for m, c in label.items()}
    got = {s.of: (s.value, s.n) for s in label_transfer(Embedding(z=z, label=label))}
    for a, b in (("rna", "prot"), ("prot", "rna")):
        oracle = KNeighborsClassifier(1, algorithm="brute").fit(z[a], label[a])
        assert got[f"{a}->{b}"] == (pytest.approx(oracle.score(z[b], label[b])), len(label[b]))


def test_unknown_labels_neither_give_nor_count():
    z = {"a": np.array([[0.0], [1.0], [10.0]]), "b": np.array([[0.1], [9.0], [20.0]])}
    label = {"a": np.array([-1, 0, 1]), "b": np.array([0, 0, -1])}
    scores = {s.of: s for s in label_transfer(Embedding(z=z, label=label))}
    assert (scores["a->b"].value, scores["a->b"].n) == (0.5, 2)  # 0.1 takes from 1.0, 9.0 from 10.0
    assert (scores["b->a"].value, scores["b->a"].n) == (0.5, 2)


def test_three_modalities_have_six_directions():
    x = np.arange(6.0)[:, None]
    e = Embedding(z=dict.fromkeys("abc", x), label=dict.fromkeys("abc", np.arange(6)))
    scores = label_transfer(e)
    assert {s.of for s in scores} == {"a->b", "a->c", "b->a", "b->c", "c->a", "c->b"}
    assert all(s.value == 1.0 for s in scores)
