"""Mapping scores against loops, and what they say of types that a reference lacks."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mocli.metrics import label_votes as module
from mocli.metrics.label_votes import LEAST, MOST, K, Labelled, threshold


def cells(n, *, seed, types=(0, 1, 2, 3), apart=6.0, d=5):
    """Cells of types in clouds that are ten times as wide in one direction, in which types do not differ."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(4, d)) * apart
    centres[:, 0] = 0
    codes = np.array(types)[rng.integers(0, len(types), n)]
    noise = rng.normal(size=(n, d))
    noise[:, 0] *= 10
    return (centres[codes] + noise).astype(np.float32), codes


def test_scores_equal_loops_over_cells():
    z, codes = cells(80, seed=0)
    codes[::9] = -1
    query = cells(30, seed=1)[0]
    known = z[codes >= 0].astype(float)
    of = codes[codes >= 0]
    within = known - np.stack([known[of == c].mean(0) for c in range(4)])[of]
    covariance = within.T @ within / len(known)
    shrunk = covariance + np.trace(covariance) / 5 * np.eye(5)
    root = np.linalg.cholesky(np.linalg.inv(shrunk))
    own = np.sort(cdist(known @ root, known @ root), axis=1)[:, K]
    theirs = np.sort(cdist(query @ root, known @ root), axis=1)[:, K - 1]
    expected = [(1 + (own >= t).sum()) / (1 + len(own)) for t in theirs]
    np.testing.assert_allclose(Labelled.of(z, codes).score(query), expected, atol=1e-6)


def test_a_share_t_of_cells_like_the_reference_scores_below_t_and_a_lacking_type_does():
    z, codes = cells(600, seed=0, types=(0, 1, 2))
    reference = Labelled.of(z, codes)
    same, _ = cells(600, seed=1, types=(0, 1, 2))
    lacking, _ = cells(100, seed=2, types=(3,))
    below = threshold(reference.left_out())
    assert (reference.score(same) < below).mean() == pytest.approx(below, abs=0.03)
    assert (reference.score(lacking) < below).mean() > 0.95
    # without the wide direction taken back, the types are not apart
    assert cdist(lacking[:, :1], z[:, :1]).std() > 5


def test_labels_left_out_say_which_could_be_missed():
    z, codes = cells(400, seed=0, types=(0, 1, 2))
    split = np.where((codes == 2) & (np.arange(400) % 2 == 0), 3, codes)  # a label like another one
    left_out = Labelled.of(z, split).left_out()
    shares = {code: (scores < 0.05).mean() for code, scores in left_out.items()}
    assert shares[0] > 0.95
    assert shares[1] > 0.95
    assert shares[2] < 0.4
    assert shares[3] < 0.4
    assert LEAST <= threshold(left_out) <= MOST
    few = np.where(np.arange(400) < K - 1, 3, np.minimum(codes, 1))
    assert 3 not in Labelled.of(z, few).left_out()
    assert threshold({}) == LEAST


def test_the_threshold_rises_where_more_is_found_than_lost():
    found_at_9 = np.concatenate([np.full(80, 0.085), np.full(20, 0.5)]).astype(np.float32)
    assert threshold({0: found_at_9}) == pytest.approx(0.09)
    assert threshold({0: np.full(50, 0.5, np.float32)}) == LEAST
    assert threshold({0: np.full(50, 0.01, np.float32)}) == LEAST


def test_cells_that_lie_apart_as_a_whole_are_not_all_unknown():
    z, codes = cells(500, seed=0, types=(0, 1, 2))
    reference = Labelled.of(z, codes)
    moved = np.concatenate([cells(300, seed=1, types=(0, 1, 2))[0], cells(30, seed=2, types=(3,))[0]])
    moved = (moved + np.random.default_rng(3).normal(size=moved.shape) * 1.2).astype(np.float32)
    assert (reference.score(moved)[:300] < 0.05).mean() > 0.12
    levelled = reference.score(moved, apart_as_a_whole=True)
    assert (levelled[:300] < 0.05).mean() < 0.08
    assert (levelled[300:] < 0.05).mean() > 0.9


def test_references_without_a_scale():
    query = np.array([[0.0], [50.0]], np.float32)
    for z, codes in (([[0.0]], [0]), ([[0.0], [1.0]], [-1, -1]), (np.zeros((0, 1)), [])):
        reference = Labelled.of(np.asarray(z, np.float32), np.asarray(codes, np.int64))
        np.testing.assert_array_equal(reference.score(query), 1)
        assert reference.left_out() == {}
    equal = Labelled.of(np.zeros((30, 1), np.float32), np.arange(30) % 2)
    np.testing.assert_allclose(equal.score(query), [1, 1 / 31])
    assert len(equal.score(query[:0])) == 0


def test_large_references_are_sampled(monkeypatch):
    z, codes = cells(600, seed=0)
    query = cells(50, seed=1)[0]
    whole = Labelled.of(z, codes)
    monkeypatch.setattr(module, "MAX_ASKED", 200)
    monkeypatch.setattr(module, "MAX_LEFT_OUT", 300)
    part = Labelled.of(z, codes)
    assert len(part.reach) == 200
    assert np.abs(part.score(query) - whole.score(query)).max() < 0.1
    assert sum(map(len, part.left_out().values())) == 300
