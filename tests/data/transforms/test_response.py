"""A recipe's answer to one changed value, against the recipe applied again."""

import numpy as np
import pytest
from scipy import sparse

from mocli.data.batches import densify
from mocli.data.transforms.recipe import Recipe, RecipeOptions, RecipeResponse

N, P = 60, 14
SINK = P - 1  # takes up what a feature loses, so that totals are held


def counts():
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(1.0, 3.0, P), (N, P)).astype(np.float32)
    x[:, 5] = 0  # constant
    x[:, SINK] = 400
    return sparse.csr_matrix(x)


def apply(recipe, x):
    features = recipe.apply(sparse.csr_matrix(x))
    values = densify(features.values)
    return values if features.offset is None else values + features.offset


@pytest.mark.parametrize("n_pcs", [None, 5])
@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("transform", ["lognorm", "arcsinh", "identity", "counts"])
def test_equals_the_recipe_applied_again(transform, clip, n_pcs):
    x = counts()
    options = RecipeOptions(transform=transform, n_top=None, clip=clip, n_pcs=n_pcs)
    recipe = Recipe.fit(x, var_names=[f"g{j}" for j in range(P)], options=options)
    response = RecipeResponse.of(recipe)
    factor = response.factor(x)
    before = apply(recipe, x)
    for column in (0, 3, 5, 9):
        raw = densify(x)
        changed = raw.copy()
        changed[:, column] = np.round(raw[:, column] * 0.5)
        changed[:, SINK] += raw[:, column] - changed[:, column]
        delta = np.zeros((N, len(response.used)))
        for j in (column, SINK):
            at = np.full(N, response.place[j])
            delta[:, response.place[j]] = response.values(
                changed[:, j].astype(float), factor, at
            ) - response.values(raw[:, j].astype(float), factor, at)
        moved = delta if response.directions is None else delta @ response.directions
        np.testing.assert_allclose(apply(recipe, changed) - before, moved, atol=2e-4)


def test_tfidf_and_lsi_answer_by_the_components():
    x = counts()
    options = RecipeOptions(transform="tfidf-lsi", n_components=6)
    recipe = Recipe.fit(x, var_names=[f"p{j}" for j in range(P)], options=options)
    response = RecipeResponse.of(recipe)
    raw = densify(x)
    changed = raw.copy()
    changed[:, 2] = 0
    changed[:, SINK] += raw[:, 2]
    delta = np.zeros((N, P))
    for j in (2, SINK):
        at = np.full(N, j)
        values = [response.values(v[:, j].astype(float), response.factor(x), at) for v in (raw, changed)]
        delta[:, j] = values[1] - values[0]
    np.testing.assert_allclose(
        apply(recipe, changed) - apply(recipe, x), delta @ response.directions, atol=1e-4
    )


def test_features_that_are_not_selected_answer_nothing():
    x = counts()
    recipe = Recipe.fit(x, var_names=[f"g{j}" for j in range(P)], options=RecipeOptions("counts", n_top=4))
    response = RecipeResponse.of(recipe)
    assert list(response.used) == list(recipe.selected)
    assert (response.place[np.setdiff1d(np.arange(P), recipe.selected)] == -1).all()
