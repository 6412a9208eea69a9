"""Features that new cells lack: what the recipe puts in their place."""

import numpy as np
import pytest
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.transforms.recipe import Recipe, RecipeOptions


def counts(n=60, p=12, seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.gamma(4, 1, (n, 1))
    return sparse.csr_matrix(rng.poisson(depth * rng.gamma(1, 1, p)).astype(np.float32))


def fitted(x, transform):
    options = RecipeOptions(transform=transform, standardise=False)
    return Recipe.fit(x, var_names=[f"g{j}" for j in range(x.shape[1])], options=options)


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_absent_counts_get_the_share_they_have_in_training_at_the_depth_of_the_cell(layout):
    x = counts()
    recipe = fitted(x, "counts")
    recipe = recipe if layout == "sparse" else Recipe(**{**vars_of(recipe), "dense": True})
    means = np.asarray(x.mean(0)).ravel()
    absent = np.array([1, 5])
    blank = x.toarray()
    blank[:, absent] = 0
    found = recipe.apply(sparse.csr_matrix(blank), absent)
    got = dense_rows(found, np.arange(60))
    depth = blank.sum(1) / np.delete(means, absent).sum()
    np.testing.assert_allclose(got[:, absent], np.outer(depth, means[absent]), rtol=1e-5)
    rest = np.setdiff1d(np.arange(12), absent)
    np.testing.assert_array_equal(got[:, rest], blank[:, rest])


@pytest.mark.parametrize("transform", ["lognorm", "arcsinh", "clr"])
def test_absent_values_that_are_not_standardised_are_the_training_mean(transform):
    x = counts()
    recipe = fitted(x, transform)
    trained = dense_rows(recipe.apply(x), np.arange(60))
    absent = np.array([0, 7])
    got = dense_rows(recipe.apply(x[:10], absent), np.arange(10))
    np.testing.assert_allclose(got[:, absent], np.tile(trained[:, absent].mean(0), (10, 1)), rtol=1e-4)
    np.testing.assert_allclose(np.delete(got, absent, 1), np.delete(trained[:10], absent, 1), rtol=1e-5)


def test_the_means_survive_saving():
    recipe = fitted(counts(), "counts")
    again = Recipe.from_state(*recipe.state())
    np.testing.assert_array_equal(again.means, recipe.means)


def vars_of(recipe):
    return {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}
