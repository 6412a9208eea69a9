"""Label transfer by vote against loops over cells."""

import math

import numpy as np
import pytest

from mocli.metrics import label_votes as module
from mocli.metrics.label_votes import calibration_error, vote


def groups(n=60, m=90, levels=3, seed=0, apart=2.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(levels, 4)) * apart
    labels, truth = np.arange(m) % levels, np.arange(n) % levels
    reference = (centres[labels] + rng.normal(size=(m, 4))).astype("f4")
    return (centres[truth] + rng.normal(size=(n, 4))).astype("f4"), reference, labels, truth


def slowly(query, reference, labels, n_levels, k):
    """One query after the other."""
    reference, labels = reference[labels >= 0].astype(float), labels[labels >= 0]
    for q in query.astype(float):
        d = np.sqrt(np.square(reference - q).sum(1))
        near = np.argsort(d, kind="stable")[:k]
        h = d[near[-1]]
        w = np.exp(-(d[near] ** 2) / (2 * h**2))
        share = [w[labels[near] == c].sum() / w.sum() for c in range(n_levels)]
        best = min(range(n_levels), key=lambda c: (-share[c], c))
        yield best, share[best]


@pytest.mark.parametrize("k", [1, 5, 14])
def test_equals_loops(k, monkeypatch):
    monkeypatch.setattr(module, "_VOTES", 40)
    query, reference, labels, _ = groups()
    labels = np.where(np.arange(len(labels)) % 7 == 0, -1, labels)
    votes = vote(query, reference, labels, n_levels=3, k=k)
    for i, (best, share) in enumerate(slowly(query, reference, labels, 3, k)):
        assert votes.best[i] == best
        assert votes.confidence[i] == pytest.approx(share, abs=1e-6)
    assert (votes.best.dtype, votes.confidence.dtype) == (np.int64, np.float32)


def test_ties_go_to_the_lowest_code():
    reference = np.array([[1.0], [-1.0], [1.0], [-1.0], [9.0], [-9.0]])
    labels = np.array([2, 1, 2, 1, 0, 0])
    votes = vote(np.zeros((1, 1)), reference, labels, n_levels=4, k=4)
    assert (votes.best[0], votes.confidence[0]) == (1, 0.5)


def test_equal_points_and_distance_zero():
    reference = np.repeat([[0.0, 0.0], [5.0, 5.0]], 10, axis=0)
    labels = np.repeat([0, 1], 10)
    votes = vote(np.array([[0.0, 0.0], [5.0, 5.0]]), reference, labels, n_levels=2, k=5)
    np.testing.assert_array_equal(votes.best, [0, 1])
    np.testing.assert_array_equal(votes.confidence, 1)


def test_unknown_reference_cells_take_no_part():
    query, reference, labels, _ = groups()
    part = np.where(np.arange(len(labels)) % 3 == 1, -1, labels)
    votes = vote(query, reference, part, n_levels=3, k=7)
    alone = vote(query, reference[part >= 0], part[part >= 0], n_levels=3, k=7)
    for mine, theirs in zip(votes, alone, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert 1 not in votes.best


def test_tiny_references():
    query = np.array([[0.0], [3.5]])
    votes = vote(query, np.array([[0.0], [1.0]]), np.array([0, 1]), n_levels=2, k=15)
    np.testing.assert_array_equal(votes.best, [0, 1])
    one = vote(query, np.array([[0.0]]), np.array([1]), n_levels=2)
    np.testing.assert_array_equal(one.best, 1)
    nobody = vote(query, np.array([[0.0]]), np.array([-1]), n_levels=2)
    np.testing.assert_array_equal(nobody.best, -1)
    np.testing.assert_array_equal(nobody.confidence, 0)
    assert len(vote(query[:0], np.array([[0.0], [1.0]]), np.array([0, 1]), n_levels=2).best) == 0


@pytest.mark.parametrize("wrong", [{"labels": [0]}, {"labels": [0, 5]}, {"k": 0}, {"z_query": [[np.nan]]}])
def test_refuses_what_does_not_fit(wrong):
    given = {"z_query": np.zeros((1, 1)), "labels": np.array([0, 1]), "k": 1} | {
        key: np.asarray(value) if isinstance(value, list) else value for key, value in wrong.items()
    }
    with pytest.raises(ValueError, match=r"label|finite"):
        vote(z_reference=np.array([[0.0], [1.0]]), n_levels=2, **given)


def test_calibration_error_equals_a_loop_over_bins():
    rng = np.random.default_rng(0)
    edges = [0.0, 0.5, 1.0, 0.25]  # exact in floats: of four bins, each closed above
    confidence = np.concatenate([rng.random(500), edges])
    correct = rng.random(504) < confidence**2
    expected = 0.0
    for b in range(4):
        inside = (confidence > b / 4) & (confidence <= (b + 1) / 4) | ((b == 0) & (confidence == 0))
        expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert calibration_error(confidence, correct, n_bins=4) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_at_its_ends():
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0
    closed_above = calibration_error(np.array([0.5, 0.5, 0.75]), np.array([1, 1, 0], bool), n_bins=2)
    assert closed_above == pytest.approx((1 + 0.75) / 3)
    assert calibration_error(np.ones(4), np.zeros(4, bool)) == 1
    assert calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0], bool)) == 0
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))
    for wrong in (np.array([1.1]), np.array([np.nan]), np.array([0.5, 0.5])):
        with pytest.raises(ValueError, match="confidences"):
            calibration_error(wrong, np.array([True]))
