"""`mocli impute` without encoders: places of new cells are trained, and values come from them."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from mocli.data.files.inputs import open_inputs
from mocli.models.base import Encodes
from mocli.tasks.impute.impute import impute
from mocli.tasks.infer.align import align
from mocli.tasks.infer.query import infer_coordinates, match_query, place_cells, query_of_one
from mocli.tasks.run.frame import Foresight
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import load_model

GIVEN = {"threads": 1, "device": "cpu", "html": False}
PARAMS = {"n_hidden": 16, "n_latent": 4, "batch_size": 32, "query_epochs": 5}
TRAIN = {**GIVEN, "model": "multidgd", "params": PARAMS, "max_steps": 150}
WAY = {"source": "rna", "target": "atac"}
P = {"rna": 30, "atac": 50}
N = 200
ROUNDED = 5e-4
"""Values are written with the eleven bits that compress well."""


def write(folder, name, n, *, batches=("a", "b"), seed=1):
    """Three types whose genes and peaks are Poisson counts around profiles of their own."""
    rng, profiles = np.random.default_rng(seed), np.random.default_rng(0)
    kind = rng.integers(3, size=n)
    cells = [f"{name}{i}" for i in range(n)]
    mods = {}
    for modality, p in P.items():
        rate = profiles.gamma(0.4, 4.0, size=(3, p))
        obs = pd.DataFrame({"batch": [batches[i % len(batches)] for i in range(n)]}, index=cells)
        obs["age"] = rng.normal(size=n)
        var = pd.DataFrame(index=[f"{modality}{j}" for j in range(p)])
        x = sparse.csr_matrix(rng.poisson(rate[kind]).astype(np.float32))
        mods[modality] = ad.AnnData(X=x, obs=obs, var=var)
        mods[modality].write_h5ad(folder / f"{name}-{modality}.h5ad")
    with md.set_options(pull_on_update=False):
        md.MuData(mods).write_h5mu(folder / f"{name}.h5mu")
    return folder / f"{name}.h5mu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inference")
    write(folder, "cells", N)
    write(folder, "new", 40, seed=2)
    write(folder, "other", 40, batches=("c",), seed=3)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """Train, place every cell by its genes, hold peaks of a fifth against those predicted."""
    result = impute(
        [folder / "cells.h5mu"], output=folder / "o.h5mu", evaluate=True, cells="all",
        batch_key="batch", **WAY, **TRAIN,
    )  # fmt: skip
    return result.report, folder / "o.h5mu"


@pytest.fixture
def query(trained, tmp_path):
    def run(rna, **options):
        _, output = trained
        given = {**GIVEN, **WAY, "from_model": output.with_suffix(".model"), **options}
        result = impute([f"rna={rna}"], output=tmp_path / "q.h5ad", force=True, **given)
        return result.report, ad.read_h5ad(tmp_path / "q.h5ad")

    return run


def saved_of(trained):
    return load_model(trained[1].with_suffix(".model"))


def place(saved, path, warnings=None, seed=0):
    (file,) = open_inputs([f"rna={path}"], kinds={})
    aligned = align(saved, "rna", file, layers={}, warn=silent)
    tell = Foresight()
    data = DataOptions(inputs=(str(path),))
    z = place_cells(saved, "rna", aligned, data, device=torch.device("cpu"), seed=seed, tell=tell)
    if warnings is not None:
        warnings += [line.removeprefix("warning: ") for line in tell.lines if line.startswith("warning: ")]
    return z


def silent(_):
    return None


def varying(a):
    """Peaks that differ between types, so that something can be said of them."""
    return np.flatnonzero(a.var["mean"] > 0.5) if "mean" in a.var else np.arange(a.n_vars)


def test_hidden_peaks_are_better_than_their_mean(trained, read):
    report, output = trained
    new = read(output)["atac_imputed"]
    held = new.obs["held_out"] if "held_out" in new.obs else new.obs["imputed"]
    assert held.sum() == N // 5
    predicted = new.X[held.to_numpy()]
    measured = read(output)["atac"][new.obs_names[held]].X.toarray()
    depth = np.median(np.asarray(read(output)["atac"].X.sum(1)))
    measured = np.log1p(measured * depth / measured.sum(1, keepdims=True))
    error = ((np.asarray(predicted) - measured) ** 2).mean(0)
    of_mean = measured.var(0)
    assert np.median(error / of_mean) < 0.8
    assert report["metrics"]["imputation_r2_median[rna->atac]"]["value"] > 0.2
    assert 0.8 < report["metrics"]["interval_coverage[rna->atac]"]["value"] <= 1


def test_left_to_mocli_values_come_by_a_readout_of_places_by_the_source(trained):
    assert saved_of(trained).readouts["atac"].source == "rna"
    assert saved_of(trained).readouts["rna"].source is None


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    found = []
    for name in ("a", "b"):
        options = {**TRAIN, "max_steps": 20, "seed": 3}
        impute([folder / "new.h5mu"], output=tmp_path / f"{name}.h5ad", cells="all", **WAY, **options)
        found.append(ad.read_h5ad(tmp_path / f"{name}.h5ad").X.tobytes())
        torch.rand(7)  # whatever others drew
    assert found[0] == found[1]


def test_the_saved_model_places_cells_as_the_run_did(trained, query, folder, read):
    of_run = read(trained[1])["atac_imputed"]
    _, again = query(folder / "cells-rna.h5ad")
    assert list(again.obs_names) == list(of_run.obs_names)
    np.testing.assert_array_equal(np.asarray(again.X), np.asarray(of_run.X))


def test_a_cell_lies_where_it_did_among_others(trained, folder, tmp_path):
    saved = saved_of(trained)
    ad.read_h5ad(folder / "new-rna.h5ad")[:3].write_h5ad(tmp_path / "three.h5ad")
    z = place(saved, folder / "new-rna.h5ad")
    assert z.shape == (40, 4)
    alone = place(saved, tmp_path / "three.h5ad")
    np.testing.assert_allclose(alone, z[:3], atol=0.05 * z.std())


def test_two_cells_are_enough(trained, query, folder, tmp_path):
    cells = ad.read_h5ad(folder / "new-rna.h5ad")
    cells[:2].write_h5ad(tmp_path / "two.h5ad")
    _, few = query(tmp_path / "two.h5ad")
    assert few.shape == (2, 50)
    assert np.isfinite(np.asarray(few.X)).all()


def test_the_model_stays_as_it_is(trained, folder):
    saved = saved_of(trained)
    before = {k: v.clone() for k, v in saved.model.module.state_dict().items()}
    place(saved, folder / "other-rna.h5ad")
    after = saved.model.module.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert all(p.requires_grad for p in saved.model.module.parameters())


def test_values_of_new_cells_are_those_of_their_type(query, folder):
    report, new = query(folder / "new-rna.h5ad")
    truth = ad.read_h5ad(folder / "new-atac.h5ad").X.toarray()
    truth = np.log1p(truth * np.median(truth.sum(1)) / truth.sum(1, keepdims=True))
    r = [np.corrcoef(np.asarray(new.X)[:, j], truth[:, j])[0, 1] for j in np.argsort(-truth.var(0))[:20]]
    assert np.median(r) > 0.4
    assert (new.layers["lower"] <= new.X + ROUNDED).all()
    assert report["status"] == "ok"


def test_the_decoder_gives_values_too(query, folder):
    _, by_readout = query(folder / "new-rna.h5ad")
    _, by_decoder = query(folder / "new-rna.h5ad", route="decoder")
    a, b = np.asarray(by_readout.X).ravel(), np.asarray(by_decoder.X).ravel()
    assert 0.9 < np.corrcoef(a, b)[0, 1] < 1


def test_a_covariate_that_the_file_lacks_is_unknown(trained, folder, tmp_path):
    saved = saved_of(trained)
    cells = ad.read_h5ad(folder / "new-rna.h5ad")
    del cells.obs["batch"]
    cells.write_h5ad(tmp_path / "bare.h5ad")
    warnings = []
    bare = place(saved, tmp_path / "bare.h5ad", warnings)
    assert any("no 'batch', a covariate of the model" in w for w in warnings)
    warnings = []
    known = place(saved, folder / "new-rna.h5ad", warnings)
    assert warnings == []
    # batches of this simulation are alike
    assert np.corrcoef(bare.ravel(), known.ravel())[0, 1] > 0.95


def test_a_batch_that_is_new_gets_a_component_drawn_from_the_seed(trained, folder):
    saved = saved_of(trained)
    places = []
    for draws in (0, 5):
        torch.rand(draws)
        places.append(place(saved, folder / "other-rna.h5ad", seed=1))
    assert np.array_equal(*places)


def test_the_bundle_is_that_of_a_query(trained, folder):
    saved, path = saved_of(trained), folder / "new-rna.h5ad"
    (file,) = open_inputs([f"rna={path}"], kinds={})
    data = DataOptions(inputs=(str(path),))
    whole = match_query(saved, [file], data, say=silent, warn=silent).load()
    aligned = align(saved, "rna", file, layers={}, warn=silent)
    one = query_of_one(saved, "rna", aligned, data, say=silent, warn=silent).load()
    assert list(one.modalities) == ["rna", "atac"]
    assert one.modalities["atac"].features.values.shape == (0, 50)
    assert np.array_equal(one.rows, whole.rows)
    assert np.array_equal(one.batch.codes, whole.batch.codes)
    assert one.batch.levels == whole.batch.levels
    a, b = (bundle.modalities["rna"].features.values for bundle in (one, whole))
    assert np.array_equal(np.asarray(a), np.asarray(b)) if not sparse.issparse(a) else (a != b).nnz == 0


def test_numbers_stand_at_their_mean_where_the_file_lacks_them(folder, tmp_path):
    output = tmp_path / "o.h5ad"
    options = {**TRAIN, "max_steps": 20, "continuous": ["age"]}
    impute([folder / "new.h5mu"], output=output, cells="all", **WAY, **options)
    saved = load_model(output.with_suffix(".model"))
    cells = ad.read_h5ad(folder / "new-rna.h5ad")
    del cells.obs["age"]
    cells.write_h5ad(tmp_path / "bare.h5ad")
    warnings = []
    z = place(saved, tmp_path / "bare.h5ad", warnings)
    assert np.isfinite(z).all()
    assert any("age stand at their mean" in w for w in warnings)


def test_what_neither_encodes_nor_takes_in_cells_is_an_error(trained, folder):
    class Bare:
        pass

    with pytest.raises(TypeError, match="Bare can neither encode"):
        infer_coordinates(Bare(), None, device=torch.device("cpu"), seed=0)
    assert not isinstance(saved_of(trained).model, Encodes)
