"""Mutual nearest neighbours and the correction they give, by brute force and by a known shift."""

import numpy as np

from mocli.nn.mnn import mnn_correct, mutual_pairs


def test_pairs_equal_brute_force():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 5)).astype(np.float32) for n in (40, 30))
    a[3] = 0
    found = set(zip(*(x.tolist() for x in mutual_pairs(a, b, 6)), strict=True))
    norm = [np.divide(x, np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)) for x in (a, b)]
    cosine = norm[0] @ norm[1].T
    forth = np.argsort(-cosine, axis=1, kind="stable")[:, :6]
    back = np.argsort(-cosine, axis=0, kind="stable")[:6].T
    wanted = {(i, j) for i in range(40) for j in forth[i] if i in back[j] and i != 3}
    assert found == {(int(i), int(j)) for i, j in wanted}


def test_a_shifted_copy_comes_back():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(6, 10)) * 4
    a = (centres[np.arange(300) % 6] + rng.normal(size=(300, 10)) * 0.3).astype(np.float32)
    b = a + np.float32(0.8)
    before = np.abs(b.mean(0) - a.mean(0)).mean()
    corrected = mnn_correct(a, b, 20)
    assert corrected.n_pairs > 0
    assert np.abs(corrected.values.mean(0) - a.mean(0)).mean() < 0.1 * before


def test_without_pairs_nothing_moves():
    a, b = np.zeros((5, 3), np.float32), np.ones((4, 3), np.float32)
    found = mnn_correct(a, b, 3)
    assert found.n_pairs == 0
    assert np.array_equal(found.values, b)
