"""FOSCTTM and pair distance against loops over the printed formulas."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mocli.metrics.embedding import Embedding
from mocli.metrics.matching import foscttm, pair_distance


def sample():
    """Modalities of different size, sharing some cells, in another order."""
    rng = np.random.default_rng(0)
    z = {"rna": rng.normal(size=(60, 4)).astype("f4"), "atac": rng.normal(size=(45, 4)).astype("f4")}
    pairs = np.stack([rng.permutation(60)[:30], rng.permutation(45)[:30]], axis=1)
    z["atac"][pairs[:, 1]] = z["rna"][pairs[:, 0]] + rng.normal(size=(30, 4)).astype("f4")
    d = cdist(z["rna"][pairs[:, 0]].astype(float), z["atac"][pairs[:, 1]].astype(float))
    return Embedding(z=z, pairs={("rna", "atac"): pairs}), d


def test_foscttm_equals_the_formula():
    e, d = sample()
    n = len(d)
    count = sum(int(d[i, j] < d[i, i]) + int(d[j, i] < d[i, i]) for i in range(n) for j in range(n))
    (score,) = foscttm(e)
    assert score.value == pytest.approx(count / (2 * n * n), abs=1e-12)
    assert (score.n, score.of) == (n, "rna-atac")


def test_pair_distance_equals_the_formula():
    e, d = sample()
    n = len(d)
    per_cell = [0.5 * (d[i, i] / (d[i].sum() / n) + d[i, i] / (d[:, i].sum() / n)) for i in range(n)]
    (score,) = pair_distance(e)
    assert score.value == pytest.approx(np.mean(per_cell), rel=1e-6)
    assert score.n == n


def test_by_hand():
    """On a line: a at 0 and 3, their partners at 1 and 2.

    d = [[1, 2], [2, 1]]: nobody is closer than the partner; 1 / 1.5 each way.
    Partners swapped: everybody is, for each cell one of two; 2 / 1.5.
    """
    z = {"a": np.array([[0.0], [3.0]]), "b": np.array([[1.0], [2.0]])}
    right = Embedding(z=z, pairs={("a", "b"): np.array([[0, 0], [1, 1]])})
    wrong = Embedding(z=z, pairs={("a", "b"): np.array([[0, 1], [1, 0]])})
    assert [foscttm(right)[0].value, foscttm(wrong)[0].value] == [0.0, 0.5]
    assert pair_distance(right)[0].value == pytest.approx(1 / 1.5)
    assert pair_distance(wrong)[0].value == pytest.approx(2 / 1.5)


def test_chance_is_a_half_and_one():
    rng = np.random.default_rng(1)
    rows = np.stack([np.arange(800)] * 2, axis=1)
    z = {"a": rng.normal(size=(800, 20)).astype("f4"), "b": rng.normal(size=(800, 20)).astype("f4")}
    e = Embedding(z=z, pairs={("a", "b"): rows})
    assert foscttm(e)[0].value == pytest.approx(0.5, abs=0.03)
    assert pair_distance(e)[0].value == pytest.approx(1.0, abs=0.03)


def test_partners_at_the_same_place():
    x = np.random.default_rng(2).normal(size=(50, 3)).astype("f4")
    e = Embedding(z={"a": x, "b": x}, pairs={("a", "b"): np.stack([np.arange(50)] * 2, axis=1)})
    assert foscttm(e)[0].value == 0.0
    assert pair_distance(e)[0].value == 0.0


def test_ties_count_one_half():
    """An embedding that sends half of the cells to one point and half to another knows next to nothing."""
    z = {m: np.repeat([[0.0], [1.0]], 50, axis=0) for m in ("a", "b")}
    e = Embedding(z=z, pairs={("a", "b"): np.stack([np.arange(100)] * 2, axis=1)})
    assert foscttm(e)[0].value == pytest.approx(49 / 200)
    same = Embedding(
        z={m: np.repeat([[0.0], [1.0]], [99, 1], axis=0) for m in ("a", "b")},
        pairs={("a", "b"): np.stack([np.arange(100)] * 2, axis=1)},
    )
    assert foscttm(same)[0].value > 0.48
