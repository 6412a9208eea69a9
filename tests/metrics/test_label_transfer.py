"""Label transfer against scikit-learn's 1-NN classifier."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier

from mocli.metrics import matching as module
from mocli.metrics.embedding import Embedding
from mocli.metrics.matching import label_transfer, label_transfer_forest, label_transfer_knn, majority


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


def noisy(n=(90, 70)):
    rng = np.random.default_rng(0)
    label = {"rna": rng.integers(0, 4, n[0]), "prot": rng.integers(0, 4, n[1])}
    z = {m: (c[:, None] + rng.normal(size=(len(c), 5))).astype("f4") for m, c in label.items()}
    return z, label


def test_a_vote_is_a_vote():
    z, label = noisy()
    label["rna"][:20] = -1
    label["prot"][:10] = -1
    got = {s.of: s for s in label_transfer_knn(Embedding(z=z, label=label))}
    for a, b in (("rna", "prot"), ("prot", "rna")):
        gives, takes = label[a] >= 0, label[b] >= 0
        d = np.linalg.norm(z[b][takes][:, None].astype(float) - z[a][gives][None].astype(float), axis=2)
        right = 0
        for row, true in zip(d, label[b][takes], strict=True):
            near = label[a][gives][np.argsort(row)[:15]]
            most = max(set(near), key=lambda v, near=near: (sum(near == v), -sum(np.flatnonzero(near == v))))
            right += most == true
        assert got[f"{a}->{b}"].value == pytest.approx(right / takes.sum())
        assert got[f"{a}->{b}"].n == takes.sum()


def test_equal_votes_go_to_the_nearer():
    assert majority(np.array([[3, 3, 1, 1], [1, 3, 3, 3], [4, 2, 2, 4]])).tolist() == [
        3,
        3,
        2,
    ]  # last: equal ranks
    assert majority(np.array([[7, 5, 5], [5, 7, 6], [6, 6, 6]])).tolist() == [5, 5, 6]
    # fifteen votes: eight far ones beat seven near ones
    assert majority(np.r_[np.zeros(7, int), np.ones(8, int)][None]).tolist() == [1]


def test_forest():
    z, label = noisy((400, 300))
    got = {s.of: s for s in label_transfer_forest(Embedding(z=z, label=label))}
    for a, b in (("rna", "prot"), ("prot", "rna")):
        oracle = RandomForestClassifier(300, class_weight="balanced_subsample", random_state=7)
        expected = oracle.fit(z[a], label[a]).score(z[b], label[b])
        assert 0.5 < got[f"{a}->{b}"].value < 0.95
        assert got[f"{a}->{b}"].value == pytest.approx(expected, abs=0.06)
        assert got[f"{a}->{b}"].n == len(label[b])


def test_forest_learns_from_few(monkeypatch):
    z, label = noisy((400, 300))
    label["rna"][:100] = -1
    (everyone, _) = label_transfer_forest(Embedding(z=z, label=label))
    order = np.random.default_rng(1).permutation(400)
    moved = Embedding(
        z={"rna": z["rna"][order], "prot": z["prot"]},
        label={"rna": label["rna"][order], "prot": label["prot"]},
    )
    assert label_transfer_forest(moved)[0] == everyone  # file order does not matter
    monkeypatch.setattr(module, "MAX_LEARNED", 60)
    (few, _) = label_transfer_forest(Embedding(z=z, label=label))
    assert few.n == everyone.n == 300
    assert few.value != everyone.value
    assert few.value == pytest.approx(everyone.value, abs=0.15)


def test_a_forest_is_the_same_by_any_number_of_threads():
    import torch

    rng = np.random.default_rng(0)
    z = {m: rng.normal(size=(300, 6)).astype("f4") for m in ("rna", "prot")}
    label = {m: rng.integers(0, 4, 300) for m in z}
    before, scores = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            scores.append([s.value for s in label_transfer_forest(Embedding(z=z, label=label))])
    finally:
        torch.set_num_threads(before)
    assert scores[0] == scores[1]
