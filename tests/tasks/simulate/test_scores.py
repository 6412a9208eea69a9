"""Normal scores of values of which many are equal."""

import numpy as np
import pytest
from scipy import sparse

from mocli.tasks.simulate.copula import normal_scores, pooled, spans


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_spans_are_shares_of_cells_with_less_and_no_more():
    below, within = spans(np.array([[0.0, 5.0], [0.0, 1.0], [2.0, 5.0], [0.0, 7.0]]))
    np.testing.assert_allclose(below.T, [[0, 0, 0.75, 0], [0.25, 0, 0.25, 0.75]])
    np.testing.assert_allclose(within.T, [[0.75, 0.75, 1, 0.75], [0.75, 0.25, 0.75, 1]])


def test_scores_are_normal_and_keep_the_order(rng):
    values = rng.poisson([0.1, 0.5, 20, 0], (2_000, 4)).astype(float)
    scores = normal_scores(
        values, sparse.csr_matrix((2_000, 2_000)), rng.poisson(9, 2_000).astype(float), rng
    )
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.05)
    for x, y in zip(values.T, scores.T, strict=True):
        assert all(y[x < v].max(initial=-np.inf) < y[x == v].min() for v in np.unique(x))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
def test_equal_values_go_with_depth_as_much_as_values_do(rng, correlation):
    """The normal variables behind counts, nine tenths of them 0, correlate with depth as planted."""
    depth = rng.normal(size=3_000)
    hidden = correlation * depth[:, None] + np.sqrt(1 - correlation**2) * rng.normal(size=(3_000, 20))
    values = (hidden > 1.28).astype(float)
    scores = normal_scores(values, sparse.csr_matrix((3_000, 3_000)), np.exp(depth), rng)
    found = [np.corrcoef(depth, y)[0, 1] for y in scores.T]
    assert np.mean(found) == pytest.approx(correlation, abs=0.03)


def test_noisy_numbers_are_drawn_to_their_mean_unless_they_differ(rng):
    noise = np.full(200, 0.04)
    same = pooled(0.3 + 0.2 * rng.normal(size=200), noise)
    assert same.std() < 0.08
    true = rng.normal(size=200)
    apart = pooled(true + 0.2 * rng.normal(size=200), noise)
    assert np.corrcoef(true, apart)[0, 1] > 0.95
    assert apart.std() > 0.8
    np.testing.assert_array_equal(pooled(np.array([0.5]), np.array([1.0])), [0.5])
