"""The readout: scikit-learn's ridge regression on the same basis, however the rows come."""

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import nnls
from sklearn.linear_model import Ridge

from mocli.nn import readout
from mocli.nn.readout import Basis, Readout


def cells(n=300, p=7, seed=0):
    """A latent of four groups, and non-negative values that follow it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(4, 3))[rng.integers(0, 4, n)] * 3 + rng.normal(size=(n, 3))
    x = np.abs(z @ rng.normal(size=(3, p)) + 0.3 * rng.normal(size=(n, p)))
    x[rng.random(x.shape) < 0.3] = 0
    return z.astype(np.float32), x.astype(np.float32)


def in_blocks(x, size):
    return [(slice(i, min(i + size, x.shape[0])), x[i : i + size]) for i in range(0, x.shape[0], size)]


def fit(z, x, size=None, seed=0):
    return Readout.fit(Basis.fit(z, seed=seed), z, in_blocks(x, size or x.shape[0]))


def test_weights_are_normalised_gaussians_less_their_mean():
    z, _ = cells()
    basis = Basis.fit(z, seed=0)
    assert basis.centers.shape == (readout.N_PROTOTYPES, 3)
    squares = np.square(z[:, None].astype(np.float64) - basis.centers).sum(2)
    near = np.exp(-0.5 * squares / basis.width**2)
    near /= near.sum(1, keepdims=True)
    np.testing.assert_allclose(basis.weights(z), near - near.mean(0), atol=2e-5)
    third = np.sqrt(np.sort(squares, axis=1)[:, readout.NEAR - 1])
    assert basis.width == pytest.approx(np.median(third), rel=1e-4)


def test_it_is_ridge_regression_on_the_basis():
    z, x = cells()
    found = fit(z, x)
    weights = found.basis.weights(z).astype(np.float64)
    centred = weights - weights.mean(0)
    penalty = readout.RIDGE * np.trace(centred.T @ centred) / weights.shape[1]
    expected = Ridge(alpha=penalty).fit(weights, x.astype(np.float64))
    np.testing.assert_allclose(found.coefficients, expected.coef_.T, rtol=1e-3, atol=1e-4)
    new = cells(seed=1)[0]
    np.testing.assert_allclose(
        found.predict(new), expected.predict(found.basis.weights(new)), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.deviation, x.std(0), rtol=1e-5)
    assert found.n_vars == 7


@pytest.mark.parametrize("size", [1, 37, 300])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
def test_sparse_or_dense_whole_or_in_blocks_it_is_the_same(size, layout):
    z, x = cells()
    whole, found = fit(z, x), fit(z, layout(x), size)
    for part in ("coefficients", "intercept", "mean", "deviation"):
        np.testing.assert_allclose(getattr(found, part), getattr(whole, part), rtol=1e-3, atol=1e-4)


def test_columns_are_columns_of_the_whole():
    z, x = cells()
    found = fit(z, x)
    columns = np.array([5, 0])
    np.testing.assert_allclose(found.predict(z, columns), found.predict(z)[:, columns], rtol=1e-5, atol=1e-6)


def test_predictions_stay_near_the_data_even_far_away():
    z, x = cells()
    found = fit(z, x)
    far = np.concatenate([z, 1000 * z, np.zeros((1, 3), np.float32)])
    predicted = found.predict(far)
    assert np.isfinite(predicted).all()
    room = 0.25 * (x.max(0) - x.min(0))
    assert (predicted > x.min(0) - room).all()
    assert (predicted < x.max(0) + room).all()


def test_it_follows_what_it_was_fitted_on():
    z, x = cells()
    predicted = fit(z, x).predict(z)
    r = [np.corrcoef(predicted[:, j], x[:, j])[0, 1] for j in range(7)]
    assert min(r) > 0.3
    np.testing.assert_allclose(predicted.mean(0), x.mean(0), rtol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_cells_have_few_prototypes(n):
    z, x = cells(n=n)
    found = fit(z, x)
    assert len(found.basis.centers) == max(1, n // 2)
    predicted = found.predict(z)
    assert np.isfinite(predicted).all()
    if n < 4:  # one prototype tells nothing apart
        np.testing.assert_allclose(predicted, np.broadcast_to(x.mean(0), x.shape), rtol=1e-4, atol=1e-5)


def test_a_constant_latent_gives_the_mean():
    _, x = cells()
    z = np.full((300, 3), 0.7, np.float32)
    found = fit(z, x)
    new = cells(seed=1)[0]
    np.testing.assert_allclose(found.predict(new), np.broadcast_to(x.mean(0), (300, 7)), rtol=1e-4)


def test_duplicated_cells():
    z, x = cells(n=10)
    z, x = np.repeat(z, 30, axis=0), np.repeat(x, 30, axis=0)
    found = fit(z, x)
    assert len(found.basis.centers) == 5
    assert np.isfinite(found.predict(z)).all()
    two = np.repeat(np.array([[0, 0], [9, 9]], np.float32), 50, axis=0)
    assert np.isfinite(fit(two, x[:100]).predict(two)).all()


def test_more_prototypes_than_kinds_of_cells_never_divide_by_nothing():
    """Every prototype on a cell: the width would be 0 with one prototype near."""
    z = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0)
    x = cells(n=100)[1]
    predicted = fit(z, x).predict(z)
    assert np.isfinite(predicted).all()


@pytest.mark.parametrize("value", [0, 1e-3, 0.1, 0.7, 3.3, 7.77, 1234.5])
@pytest.mark.parametrize("size", [64, 300])
def test_constant_features_have_no_spread(value, size):
    """Not the rounding of their squares, by which values would be divided."""
    z, x = cells()
    x[:, 0] = value
    found = fit(z, x, size)
    assert found.deviation[0] == 0
    assert (found.deviation[1:] > 0).all()
    np.testing.assert_allclose(found.predict(z)[:, 0], value, rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_bytes():
    z, x = cells()
    first, second = fit(z, x), fit(z, x)
    np.testing.assert_array_equal(first.coefficients, second.coefficients)


def test_stacking_finds_the_best_weights_that_are_not_negative():
    rng = np.random.default_rng(0)
    said = rng.normal(size=(500, 3))
    for true in ([0.7, 0.2, 0.0], [0.9, 0.0, -0.5]):
        y = said @ true + 0.01 * rng.normal(size=500)
        weights = readout.non_negative(said.T @ said, said.T @ y)
        expected, _ = nnls(said, y)
        np.testing.assert_allclose(weights, expected, atol=5e-3)
        assert weights.min() >= 0
    assert (readout.non_negative(np.zeros((2, 2)), np.zeros(2)) == 0).all()
