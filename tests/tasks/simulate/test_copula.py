"""Correlations of real cells over margins of simulated ones, on cells whose correlations are planted."""

import numpy as np
import pytest
from scipy import sparse

from mocli.tasks.simulate.copula import impose_correlations, means_nearby, mixing_weights, quantiles


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def planted(rng, n):
    """Counts of 6 features, of which the first three go together at the same latent coordinates."""
    shared = rng.normal(size=(n, 1)) * np.array([1, 1, 1, 0, 0, 0])
    return rng.poisson(np.exp(1.5 + 0.8 * shared + 0.1 * rng.normal(size=(n, 6)))).astype(np.float32)


def test_weights_keep_means_and_covariances(rng):
    z = rng.normal(size=(200, 3)).astype(np.float32)
    weights = mixing_weights(z[:50], z, rng)
    np.testing.assert_allclose(np.asarray(weights.sum(axis=1)).ravel(), 1, atol=1e-6)
    np.testing.assert_allclose(np.asarray(weights.power(2).sum(axis=1)).ravel(), 1, atol=1e-6)


@pytest.mark.parametrize("margins", ["likelihood", "real"])
def test_features_go_together_as_in_real_cells(rng, margins):
    real, drawn = planted(rng, 600), rng.poisson(5.0, (400, 6)).astype(np.float32)
    z = np.zeros((600, 2), np.float32) + rng.normal(0, 1, (600, 2)).astype(np.float32)
    weights = mixing_weights(z[:400], z, rng)
    given = [sparse.csr_matrix(x) for x in (drawn, real)]
    made = impose_correlations(*given, weights, means_nearby(z), rng, margins=margins).toarray()
    found, wanted = np.corrcoef(made.T), np.corrcoef(real.T)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.15
    assert found[0, 1] > 0.5
    assert np.abs(found - wanted).max() < 0.3
    if margins == "likelihood":
        np.testing.assert_array_equal(np.sort(made, axis=0), np.sort(drawn, axis=0))
    else:
        np.testing.assert_allclose(np.median(made, axis=0), np.median(real, axis=0), atol=1)
        assert (np.asarray(made) == np.rint(made)).all()


def test_features_that_real_cells_lack_stay_as_drawn(rng):
    real, drawn = planted(rng, 100), rng.poisson(5.0, (40, 6)).astype(np.float32)
    weights = mixing_weights(np.zeros((40, 2), np.float32), np.zeros((100, 2), np.float32), rng)
    made = impose_correlations(
        *(sparse.csr_matrix(x) for x in (drawn, real)),
        weights,
        sparse.eye(100, format="csr"),
        rng,
        margins="real",
        absent=np.array([4]),
    ).toarray()
    np.testing.assert_array_equal(np.asarray(made)[:, 4], drawn[:, 4])


def test_quantiles():
    x = np.array([[0.0], [1.0], [3.0]])
    np.testing.assert_allclose(quantiles(x, 3, whole=True).ravel(), [0, 1, 3])
    assert quantiles(x, 7, whole=False).ravel()[3] == pytest.approx(1.0)


def remade(rng, place, real):
    """Cells at the places of real ones, in the order of combined real cells, on their margins."""
    weights, nearby = mixing_weights(place, place, rng), means_nearby(place)
    return impose_correlations(real, real, weights, nearby, rng, margins="real")


def test_shallow_cells_differ_in_depth_as_real_ones_do(rng):
    """Most values are 0, and only the depth of a cell is common to its features."""
    depth, place = np.exp(0.6 * rng.normal(size=(400, 1))), rng.normal(size=(400, 2)).astype(np.float32)
    real = sparse.csr_matrix(rng.poisson(0.05 * depth, (400, 800)).astype(np.float32))
    made = remade(rng, place, real)
    spread = [np.log(np.asarray(x.sum(1)).ravel()).std() for x in (real, made)]
    assert spread[1] == pytest.approx(spread[0], rel=0.15)


def test_places_that_say_nothing_make_no_correlations(rng):
    place = rng.normal(size=(400, 2)).astype(np.float32)
    real = sparse.csr_matrix(rng.poisson(0.1, (400, 300)).astype(np.float32))
    made = remade(rng, place, real)
    largest = [np.linalg.eigvalsh(np.cov(x.toarray().T))[-5:].mean() for x in (real, made)]
    assert largest[1] == pytest.approx(largest[0], rel=0.2)


def test_modalities_of_shallow_cells_stay_together(rng):
    """A shared place makes counts of both; most are 0, and in random order they would tell little of it."""
    place = rng.normal(size=(400, 1)).astype(np.float32)
    # half of the features go up, half down: depth says nothing of the place
    slope = np.repeat([1, -1], 30)
    real = [
        sparse.csr_matrix(rng.poisson(np.exp(place * slope - 2), (400, 60)).astype(np.float32))
        for _ in range(2)
    ]
    together = {}
    for name in ("real", "made"):
        cells = real if name == "real" else [remade(np.random.default_rng(1), place, x) for x in real]
        together[name] = np.corrcoef(*(x @ slope for x in cells))[0, 1]
    assert together["made"] > 0.8 * together["real"]
