"""Neighbour conservation by loops; PCR comparison against components and regression of scikit-learn."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from mocli.metrics import conservation, embedding
from mocli.metrics.conservation import between_share, neighbor_conservation, pcr_comparison
from mocli.metrics.embedding import Embedding


def near(x, k):
    d = cdist(x, x)
    np.fill_diagonal(d, np.inf)
    return [set(row[:k]) for row in np.argsort(d, axis=1, kind="stable")]


def regression(x, group):
    """Variance of all principal components that the group explains."""
    pca = PCA().fit(x)
    scores, design = pca.transform(x), np.eye(group.max() + 1)[group]
    r2 = [LinearRegression().fit(design, s).score(design, s) for s in scores.T]
    return (pca.explained_variance_ * r2).sum() / pca.explained_variance_.sum()


def sample(n=90):
    rng = np.random.default_rng(0)
    own = rng.normal(size=(n, 6)).astype("f4")
    z = (own[:, :3] + rng.normal(size=(n, 3))).astype("f4")
    return own, z


def test_neighbours_that_are_kept():
    own, z = sample()
    rows = np.r_[5:60, 70:90]
    e = Embedding(z={"a": z, "b": z[:10]}, own={"a": (rows, own[rows])})
    (score,) = neighbor_conservation(e)
    before, after = near(own[rows].astype(float), 15), near(z[rows].astype(float), 15)
    expected = np.mean([len(p & q) / 15 for p, q in zip(before, after, strict=True)])
    assert 0.2 < expected < 0.8
    assert score.value == pytest.approx(expected)
    assert (score.n, score.of) == (75, "a")


def test_the_same_places_keep_everything():
    own, _ = sample(2000)
    e = Embedding(z={"a": 3 * own + 1}, own={"a": (np.arange(2000), own)})
    assert neighbor_conservation(e)[0].value == pytest.approx(1.0, abs=2e-3)


def test_variance_between_batches_is_principal_component_regression():
    own, _ = sample()
    batch = np.arange(90) % 3
    own = own + batch[:, None] * np.array([1, 0.5, 0, 0, 0, 0], "f4")
    assert between_share(own, batch) == pytest.approx(regression(own.astype(float), batch), rel=1e-6)


def test_variance_removed():
    own, z = sample()
    batch = {"a": np.arange(90) % 2, "b": np.zeros(90, int)}
    own, z = own + batch["a"][:, None], z + 0.3 * batch["a"][:, None]
    rows = np.arange(80)
    e = Embedding(z={"b": z, "a": z}, batch=batch, own={"a": (rows, own[:80]), "b": (rows, own[:80])})
    (score,) = pcr_comparison(e)  # b has one batch: nothing to remove
    before, after = (regression(x[:80].astype(float), batch["a"][:80]) for x in (own, z))
    assert 0.3 < score.value < 1
    assert score.value == pytest.approx((before - after) / before, rel=1e-5)
    assert (score.n, score.of) == (80, "a")


def test_more_variance_than_before_is_none_removed():
    own, z = sample()
    batch = np.arange(90) % 2
    e = Embedding(z={"a": z + 5 * batch[:, None]}, batch={"a": batch}, own={"a": (np.arange(90), own)})
    assert pcr_comparison(e)[0].value == 0.0
    flat = Embedding(z={"a": z}, batch={"a": batch}, own={"a": (np.arange(90), 0 * own)})
    assert math.isnan(pcr_comparison(flat)[0].value)


def test_many_cells_are_sampled(monkeypatch):
    own, z = sample(600)
    e = {"z": {"a": z}, "own": {"a": (np.arange(600), own)}}
    (exact,) = neighbor_conservation(Embedding(**e))
    monkeypatch.setattr(conservation, "MAX_ASKING", 200)
    (some,) = neighbor_conservation(Embedding(**e))
    assert (exact.n, some.n) == (600, 200)
    assert some.value == pytest.approx(exact.value, abs=0.03)
    monkeypatch.setattr(embedding, "MAX_CELLS", 100)
    assert neighbor_conservation(Embedding(**e))[0].n == 100


def test_own_places_must_fit():
    own, z = sample()
    with pytest.raises(ValueError, match="own coordinates"):
        Embedding(z={"a": z}, own={"a": (np.arange(90), own[:80])})
    with pytest.raises(ValueError, match="do not fit"):
        Embedding(z={"a": z[:80]}, own={"a": (np.arange(90), own)})
