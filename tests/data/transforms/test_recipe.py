from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mocli.data.batches import densify
from mocli.data.transforms.components import Lsi, tfidf
from mocli.data.transforms.linkrecipe import LinkRecipe
from mocli.data.transforms.recipe import Recipe, RecipeOptions, default_transform, highly_variable, seen
from mocli.data.transforms.transform import LOGNORM, TRANSFORMS, Transform, moments
from mocli.errors import InputError, UsageError
from mocli.types import ModalityKind, ValueKind

REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"


def counts(n: int = 60, p: int = 30, *, density: float = 0.3, seed: int = 0) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.poisson(rng.gamma(2.0, 2.0, size=p), size=(n, p)) * (rng.random((n, p)) < density)
    dense[3] = 0  # an empty cell
    return sparse.csr_matrix(dense.astype(np.float32))


def names(p: int) -> tuple[str, ...]:
    return tuple(f"g{j}" for j in range(p))


def dense(features) -> np.ndarray:
    values = features.values.toarray() if sparse.issparse(features.values) else features.values
    return values if features.offset is None else values + features.offset


def fit(x, transform: str, **options) -> Recipe:
    keep = options.pop("keep", ())
    return Recipe.fit(x, var_names=names(x.shape[1]), options=RecipeOptions(transform, **options), keep=keep)


def standardised(x: np.ndarray) -> np.ndarray:
    std = x.std(axis=0)
    return np.where(std > 0, (x - x.mean(axis=0)) / np.where(std > 0, std, 1), 0)


def by_hand(x: np.ndarray, transform: str) -> np.ndarray:
    x = x.astype(np.float64)
    total = x.sum(axis=1, keepdims=True)
    if transform == "lognorm":
        return np.log1p(x / np.where(total > 0, total, 1) * np.median(total[total > 0]))
    if transform == "clr":
        return np.stack([np.log1p(row / np.exp(np.sum(np.log1p(row[row > 0])) / len(row))) for row in x])
    if transform == "arcsinh":
        return np.arcsinh(x / 5)
    return x


@pytest.mark.parametrize("density", [0.2, 0.95])
@pytest.mark.parametrize("transform", ["lognorm", "clr", "arcsinh", "identity"])
def test_element_wise_transforms_equal_their_formulas(transform, density):
    x = counts(density=density)
    before = x.copy()
    recipe = fit(x, transform)
    features = recipe.apply(x)
    np.testing.assert_allclose(dense(features), standardised(by_hand(x.toarray(), transform)), atol=2e-5)
    assert sparse.issparse(features.values) == (density < 0.5) == (not recipe.dense)
    assert features.values.dtype == np.float32
    np.testing.assert_allclose(
        recipe.unscale(dense(features)), by_hand(x.toarray(), transform), atol=2e-5, rtol=1e-5
    )
    assert (x != before).nnz == 0
    assert np.array_equal(x.data, before.data)


def test_counts_are_left_as_they_are():
    x = counts()
    features = fit(x, "counts").apply(x)
    assert features.offset is None
    assert np.array_equal(dense(features), x.toarray())


def test_lognorm_agrees_with_scanpy():
    import scanpy as sc
    from anndata import AnnData

    x = counts()
    x = x[np.diff(x.indptr) > 0]  # scanpy's median counts empty cells, ours does not
    data = AnnData(x.copy())
    sc.pp.normalize_total(data)
    sc.pp.log1p(data)
    recipe = fit(x, "lognorm", standardise=False)
    np.testing.assert_allclose(dense(recipe.apply(x)), data.X.toarray(), rtol=1e-5)


def test_target_sum_is_measured_on_training_cells_and_kept_for_new_ones():
    x = counts()
    recipe = fit(x, "lognorm", standardise=False)
    total = np.asarray(x.sum(axis=1)).ravel()
    assert recipe.target_sum == np.median(total[total > 0])
    deeper = recipe.apply(x * 7)
    np.testing.assert_allclose(dense(deeper), dense(recipe.apply(x)), rtol=1e-5)
    assert fit(x, "lognorm", target_sum=1e4).target_sum == 1e4


def test_moments_of_sparse_columns_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr("mocli.data.transforms.transform._CHUNK", 7)
    x = counts()
    mean, variance = moments(x)
    np.testing.assert_allclose(mean, x.toarray().mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, x.toarray().var(axis=0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("density", [0.2, 0.95])
def test_clipping_bounds_every_standardised_value(density):
    x = counts(density=density)
    recipe = fit(x, "lognorm", clip=0.5)
    expected = np.clip(standardised(by_hand(x.toarray(), "lognorm")), -0.5, 0.5)
    np.testing.assert_allclose(dense(recipe.apply(x)), expected, atol=2e-5)


@pytest.mark.parametrize("transform", [t for t in TRANSFORMS if t != "counts"])
@pytest.mark.parametrize("density", [0.2, 0.95])
def test_constant_features_and_empty_cells_stay_finite(transform, density):
    x = counts(density=density).tolil()
    x[:, 4] = 0
    x = x.tocsr()
    recipe = fit(x, transform, n_components=5)
    values = dense(recipe.apply(x))
    assert np.isfinite(values).all()
    if transform != "tfidf-lsi":
        assert "g4" in recipe.constant_names
        assert recipe.n_constant >= 1
        assert not values[:, 4].any()
        new = x.tolil()
        new[0, 4] = 50
        assert not dense(recipe.apply(new.tocsr()))[:, 4].any()


def test_a_constant_non_zero_column_is_constant():
    x = np.random.default_rng(0).random((5000, 3)).astype(np.float32)
    x[:, 1] = 0.1
    recipe = fit(sparse.csr_matrix(x), "identity")
    assert recipe.constant_names == ("g1",)


def test_one_cell_and_an_all_zero_matrix_are_finite():
    for x in (counts()[:1], sparse.csr_matrix((4, 6), dtype=np.float32)):
        for transform in TRANSFORMS:
            assert np.isfinite(dense(fit(x, transform).apply(x))).all()


def test_unsorted_and_duplicated_entries_count_once():
    x = sparse.csr_matrix(
        (np.array([1, 2, 3], np.float32), np.array([2, 0, 2]), np.array([0, 3, 3])), shape=(2, 3)
    )
    x.has_canonical_format = False
    recipe = fit(x, "arcsinh", standardise=False)
    np.testing.assert_allclose(dense(recipe.apply(x))[0], np.arcsinh(np.array([2, 0, 4]) / 5), rtol=1e-6)
    assert x.nnz == 3


def test_highly_variable_features_are_scanpys_and_keep_their_order():
    import scanpy as sc
    from anndata import AnnData

    x = counts(200, 120, seed=3)
    x = sparse.csr_matrix(x.multiply(np.random.default_rng(1).gamma(0.5, 9.0, size=(200, 120))).rint())
    x = x[np.asarray(x.sum(axis=1)).ravel() > 0]
    recipe = fit(x.astype(np.float32), "lognorm", n_top=40)
    data = AnnData(x.astype(np.float32))
    sc.pp.normalize_total(data)
    sc.pp.log1p(data)
    table = sc.pp.highly_variable_genes(data, flavor="seurat", n_top_genes=40, inplace=False)
    assert recipe.selected.tolist() == np.flatnonzero(table["highly_variable"]).tolist()
    assert recipe.names == tuple(f"g{j}" for j in recipe.selected)
    # the totals are still those of all features
    full = by_hand(x.toarray(), "lognorm")[:, recipe.selected]
    np.testing.assert_allclose(dense(recipe.apply(x)), standardised(full), atol=1e-4)


def test_kept_columns_join_the_variable_ones():
    x = counts(80, 50)
    without = set(fit(x, "counts", n_top=10).selected.tolist())
    extra = sorted(set(range(50)) - without)[:4]
    assert set(fit(x, "counts", n_top=10, keep=extra).selected.tolist()) == without | set(extra)


def test_other_scales_are_ranked_by_variance():
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.normal(scale=np.arange(1, 21), size=(400, 20)).astype(np.float32))
    assert fit(x, "identity", n_top=5).selected.tolist() == [15, 16, 17, 18, 19]


def test_many_cells_are_sampled_for_ranking(monkeypatch):
    monkeypatch.setattr("mocli.data.transforms.recipe.HVG_CELLS", 50)
    x = counts(200, 40)
    assert np.array_equal(fit(x, "lognorm", n_top=9).selected, fit(x, "lognorm", n_top=9).selected)


def planted_peaks(n: int = 300, p: int = 400) -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, n)
    rate = rng.gamma(1.0, 0.05, size=(3, p))
    depth = rng.lognormal(0, 0.8, n)
    return sparse.csr_matrix(rng.poisson(rate[groups] * depth[:, None] * 3).astype(np.float32)), groups


def test_tfidf_equals_its_formula():
    x, _ = planted_peaks(50, 40)
    d = x.toarray().astype(np.float64)
    idf = len(d) / (1 + (d > 0).sum(axis=0))
    total = d.sum(axis=1, keepdims=True)
    expected = np.log1p(d / np.where(total > 0, total, 1) * idf * 1e4)
    np.testing.assert_allclose(tfidf(x, idf.astype(np.float32)).toarray(), expected, rtol=1e-4)


def test_lsi_spans_the_exact_singular_vectors_and_drops_depth():
    x, groups = planted_peaks()
    lsi = Lsi.fit(x, n_components=3, seed=0)
    exact = np.linalg.svd(tfidf(x, lsi.idf).toarray(), full_matrices=False)[2]
    for row, number in zip(lsi.components, lsi.kept, strict=True):
        assert abs(row @ exact[number]) > 0.98
    assert 0 not in lsi.kept
    assert abs(lsi.depth_correlation[0]) > 0.75
    assert all(abs(lsi.depth_correlation[lsi.kept]) <= 0.75)
    recipe = fit(x, "tfidf-lsi", n_components=10)
    z = dense(recipe.apply(x))
    assert recipe.names[0] == f"lsi_{recipe.lsi.kept[0] + 1}"
    assert z.shape == (300, len(recipe.names))
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-3)
    centre = np.stack([z[groups == g].mean(axis=0) for g in range(3)])
    nearest = ((z[:, None] - centre) ** 2)[:, :, :2].sum(axis=2).argmin(axis=1)
    assert (nearest == groups).mean() > 0.95


def test_lsi_fits_on_a_sample_and_projects_all_in_blocks(monkeypatch):
    x, _ = planted_peaks()
    whole = fit(x, "tfidf-lsi", n_components=6)
    expected = whole.lsi.apply(x)
    monkeypatch.setattr("mocli.data.transforms.components._ROWS", 17)
    np.testing.assert_allclose(whole.lsi.apply(x), expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr("mocli.data.transforms.components.FIT_CELLS", 100)
    sampled = fit(x, "tfidf-lsi", n_components=6)
    assert sampled.apply(x).n_obs == 300
    assert np.array_equal(dense(sampled.apply(x)), dense(fit(x, "tfidf-lsi", n_components=6).apply(x)))


@pytest.mark.parametrize("density", [0.2, 0.95])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_recipe_survives_its_state(transform, density, tmp_path):
    from safetensors.numpy import load_file, save_file

    x = counts(density=density)
    recipe = fit(x, transform, n_components=4, clip=3.0)
    text, arrays = recipe.state()
    save_file(arrays, tmp_path / "a.safetensors")
    again = Recipe.from_state(json.loads(json.dumps(text)), load_file(tmp_path / "a.safetensors"))
    new = counts(seed=9, density=density)
    assert np.array_equal(dense(again.apply(new)), dense(recipe.apply(new)))
    assert again.names == recipe.names
    assert again.options == recipe.options
    assert np.array_equal(again.unscale(dense(again.apply(x))), recipe.unscale(dense(recipe.apply(x))))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_cells_do_not_depend_on_their_company(transform):
    x = counts()
    recipe = fit(x, transform, n_components=4)
    order = np.random.default_rng(0).permutation(x.shape[0])[:11]
    np.testing.assert_allclose(
        dense(recipe.apply(x[order])), dense(recipe.apply(x))[order], rtol=1e-4, atol=1e-5
    )


@given(
    values=st.lists(st.lists(st.integers(0, 5000), min_size=4, max_size=4), min_size=1, max_size=12),
    transform=st.sampled_from(sorted(TRANSFORMS)),
)
@settings(max_examples=60, deadline=None)
def test_any_counts_give_finite_numbers(values, transform):
    x = sparse.csr_matrix(np.array(values, dtype=np.float32))
    assert np.isfinite(dense(fit(x, transform, n_components=2).apply(x))).all()


# linked features


def links(p: int, s: int, *, signed: bool = False) -> sparse.csr_matrix:
    rng = np.random.default_rng(5)
    a = rng.random((p, s)) * (rng.random((p, s)) < 0.2)
    if signed:
        a *= rng.choice([-1, 1], size=(p, s))
    return sparse.csr_matrix(a.astype(np.float32))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_linked_features_equal_their_formula(transform, signed):
    x, a = counts(), links(30, 8, signed=signed)
    d, w = x.toarray().astype(np.float64), a.toarray()
    if transform in ("lognorm", "tfidf-lsi", "counts"):
        if transform != "counts":
            total = d.sum(axis=1, keepdims=True)
            d = d / np.where(total > 0, total, 1) * np.median(total[total > 0])
        expected = np.log1p(d @ np.maximum(w, 0)) - np.log1p(d @ np.maximum(-w, 0))
    else:
        expected = by_hand(d, transform) @ w
    recipe = LinkRecipe.fit(x, aggregation=a, transform=transform, names=names(8))
    before = x.copy()
    np.testing.assert_allclose(dense(recipe.apply(x)), standardised(expected), atol=1e-4)
    assert np.array_equal(x.data, before.data)
    text, arrays = recipe.state()
    again = LinkRecipe.from_state(json.loads(json.dumps(text)), arrays)
    assert np.array_equal(dense(again.apply(x)), dense(recipe.apply(x)))


def test_a_linked_column_without_spread_is_zero_and_counted():
    x, a = counts(), links(30, 4).tolil()
    a[:, 2] = 0
    recipe = LinkRecipe.fit(x, aggregation=a.tocsr(), transform="lognorm", names=names(4))
    assert recipe.n_constant == 1
    assert not dense(recipe.apply(x))[:, 2].any()


def test_sparse_aggregates_stay_sparse():
    x = counts(400, 200, density=0.02)
    recipe = LinkRecipe.fit(
        x,
        aggregation=sparse.identity(200, dtype=np.float32, format="csr"),
        transform="lognorm",
        names=names(200),
    )
    assert sparse.issparse(recipe.apply(x).values)


# choices and refusals


def test_every_kind_and_value_has_a_transform():
    for kind in ModalityKind:
        for values in ValueKind:
            assert default_transform(kind, values) in TRANSFORMS
    assert default_transform(ModalityKind.RNA, ValueKind.COUNTS) == "lognorm"
    assert default_transform(ModalityKind.RNA, ValueKind.LOGNORM) == "identity"
    assert default_transform(ModalityKind.PROT, ValueKind.COUNTS) == "clr"
    assert default_transform(ModalityKind.ATAC, ValueKind.POSITIVE) == "tfidf-lsi"
    assert default_transform(ModalityKind.OTHER, ValueKind.COUNTS, max_value=1) == "identity"
    for kind in ModalityKind:
        assert default_transform(kind, ValueKind.REAL) == "identity"


def test_options_are_checked():
    with pytest.raises(UsageError, match="lognorm"):
        RecipeOptions("lognrom")
    for field in ("n_top", "n_components", "target_sum", "cofactor", "clip"):
        with pytest.raises(UsageError, match=field):
            RecipeOptions("lognorm", **{field: 0})


@pytest.mark.parametrize("transform", ["lognorm", "clr", "tfidf-lsi", "counts"])
def test_negative_values_are_refused_where_they_mean_nothing(transform):
    x = counts()
    x.data[0] = -1
    with pytest.raises(InputError, match="non-negative"):
        fit(x, transform)
    with pytest.raises(InputError, match="non-negative"):
        LinkRecipe.fit(x, aggregation=links(30, 2), transform=transform, names=("a", "b"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_values_that_are_not_finite_are_refused(transform, bad):
    x = counts()
    x.data[[0, 1]] = [bad, -bad]
    with pytest.raises(InputError, match="finite"):
        fit(x, transform)


def test_other_features_than_in_training_are_refused():
    recipe = fit(counts(), "lognorm")
    with pytest.raises(ValueError, match="31 columns"):
        recipe.apply(counts(p=31))


@pytest.mark.real_data
def test_real_proteins_and_genes():
    path = REAL / "eccite_pbmc_49adt.h5mu"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the repository")
    import mudata

    data = mudata.read_h5mu(path)
    genes = sparse.csr_matrix(data["rna"].X)
    recipe = fit(genes, "lognorm", n_top=2000)
    features = recipe.apply(genes)
    assert features.n_vars == 2000
    assert sparse.issparse(features.values)
    np.testing.assert_allclose(dense(features).std(axis=0), 1, atol=1e-3)
    proteins = sparse.csr_matrix(data["prot"].X)
    clr = fit(proteins, "clr").apply(proteins)
    assert clr.offset is None
    assert np.isfinite(dense(clr)).all()


@pytest.mark.parametrize("limit", [0.05, 0.25, 0.3, 0.999, 1, 7, 30])
def test_features_seen_in_enough_cells_are_those_that_numpy_counts(limit):
    x = counts(90, 40, density=0.3)
    x.data[::5] = 0  # stored zeros are not seen
    counted = (x.toarray() != 0).sum(axis=0)
    wanted = counted / 90 >= limit if limit < 1 else counted >= limit
    np.testing.assert_array_equal(seen(x, limit), np.flatnonzero(wanted))


def test_the_seen_and_the_variable_are_chosen_one_after_the_other():
    x = counts(120, 60, density=0.15)
    common = np.flatnonzero((x.toarray() != 0).mean(axis=0) >= 0.15)
    assert 20 < len(common) < 55
    only = fit(x, "clr", n_top=None, seen_in=0.15)
    np.testing.assert_array_equal(only.selected, common)
    both = fit(x, "clr", n_top=10, seen_in=0.15)
    variance = by_hand(x.toarray(), "clr")[:, common].var(axis=0)
    np.testing.assert_array_equal(both.selected, np.sort(common[np.argsort(-variance)[:10]]))
    ranked = highly_variable(x, RecipeOptions("lognorm", n_top=10, seen_in=0.15))
    assert set(ranked) <= set(common)
    # linked features stay, however rare
    rare = np.setdiff1d(np.arange(60), common)[:3]
    np.testing.assert_array_equal(
        fit(x, "clr", n_top=None, seen_in=0.15, keep=rare).selected, np.union1d(common, rare)
    )
    assert len(fit(x, "tfidf-lsi", seen_in=0.5).selected) == 60


def test_what_was_seen_is_saved_and_files_without_it_are_as_before():
    x = counts()
    recipe = fit(x, "lognorm", seen_in=0.2)
    json_part, arrays = recipe.state()
    again = Recipe.from_state(json.loads(json.dumps(json_part)), arrays)
    assert again.options.seen_in == 0.2
    np.testing.assert_array_equal(dense(again.apply(x)), dense(recipe.apply(x)))
    assert "seen_in" not in fit(x, "lognorm").state()[0]["options"]
    with pytest.raises(UsageError, match="seen_in"):
        RecipeOptions("lognorm", seen_in=0)


class Root(Transform):
    """A seventh transform: the square root."""

    name = "root"
    words = "square roots"
    is_counted = True
    keeps_values = False

    def element(self, values, cofactor=5.0, *, out=None):
        return np.sqrt(values, out=out)

    def undo(self, values, cofactor=5.0):
        return values**2


def test_a_transform_is_added_in_one_place(monkeypatch, tmp_path):
    from anndata import AnnData

    from mocli.data.files.inputs import open_inputs
    from mocli.models.registry import traits_of
    from mocli.tasks.prepare.choice import choose
    from mocli.tasks.run.options import DataOptions
    from mocli.tasks.trained.featurereadout import FeatureReadout

    monkeypatch.setitem(TRANSFORMS, "root", Root())
    values = np.random.default_rng(0).poisson(2.0, (40, 6)).astype(np.float32)
    x = sparse.csr_matrix(values)
    AnnData(x).write_h5ad(tmp_path / "rna.h5ad")
    (file,) = open_inputs([str(tmp_path / "rna.h5ad")])
    assert (
        choose(file, DataOptions(inputs=(), transform={"rna": "root"}), traits_of("scmodal")).transform
        == "root"
    )
    recipe = fit(x, "root", n_top=None, standardise=False)
    np.testing.assert_allclose(dense(recipe.apply(x)), np.sqrt(values), rtol=1e-6)
    assert Recipe.from_state(*recipe.state()).transform is TRANSFORMS["root"]
    readout = FeatureReadout.fit(file, "X", recipe, values[:, :2], seed=0)
    np.testing.assert_allclose(densify(readout.values(x, "log")), np.sqrt(values), rtol=1e-6)
    with pytest.raises(InputError, match="non-negative"):
        recipe.apply(sparse.csr_matrix(-values))


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_values_come_back_from_what_they_became(name):
    values = np.array([0.0, 0.5, 3.0, 250.0], np.float32)
    transform = TRANSFORMS[name]
    np.testing.assert_allclose(transform.undo(transform.element(values.copy())), values, rtol=1e-5)
    assert transform.readable in (transform, LOGNORM)
