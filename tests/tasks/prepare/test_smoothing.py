"""Smoothed links: the right neighbours, and a weight that follows the noise."""

from dataclasses import replace

import numpy as np

from mocli.data.bundle import FeatureMatrix
from mocli.tasks.prepare import smoothing as smoothing


def features(n=60, p=20, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    x = rng.normal(size=(3, p))[kind] + noise * rng.normal(size=(n, p))
    return FeatureMatrix(x.astype(np.float32), tuple(map(str, range(p))))


def test_neighbours_are_the_nearest_others_by_cosine():
    f = features(noise=1.0)
    x = f.values - f.values.mean(0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :10]
    near = smoothing.find_neighbors(f, seed=0)
    assert near.dtype == np.uint16
    assert near.shape == (60, 10)
    assert [set(row) for row in near] == [set(row) for row in expected]


def test_many_cells_find_neighbours_among_those_kept_for_new_cells(monkeypatch):
    monkeypatch.setattr(smoothing, "MAX_REFERENCE", 25)
    f = features(n=80, noise=1.0)
    near = smoothing.find_neighbors(f, seed=3)
    kept = smoothing.drawn_rows(80, 25, seed=3)
    averaged = replace(f, neighbors=near, smoothing=0.5)
    assert np.array_equal(smoothing.Reference.of(averaged, seed=3).scores, f.values[kept])
    x = f.values - f.values.mean(0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit @ unit[kept].T
    similarity[kept, np.arange(25)] = -2
    expected = kept[np.argsort(-similarity, axis=1)[:, :10]]
    assert [set(row) for row in near] == [set(row) for row in expected]


def test_duplicates_never_make_a_cell_its_own_neighbour():
    x = np.ones((40, 4), np.float32)
    x[:20] = -1
    near = smoothing.find_neighbors(FeatureMatrix(x, tuple("abcd")), seed=0)
    assert near.shape == (40, 10)
    assert not (near == np.arange(40)[:, None]).any()


def test_the_weight_grows_with_noise():
    def weight(noise):
        f = features(n=300, noise=noise)
        return smoothing._smoothed(f, smoothing.find_neighbors(features(n=300), seed=0), seed=0).smoothing

    assert weight(0.05) == smoothing.LEAST
    assert weight(0.05) < weight(2.0) <= smoothing.MOST
