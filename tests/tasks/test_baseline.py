"""The baselines' own pieces: principal components against scikit-learn, the cells they place."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from mocli.data.bundle import FeatureMatrix
from mocli.tasks.baseline import N_COMPONENTS, principal_components
from mocli.tasks.evaluate import _baseline_rows, return_freed_memory


def features(n, p, *, dense, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(np.exp(rng.normal(size=(n, 6)) @ rng.normal(size=(6, p)) * 0.5 - 1)).astype(np.float32)
    values = x if dense else sparse.csr_matrix(x)
    return FeatureMatrix(values, tuple(map(str, range(p)))), x


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("shape", [(300, 120), (90, 400)])
def test_principal_components_equal_scikit_learn(shape, dense):
    matrix, x = features(*shape, dense=dense)
    rows = np.arange(0, shape[0], 2)
    got = principal_components(matrix, rows, seed=0)
    k = got.shape[1]
    want = PCA(n_components=k, svd_solver="full").fit_transform(x[rows].astype(float))
    assert k == min(N_COMPONENTS, len(rows) - 1)
    # signs are free
    np.testing.assert_allclose(np.abs(got), np.abs(want), atol=0.02 * np.abs(want).max())
    np.testing.assert_allclose(got @ got.T, want @ want.T, atol=1e-3 * np.abs(want @ want.T).max())


class Sizes:
    def __init__(self, **n):
        self.modalities = {name: type("M", (), {"n_obs": size}) for name, size in n.items()}


def test_partners_are_placed_together_and_drawn_from_everywhere():
    order = np.random.default_rng(1).permutation(900)
    pairs = {("b", "a"): np.stack([order, np.arange(900)], axis=1)}
    rows, moved = _baseline_rows(Sizes(a=1000, b=950), ("a", "b"), pairs, most=300, seed=0)
    assert {len(r) for r in rows.values()} == {300}
    new = moved["a", "b"]
    assert len(new) == 300
    np.testing.assert_array_equal(order[rows["a"][new[:, 0]]], rows["b"][new[:, 1]])
    assert rows["a"].min() < 100
    assert 800 < rows["a"].max() < 900  # not the first ones of the file


def test_freed_memory_can_be_returned_anywhere():
    return_freed_memory()
