"""Batches of like cells come to lie together; cells of other kinds stay apart, also where shares differ."""

import numpy as np
import pytest

from mocli.nn.batchmix import mix_batches
from mocli.nn.neighbors import knn


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
    from mocli.nn.batchmix import RIDGE, _shifts

    points, _, batch = cells()
    weight, member = np.random.default_rng(1).random(500), np.eye(2)[batch]
    design = np.c_[np.ones(500), member]
    gram = design.T @ (design * weight[:, None]) + RIDGE * np.diag([0, 1, 1])
    wanted = np.linalg.solve(gram, design.T @ (points * weight[:, None]))[1:]
    assert _shifts(points, batch, member, weight) == pytest.approx(wanted)
