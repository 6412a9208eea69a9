"""Principal components: those of scikit-learn, from sparse or dense, whatever the sign."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from mocli.data.bundle import FeatureMatrix
from mocli.data.transforms.components import Components, are_components, principal_scores
from mocli.data.transforms.recipe import Recipe, RecipeOptions

K = 5


def values(n=80, p=30, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 6)) * np.array([6, 5, 4, 3, 2, 1])
    x = factors @ rng.normal(size=(6, p)) + 0.1 * rng.normal(size=(n, p)) + rng.normal(size=p)
    x[rng.random(x.shape) < 0.4] = 0
    return x.astype(np.float32)


def matrix(x, **slots):
    return FeatureMatrix(x, tuple(f"f{j}" for j in range(x.shape[1])), **slots)


def with_signs(found, expected):
    """Columns of `found` turned to point as those of `expected`."""
    return found * np.sign((found * expected).sum(0))


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
def test_scores_are_those_of_scikit_learn_over_one_scale(layout):
    x = values()
    found = Components.fit(matrix(layout(x)), n_components=K, seed=0)
    scores = found.apply(matrix(layout(x)))
    expected = PCA(K, svd_solver="full").fit_transform(x.astype(np.float64))
    expected /= np.sqrt(np.square(expected).mean())
    np.testing.assert_allclose(with_signs(scores.values, expected), expected, rtol=2e-3, atol=2e-4)
    assert np.square(scores.values).mean() == pytest.approx(1, rel=1e-4)
    assert scores.names == ("pc_1", "pc_2", "pc_3", "pc_4", "pc_5")
    assert scores.values.dtype == np.float32
    assert are_components(scores.names)
    assert not are_components(matrix(x).names)
    assert not are_components(())


def test_the_largest_loading_is_positive():
    loadings = Components.fit(matrix(values()), n_components=K, seed=0).loadings
    assert (loadings[np.abs(loadings).argmax(0), np.arange(K)] > 0).all()


def test_another_start_gives_the_same_components():
    first, second = (Components.fit(matrix(values()), n_components=K, seed=s).loadings for s in (0, 1))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)
    again = Components.fit(matrix(values()), n_components=K, seed=0).loadings
    np.testing.assert_array_equal(first, again)


def test_an_offset_changes_nothing():
    x = values()
    offset = np.arange(x.shape[1], dtype=np.float32)
    plain, shifted = matrix(x), matrix(sparse.csr_matrix(x), offset=offset)
    a, b = (Components.fit(f, n_components=K, seed=0).apply(f).values for f in (plain, shifted))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_each_row_stands_for_itself():
    x = values()
    found = Components.fit(matrix(x), n_components=K, seed=0)
    whole = found.apply(matrix(x)).values
    np.testing.assert_allclose(found.apply(matrix(x[7:9])).values, whole[7:9], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
def test_absent_columns_count_as_the_mean(layout):
    x = values()
    found = Components.fit(matrix(x), n_components=K, seed=0)
    absent = np.array([0, 3, 11])
    filled, emptied = x.copy(), x.copy()
    filled[:, absent] = x.mean(0)[absent]
    emptied[:, absent] = 0
    expected = found.apply(matrix(filled)).values
    np.testing.assert_allclose(
        found.apply(matrix(layout(emptied)), absent).values, expected, rtol=1e-3, atol=1e-4
    )
    none = np.zeros(0, np.int64)
    np.testing.assert_array_equal(found.apply(matrix(x), none).values, found.apply(matrix(x)).values)


def test_state_comes_back_bit_for_bit():
    x = values()
    found = Components.fit(matrix(x), n_components=K, seed=0)
    back = Components.from_arrays(found.arrays())
    np.testing.assert_array_equal(back.apply(matrix(x)).values, found.apply(matrix(x)).values)
    assert back.names == found.names


@pytest.mark.parametrize(
    ("shape", "k"), [((3, 5), 2), ((3, 1), 0), ((1, 4), 0), ((4, 2), 1), ((30, 50), 20)], ids=str
)
def test_there_are_as_many_as_the_data_allow(shape, k):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = Components.fit(matrix(x), n_components=20, seed=0)
    scores = found.apply(matrix(x)).values
    assert scores.shape == (shape[0], k)
    assert np.isfinite(scores).all()
    assert len(found.names) == k


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_constant_data_have_scores_of_zero(layout, value):
    x = layout(np.full((12, 8), value, np.float32))
    found = Components.fit(matrix(x), n_components=3, seed=0)
    np.testing.assert_allclose(found.apply(matrix(x)).values, 0, atol=1e-5)
    assert np.isfinite(found.loadings).all()


def test_principal_scores_keep_the_scale_of_the_features():
    x = values()
    scores = principal_scores(matrix(sparse.csr_matrix(x)), n_components=K, seed=0)
    expected = PCA(K, svd_solver="full").fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(with_signs(scores, expected), expected, rtol=2e-3, atol=2e-3)


# within a recipe


def counts(n=60, p=40, seed=0):
    rng = np.random.default_rng(seed)
    profile = rng.gamma(0.5, 1.0, size=(4, p)) + 0.02
    x = rng.poisson(profile[rng.integers(0, 4, n)] * 3)
    return sparse.csr_matrix(x.astype(np.float32))


def fitted(x, **options):
    names = [f"g{j}" for j in range(x.shape[1])]
    return Recipe.fit(x, var_names=names, options=RecipeOptions("lognorm", n_pcs=6, **options))


def test_a_recipe_projects_its_standardised_features():
    x = counts()
    recipe = fitted(x)
    whole = Recipe.fit(x, var_names=recipe.feature_names, options=RecipeOptions("lognorm")).apply(x)
    dense = np.asarray(whole.values.todense() if sparse.issparse(whole.values) else whole.values)
    expected = PCA(6, svd_solver="full").fit_transform(dense.astype(np.float64))
    expected /= np.sqrt(np.square(expected).mean())
    scores = recipe.apply(x)
    np.testing.assert_allclose(with_signs(scores.values, expected), expected, rtol=1e-2, atol=1e-3)
    assert recipe.names == scores.names == tuple(f"pc_{j + 1}" for j in range(6))
    assert recipe.feature_names == tuple(f"g{j}" for j in range(40))


def test_a_recipe_comes_back_bit_for_bit():
    x = counts()
    recipe = fitted(x)
    json, arrays = recipe.state()
    back = Recipe.from_state(json, arrays)
    absent = np.array([1, 5])
    np.testing.assert_array_equal(back.apply(x).values, recipe.apply(x).values)
    np.testing.assert_array_equal(back.apply(x, absent).values, recipe.apply(x, absent).values)


@pytest.mark.parametrize("n_pcs", [None, 0, 40, 400])
def test_no_more_features_than_components_stay_features(n_pcs):
    x = counts()
    options = RecipeOptions("lognorm", n_pcs=n_pcs)
    recipe = Recipe.fit(x, var_names=[f"g{j}" for j in range(40)], options=options)
    assert recipe.components is None
    assert recipe.names == recipe.feature_names


@pytest.mark.parametrize("n_pcs", [None, 6])
@pytest.mark.parametrize("density", [0.1, 0.9])
def test_features_not_measured_count_as_the_mean_in_a_recipe(n_pcs, density):
    """Other columns are untouched; which values an absent column holds does not matter."""
    rng = np.random.default_rng(1)
    x = np.where(rng.random((60, 40)) < density, rng.poisson(4, (60, 40)) + 1, 0).astype(np.float32)
    names = [f"g{j}" for j in range(40)]
    # identity: nothing depends on a cell's total
    recipe = Recipe.fit(sparse.csr_matrix(x), var_names=names, options=RecipeOptions("identity", n_pcs=n_pcs))
    absent = np.array([2, 3, 30])
    other = x.copy()
    other[:, absent] = 0
    at_mean = x.copy().astype(np.float32)
    at_mean[:, absent] = x[:, absent].mean(0)
    found = recipe.apply(sparse.csr_matrix(other), absent)
    expected = recipe.apply(sparse.csr_matrix(at_mean))
    from mocli.data.batches import dense_rows

    every = np.arange(60)
    np.testing.assert_allclose(dense_rows(found, every), dense_rows(expected, every), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_recipe_of_very_few_cells(n):
    recipe = fitted(counts(n=n))
    assert np.isfinite(recipe.apply(counts(n=n)).values.data).all()
