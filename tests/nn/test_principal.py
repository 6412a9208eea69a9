"""Principal components against scikit-learn, of sparse and dense matrices."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from mocli.nn import principal
from mocli.nn.principal import LEAST_SCALE, Measured, joint_components, principal_components


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    x = rng.poisson(np.exp(rng.normal(size=(80, 4)) @ rng.normal(size=(4, 50)) * 0.7)).astype(np.float32)
    return sparse.csr_matrix(x)


@pytest.mark.parametrize("dense", [False, True])
def test_scores_are_those_of_scikit_learn(matrix, dense):
    x = matrix.toarray() if dense else matrix
    found = principal_components(x, 4, seed=0)
    theirs = PCA(4, svd_solver="full").fit(matrix.toarray().astype(np.float64))
    scores = theirs.transform(matrix.toarray())
    ours = found.scores(x)
    assert np.abs(np.diag(np.corrcoef(ours.T, scores.T)[:4, 4:])).min() > 1 - 1e-6
    np.testing.assert_allclose(ours.var(0), scores.var(0), rtol=1e-6)
    assert found.total == pytest.approx(
        np.square(matrix.toarray() - matrix.toarray().mean(0)).sum(), rel=1e-5
    )


def test_no_more_components_than_rows_or_columns(matrix):
    assert principal_components(matrix[:3], 20, seed=0).loadings.shape == (50, 3)
    flat = principal_components(np.zeros((6, 4)), 3, seed=0)
    assert np.isfinite(flat.loadings).all()
    assert flat.total == 0


def test_scaling_divides_columns_by_a_power_of_their_root_mean_square(matrix):
    x = matrix.toarray().astype(np.float64)
    size = np.sqrt(np.square(x).mean(0)) + LEAST_SCALE
    for power in (0.5, 1.0):
        found = principal_components(matrix, 4, seed=0, scaling=power)
        alone = principal_components(x / size**power, 4, seed=0)
        np.testing.assert_allclose(found.scores(matrix), alone.scores(x / size**power), atol=1e-5)
        assert found.total == pytest.approx(alone.total)


def measured(x, depth=None):
    return Measured(sparse.csr_matrix(x.astype(np.float32)), np.arange(len(x)), np.arange(len(x)), depth)


def test_joint_components_shrink_what_is_noise():
    """Of a modality without structure hardly anything is left, of planted axes nearly all."""
    rng = np.random.default_rng(0)
    n, axes = 300, rng.normal(size=(300, 2))
    planted = axes @ rng.normal(size=(2, 90)) * 2 + rng.normal(size=(n, 90))
    noise = rng.normal(size=(n, 400))
    alone = joint_components([measured(planted)], n, 4, batch=None, seed=0, cleaned=True).var(0)
    assert alone[1] > 20 * alone[2]
    both = joint_components([measured(planted), measured(noise)], n, 4, batch=None, seed=0, cleaned=True)
    q = np.linalg.qr(axes - axes.mean(0))[0]
    assert np.square(q.T @ both[:, :2]).sum() > 0.97 * np.square(both[:, :2]).sum()
    assert both.var(0)[2] < 0.022 * both.var(0)[1]


def test_rare_counts_have_a_say_in_joint_components():
    """Frequent features that say nothing do not hide a pattern of many rare ones."""
    rng = np.random.default_rng(1)
    kind = rng.integers(2, size=400)
    rare = rng.poisson(np.where(np.arange(120) % 2 == kind[:, None], 0.3, 0.1))
    x = np.hstack([rng.poisson(rng.gamma(0.1, 20, size=(400, 3))), rare])
    z = joint_components([measured(x, np.median(x.sum(1)))], 400, 1, batch=None, seed=0, cleaned=True)[:, 0]
    assert abs(np.corrcoef(z, kind)[0, 1]) > 0.8


def test_joint_components_of_some_rows_at_a_time_are_the_same(monkeypatch):
    """Also with cells that lack a modality, and with batches, whose means are the same afterwards."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 30)) @ rng.normal(size=(30, 70)), rng.normal(size=(40, 60))
    modalities = [measured(x), measured(y)._replace(cells=np.arange(20, 60))]
    batch = np.repeat([3, 5], 30)
    whole = joint_components(modalities, 60, 5, batch=batch, seed=0, cleaned=True)
    monkeypatch.setattr(principal, "ROWS", 7)
    np.testing.assert_allclose(
        joint_components(modalities, 60, 5, batch=batch, seed=0, cleaned=True), whole, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(whole.reshape(2, 30, 5).mean(1), 0, atol=1e-9)
    assert (
        np.abs(whole[0] - joint_components(modalities, 60, 5, batch=None, seed=0, cleaned=True)[0]).max()
        > 1e-3
    )
