"""Values of all features from a latent: on every scale what numpy makes of the counts, kept bit for bit."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.data.files.inputs import open_inputs
from mocli.data.transforms.recipe import Recipe, RecipeOptions
from mocli.errors import UsageError
from mocli.tasks.trained.featurereadout import FeatureReadout

N, P = 90, 12


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    profile = rng.gamma(1.0, 3.0, (3, P))
    x = rng.poisson(profile[np.arange(N) % 3] * rng.uniform(0.5, 2, (N, 1))).astype(np.float32)
    x[:, 5] = 0
    return x


@pytest.fixture(scope="module")
def latent():
    rng = np.random.default_rng(1)
    return (np.eye(3)[np.arange(N) % 3] * 4 + rng.normal(size=(N, 3))).astype(np.float32)


@pytest.fixture
def fitted(counts, latent, tmp_path):
    def fit(transform, x=counts, **options):
        a = ad.AnnData(sparse.csr_matrix(x), obs=pd.DataFrame(index=[f"c{i}" for i in range(N)]))
        a.write_h5ad(tmp_path / "m.h5ad")
        (file,) = open_inputs([f"rna={tmp_path / 'm.h5ad'}"], kinds={})
        recipe = Recipe.fit(
            sparse.csr_matrix(x),
            var_names=[f"g{j}" for j in range(P)],
            options=RecipeOptions(transform, **options),
        )
        return FeatureReadout.fit(file, "X", recipe, latent, seed=0)

    return fit


def at_depth(x, depth):
    total = x.sum(1, keepdims=True)
    return x / np.where(total > 0, total, 1) * depth


EVERY = np.arange(P)


@pytest.mark.parametrize("transform", ["lognorm", "tfidf-lsi"])
def test_counts_are_logged_at_the_median_depth(fitted, counts, transform):
    found = fitted(transform)
    assert found.depth == pytest.approx(np.median(counts.sum(1)))
    x = sparse.csr_matrix(counts)
    log = np.log1p(at_depth(counts, found.depth))
    np.testing.assert_allclose(found.measured(x, "log", EVERY), log, rtol=1e-5)
    np.testing.assert_allclose(found.measured(x, "counts", EVERY), at_depth(counts, found.depth), rtol=1e-5)
    spread = np.where(log.std(0) > 0, log.std(0), 1)
    scaled = (log - log.mean(0)) / spread
    np.testing.assert_allclose(found.measured(x, "scaled", EVERY), scaled, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(x.toarray(), counts)


def test_moments_are_those_of_the_values(fitted, counts):
    found = fitted("lognorm")
    x = sparse.csr_matrix(counts)
    for scale in ("log", "counts"):
        values = found.measured(x, scale, EVERY)
        mean, deviation = found.moments(scale)
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(deviation, values.std(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found.moments("scaled"), (np.zeros(P), np.ones(P)))


@pytest.mark.parametrize("scale", ["log", "counts", "scaled"])
def test_predictions_follow_the_groups_and_stay_above_the_floor(fitted, counts, latent, scale):
    found = fitted("lognorm")
    measured = found.measured(sparse.csr_matrix(counts), scale, EVERY)
    predicted = found.predict(latent, scale, EVERY)
    if scale != "scaled":
        assert (predicted >= 0).all()
    varies = measured.std(0) > 0
    r = [np.corrcoef(predicted[:, j], measured[:, j])[0, 1] for j in np.flatnonzero(varies)]
    assert np.median(r) > 0.5
    columns = np.array([7, 1])
    np.testing.assert_allclose(
        found.predict(latent, scale, columns), predicted[:, columns], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        found.measured(sparse.csr_matrix(counts), scale, columns), measured[:, columns], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("scale", ["log", "counts", "scaled"])
def test_features_not_measured_are_no_zeros(fitted, counts, scale):
    found = fitted("lognorm").measured(
        sparse.csr_matrix(counts), scale, np.array([3, 8, 1]), np.array([8, 2])
    )
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[:, [0, 2]]).all()


@pytest.mark.parametrize("transform", ["identity", "arcsinh"])
def test_values_that_are_no_counts_have_no_counts(fitted, counts, transform):
    found = fitted(transform, x=counts - 2 * (transform == "identity"))
    assert found.floor is None
    found.check_scale("log", "rna")
    found.check_scale("scaled", "rna")
    with pytest.raises(UsageError, match="rna did not hold counts"):
        found.check_scale("counts", "rna")


def test_clr_has_counts_too(fitted, counts):
    found = fitted("clr")
    found.check_scale("counts", "prot")
    x = sparse.csr_matrix(counts)
    assert found.measured(x, "log", EVERY).min() >= 0
    np.testing.assert_allclose(found.measured(x, "counts", EVERY), at_depth(counts, found.depth), rtol=1e-5)


def test_it_comes_back_bit_for_bit(fitted, counts, latent):
    found = fitted("lognorm")
    back = FeatureReadout.from_state(*found.state())
    for scale in ("log", "counts", "scaled"):
        np.testing.assert_array_equal(back.predict(latent, scale, EVERY), found.predict(latent, scale, EVERY))
        x = sparse.csr_matrix(counts)
        np.testing.assert_array_equal(back.measured(x, scale, EVERY), found.measured(x, scale, EVERY))
    assert back.n_vars == P
