"""Corrections of sets of cells: mutual neighbours by brute force, batches of like cells that come to mix."""

import numpy as np
import pytest

from mocli.nn.correction import RIDGE, _shifts, mix_batches, mnn_correct
from mocli.nn.nearby import mutual_pairs
from mocli.nn.neighbors import knn


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
    assert np.abs(corrected.mean(0) - a.mean(0)).mean() < 0.1 * before


def test_without_pairs_nothing_moves():
    a, b = np.zeros((5, 3), np.float32), np.ones((4, 3), np.float32)
    assert not len(mutual_pairs(a, b, 3)[0])
    assert np.array_equal(mnn_correct(a, b, 3), b)


def cells(seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 10)) * 3
    kind = np.r_[rng.choice(4, 300, p=[0.4, 0.3, 0.2, 0.1]), rng.choice(4, 200, p=[0.1, 0.2, 0.3, 0.4])]
    batch = np.r_[np.zeros(300, int), np.ones(200, int)]
    shift = rng.normal(size=(4, 10))  # another one for every kind
    return centres[kind] + rng.normal(size=(500, 10)) * 0.5 + shift[kind] * batch[:, None], kind, batch


def same(points, codes):
    near = knn(points, points, 15, exclude_self=True)[1]
    return (codes[near] == codes[:, None]).mean()


def test_like_cells_of_two_batches_mix_and_kinds_stay_apart():
    points, kind, batch = cells()
    moved = mix_batches(points, batch, seed=0)
    assert same(points, batch) > 0.95
    of_kind = [(batch[kind == k] == 0).mean() for k in kind]
    expected = np.mean([p if b == 0 else 1 - p for p, b in zip(of_kind, batch, strict=True)])
    assert same(moved, batch) < expected + 0.1, "as many of one batch as there are of that kind"
    assert same(moved, kind) >= same(points, kind) - 0.01


def test_one_batch_stays_and_the_same_seed_gives_the_same():
    points, _, batch = cells()
    np.testing.assert_array_equal(mix_batches(points, batch * 0, seed=0), points)
    np.testing.assert_array_equal(mix_batches(points, batch, seed=0), mix_batches(points, batch, seed=0))


def test_shifts_are_those_of_a_ridge_regression():
    points, _, batch = cells()
    weight, member = np.random.default_rng(1).random(500), np.eye(2)[batch]
    design = np.c_[np.ones(500), member]
    gram = design.T @ (design * weight[:, None]) + RIDGE * np.diag([0, 1, 1])
    wanted = np.linalg.solve(gram, design.T @ (points * weight[:, None]))[1:]
    assert _shifts(points, member, weight) == pytest.approx(wanted)
