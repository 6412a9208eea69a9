"""Principal components against scikit-learn, of sparse and dense matrices."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from mocli.nn.principal import principal_components


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
