"""Averaging new cells over training cells: what training did, and what a slow loop gives."""

import numpy as np
import pytest

from mocli.data.batches import dense_rows
from mocli.data.bundle import FeatureMatrix
from mocli.tasks.prepare import smoothing as smoothing
from mocli.tasks.prepare.smoothing import Reference


def scores(n=60, p=6, seed=0, named="pc_"):
    x = np.random.default_rng(seed).normal(size=(n, p)) * np.arange(p, 0, -1)
    return FeatureMatrix(x.astype(np.float32), tuple(f"{named}{j + 1}" for j in range(p)))


def averaged(features, weight=0.5):
    from dataclasses import replace

    return replace(features, neighbors=smoothing.find_neighbors(features, seed=0), smoothing=weight)


def slow(new, reference, k, weight, leading):
    center = reference.mean(0)

    def unit(x):
        x = (x - center)[:, :leading]
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    near = np.argsort(-(unit(new) @ unit(reference).T), axis=1, kind="stable")[:, :k]
    return (1 - weight) * new + weight * reference[near].mean(1)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_training_cells_are_averaged_as_in_training(weight):
    features = averaged(scores(), weight)
    reference = Reference.of(features, seed=0)
    assert (reference.n_neighbors, reference.weight) == (10, weight)
    every = np.arange(60)
    found = reference.average(scores())
    np.testing.assert_allclose(found.values, dense_rows(features, every), rtol=1e-4, atol=1e-5)
    some = FeatureMatrix(scores().values[[5, 50]], scores().names)
    np.testing.assert_allclose(reference.average(some).values, found.values[[5, 50]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("p", "named", "leading"), [(6, "pc_", 6), (40, "pc_", 30), (40, "gene", 40)])
def test_new_cells_are_averaged_over_the_nearest(p, named, leading):
    features = averaged(scores(p=p, named=named))
    new = scores(n=25, p=p, seed=1, named=named)
    found = Reference.of(features, seed=0).average(new).values
    expected = slow(new.values, scores(p=p, named=named).values, 10, 0.5, leading)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_cells_beyond_the_sample_are_new_ones(monkeypatch):
    monkeypatch.setattr(smoothing, "MAX_REFERENCE", 40)
    features = averaged(scores())
    reference = Reference.of(features, seed=0)
    assert reference.scores.shape == (40, 6)
    again = Reference.of(features, seed=0)
    np.testing.assert_array_equal(again.scores, reference.scores)
    x = scores().values
    kept = (x[:, None] == reference.scores).all(2).any(1)
    assert kept.sum() == 40
    outside = FeatureMatrix(x[~kept], scores().names)
    expected = slow(x[~kept], reference.scores, 10, 0.5, 6)
    np.testing.assert_allclose(reference.average(outside).values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{"neighbors": None}, {"smoothing": 0.0}])
def test_nothing_is_kept_of_what_is_not_averaged(change):
    from dataclasses import replace

    assert Reference.of(replace(averaged(scores()), **change), seed=0) is None


def test_duplicates_and_very_few_cells():
    x = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    features = averaged(FeatureMatrix(x, ("pc_1", "pc_2", "pc_3")))
    found = Reference.of(features, seed=0).average(FeatureMatrix(x, features.names)).values
    np.testing.assert_allclose(found, x, atol=1e-6)
    few = averaged(scores(n=3))
    reference = Reference.of(few, seed=0)
    assert np.isfinite(reference.average(scores(n=5, seed=2)).values).all()


def test_a_cell_at_the_centre_has_no_direction_and_still_a_value():
    reference = Reference.of(averaged(scores()), seed=0)
    middle = FeatureMatrix(reference.scores.mean(0, keepdims=True), scores().names)
    assert np.isfinite(reference.average(middle).values).all()
