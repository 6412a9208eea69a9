"""The command with multiDGD: files in, clusters and places out, and a model that takes in a query."""

import json

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from scipy import sparse
from sklearn.metrics import normalized_mutual_info_score

import mocli
from mocli.errors import InputError
from mocli.report.file import validate
from mocli.tasks.trained.saved import load_model

SETTINGS = {"n_hidden": 12, "n_latent": 4, "batch_size": 32}
P = {"rna": 30, "atac": 50}


def write(folder, n=90, *, batch=("a", "b"), seed=1, names=tuple(P)):
    rng, profiles = np.random.default_rng(seed), np.random.default_rng(0)
    kind, cells = np.arange(n) % 3, [f"s{seed}c{i}" for i in range(n)]
    mods = {}
    for name, p in P.items():
        rate = profiles.gamma(0.4, 4.0, size=(3, p))
        obs = pd.DataFrame({"cell_type": [f"t{k}" for k in kind]}, index=cells)
        obs["batch"] = [batch[i // 3 % len(batch)] for i in range(n)]
        var = pd.DataFrame(index=[f"{name}{j}" for j in range(p)])
        x = sparse.csr_matrix(rng.poisson(rate[kind]).astype(np.float32))
        mods[name] = ad.AnnData(X=x, obs=obs, var=var)
    with md.set_options(pull_on_update=False):
        md.MuData({k: mods[k] for k in names}).write_h5mu(folder / f"cells{seed}.h5mu")
    mods["rna"].write_h5ad(folder / f"rna{seed}.h5ad")
    return folder / f"cells{seed}.h5mu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dgd")


def integrate(data, output, *, params=None, **options):
    defaults = {"model": "multidgd", "max_steps": 90, "html": False, "threads": 1, "device": "cpu"}
    mocli.integrate([data], output=output, params=SETTINGS | (params or {}), **(defaults | options))
    report = json.loads(output.with_name(output.stem + ".report.json").read_text())
    validate(report)
    return report


@pytest.fixture(scope="module")
def trained(folder):
    out = folder / "out.h5mu"
    report = integrate(write(folder), out, batch_key="batch", label_key="cell_type")
    return out, report


def test_cells_get_places_and_clusters(trained):
    out, report = trained
    with md.set_options(pull_on_update=False):
        found = md.read_h5mu(out)
    for obs, obsm in [(found.obs, found.obsm), *((m.obs, m.obsm) for m in found.mod.values())]:
        assert obsm["X_multidgd"].shape == (90, 4)
        clusters = obs["multidgd_cluster"].astype(str)
        assert set(clusters) <= {"1", "2", "3"}
        assert ((obs["multidgd_cluster_probability"] > 1 / 3 - 1e-6).all()) & (len(clusters) == 90)
    agreement = report["metrics"]["cluster_agreement"]
    assert agreement["value"] > 0.8
    assert report["metrics"]["cluster_agreement_nmi"]["value"] == pytest.approx(
        normalized_mutual_info_score(found["rna"].obs["cell_type"], found["rna"].obs["multidgd_cluster"])
    )
    assert report["model"]["params"]["n_components"] == 3


def places_of(out, key="X_multidgd_batch"):
    with md.set_options(pull_on_update=False):
        found = md.read_h5mu(out)
    for m in found.mod.values():
        np.testing.assert_array_equal(m.obsm[key], found.obsm[key])
    return np.asarray(found.obsm[key]), found["rna"].obs["batch"].astype(str).to_numpy()


def test_covariates_have_places_of_their_own(trained):
    out, report = trained
    weights = load_file(out.with_suffix(".model") / "weights.safetensors")
    places, batch = places_of(out)
    np.testing.assert_array_equal(places, weights["module/cells"][:, 4:])
    # each cell lies nearest to the component of its own level
    gap = np.linalg.norm(places[:, None] - weights["module/covariates.0.mean"][None], axis=2)
    assert (gap.argmin(1) == (batch == "b")).all()
    assert "X_multidgd_batch" in report["outputs"][0]["what"]


def test_the_space_of_a_covariate_is_drawn(folder):
    data, out = write(folder, 40, seed=6), folder / "drawn.h5mu"
    integrate(data, out, max_steps=10, batch_key="batch", html=True, umap=False)
    assert "Cells in the space of batch" in out.with_name("drawn.report.html").read_text()


def test_all_features_are_kept_and_taken_for_counts(trained):
    _, report = trained
    assert [i["likelihood"] for i in report["inputs"]] == ["nb", "nb"]
    assert [i["transform"] for i in report["inputs"]] == ["counts", "counts"]


def test_the_saved_model_is_whole(trained):
    out, _ = trained
    saved = load_model(out.with_suffix(".model"))
    assert saved.model.module.cells.shape == (90, 6)
    assert list(saved.model.shape.widths.values()) == [30, 50]


def test_the_same_seed_gives_the_same_bytes(folder):
    data = write(folder, 40, seed=2)
    reports = [integrate(data, folder / f"same{i}.h5mu", max_steps=10) for i in range(2)]
    assert reports[0]["determinism"]["latent_sha256"] == reports[1]["determinism"]["latent_sha256"]


def test_one_modality_is_enough_and_the_log_says_how_many_components(folder, capsys):
    write(folder, seed=3)
    report = integrate(folder / "rna3.h5ad", folder / "one.h5mu", model="multidgd")
    assert report["model"]["params"]["n_components"] >= 1
    log = (folder / "one.log").read_text()
    assert "chosen from the data: n_components" in log


def test_values_that_are_no_counts_are_refused(folder):
    write(folder, seed=4)
    data = ad.read_h5ad(folder / "rna4.h5ad")
    data.X = data.X.log1p()
    data.write_h5ad(folder / "log.h5ad")
    with pytest.raises(InputError, match="counts"):
        integrate(folder / "log.h5ad", folder / "no.h5mu", kind={"log": "rna"})


@pytest.mark.parametrize("names", [("rna", "atac"), ("rna",)])
def test_a_query_of_a_new_batch_alone_joins_the_reference(trained, folder, names):
    out, _ = trained
    data = write(folder, 60, seed=5, batch=("c",), names=names)
    placed = folder / f"query{len(names)}.h5mu"
    mocli.integrate(
        [data],
        output=placed,
        reference=out.with_suffix(".model"),
        batch_key="batch",
        html=False,
        threads=1,
        device="cpu",
    )
    with md.set_options(pull_on_update=False):
        found = md.read_h5mu(placed)
    z = found["rna"].obsm["X_multidgd"]
    assert np.isfinite(z).all()
    model = load_model(out.with_suffix(".model")).model
    import torch

    cluster = model.clusters(torch.from_numpy(z)).argmax(1).numpy()
    from mocli.metrics.clusters import ari

    assert ari(np.arange(60) % 3, cluster) > 0.5
    np.testing.assert_array_equal(found["rna"].obs["multidgd_cluster"].astype(int), cluster + 1)
    grown = load_model(placed.with_suffix(".model")).model
    assert grown.shape.levels["batch"] == ("a", "b", "c")
    places, _ = places_of(placed)
    own = grown.module.covariate(0).mean.detach().numpy()
    assert (np.linalg.norm(places[:, None] - own[None], axis=2).argmin(1) == 2).mean() > 0.9
