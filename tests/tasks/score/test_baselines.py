"""The baselines' own pieces: principal components against scikit-learn, the cells they place."""

import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from mocli.data.batches import dense_rows
from mocli.data.bundle import FeatureMatrix
from mocli.models.registry import traits_of
from mocli.tasks.benchmark.ground import prepare_ground
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.prepare.smoothing import (
    N_COMPONENTS,
    comparable,
    own_coordinates,
    own_neighbors,
    principal_components,
)
from mocli.tasks.run.guard import return_freed_memory
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.tasks.score.baselines import component_baseline, narrow
from mocli.tasks.score.evaluate import _baseline_rows
from mocli.types import Task


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


def bundles(path, traits, **options):
    """The same cells as a model takes them, and as a benchmark's controls do."""
    data = DataOptions(inputs=[str(path)], **options)
    made = make_plan(data, TrainOptions(), Task.INTEGRATE, quiet, traits=traits)
    ground = prepare_ground(data, seed=0, say=quiet, warn=quiet, debug=quiet)
    return load(made, None, seed=0, say=quiet, warn=quiet).bundle, ground.bundle


def quiet(_):
    pass


@pytest.fixture(scope="module")
def trimodal(tmp_path_factory):
    """Counts of genes, proteins and peaks of the same cells; few features, so that every model keeps all."""
    rng = np.random.default_rng(0)
    hidden, cells = rng.normal(size=(120, 3)), [f"c{i}" for i in range(120)]
    made = {}
    for name, p in (("rna", 70), ("prot", 12), ("atac", 150)):
        rate = rng.gamma(4, 0.25, (120, 1)) * np.exp(0.7 * hidden @ rng.normal(size=(3, p)))
        names = [f"chr1:{900 * j}-{900 * j + 500}" if name == "atac" else f"{name}{j}" for j in range(p)]
        x = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
        made[name] = ad.AnnData(x, pd.DataFrame(index=cells), pd.DataFrame(index=names))
    path = tmp_path_factory.mktemp("trimodal") / "three.h5mu"
    with warnings.catch_warnings(action="ignore"), md.set_options(pull_on_update=False):
        md.MuData(made).write_h5mu(path)
    return path


@pytest.mark.parametrize("model", ["multidgd", "sccross", "multigrate"])
def test_uncorrected_components_are_those_of_the_benchmark_whatever_the_model_counts(trimodal, model):
    given = {"likelihood": {"prot": "nb"}} if model == "multigrate" else {}
    mine, ground = bundles(trimodal, traits_of(model), **given)
    assert {m.likelihood for m in mine.modalities.values()} <= {"nb", "poisson"}
    assert {m.likelihood for m in ground.modalities.values()} == {None}
    cells = np.arange(mine.n_cells)
    (one, _), (other, _) = (component_baseline(b, cells, 0) for b in (mine, ground))
    assert one.definition == other.definition
    for name, z in other.z.items():
        # signs are free
        expected = z @ z.T
        np.testing.assert_allclose(one.z[name] @ one.z[name].T, expected, atol=2e-3 * np.abs(expected).max())
    for name in mine.modalities:
        a, b = (own_neighbors(own_coordinates(x.modalities[name], cells, seed=0)) for x in (mine, ground))
        assert (np.sort(a, 1) == np.sort(b, 1)).mean() > 0.99


def test_proteins_are_compared_as_centred_log_ratios(trimodal):
    mine, _ = bundles(trimodal, traits_of("multidgd"))
    m = mine.modalities["prot"]
    x = dense_rows(m.features, np.arange(m.n_obs)).astype(np.float64)
    clr = np.log1p(x / np.exp(np.log1p(x).mean(1, keepdims=True)))
    rows = np.arange(m.n_obs)
    found = comparable(m, rows, seed=0, standardise=False)
    np.testing.assert_allclose(dense_rows(found, rows), clr, rtol=1e-4, atol=1e-5)
    values = dense_rows(comparable(m, rows, seed=0, standardise=True), rows)
    np.testing.assert_allclose(values, (clr - clr.mean(0)) / clr.std(0), rtol=1e-3, atol=1e-4)
    # standardised before, and taken back
    _, ground = bundles(trimodal, traits_of("multidgd"))
    again = dense_rows(comparable(ground.modalities["prot"], rows, seed=0, standardise=False), rows)
    np.testing.assert_allclose(again - again.mean(0), clr - clr.mean(0), rtol=1e-3, atol=1e-4)


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


def test_wide_coordinates_are_compared_by_their_components():
    rng = np.random.default_rng(0)
    z = {name: (rng.normal(size=(60, 8)) @ rng.normal(size=(8, 150))).astype("f4") for name in ("a", "b")}
    narrowed = narrow(z, seed=0)
    assert narrowed["a"].shape == (60, 100)
    wide, short = (np.linalg.norm(x["a"][0] - x["b"], axis=1) for x in (z, narrowed))
    np.testing.assert_allclose(short, wide, rtol=1e-3)  # eight dimensions lose nothing
    few = {"a": z["a"][:, :9]}
    assert narrow(few, seed=0)["a"] is few["a"]
