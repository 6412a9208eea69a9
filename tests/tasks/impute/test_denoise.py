"""`mocli impute --from rna --to rna`: expected values of measured cells, at their own depth."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import mocli
from mocli.data.demo import write_demo
from mocli.data.files.inputs import open_inputs
from mocli.errors import UsageError
from mocli.models.base import Conditions
from mocli.tasks.infer.align import align, project
from mocli.tasks.trained.saved import load_model

GIVEN = {"threads": 1, "device": "cpu", "html": False}
SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 32}
PARAMS = {
    "multigrate": SMALL,
    "multidgd": {**SMALL, "query_epochs": 3},
    "sccross": {**SMALL, "n_neighbors": 5},
    "scmodal": SMALL,
}
DECODING = ("multigrate", "multidgd", "sccross")
DECODED = 30
N = 60


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Counts of cells whose depth varies tenfold; the last one is empty in RNA."""
    folder = tmp_path_factory.mktemp("denoised")
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(N, 2))
    depth = 10 ** rng.uniform(0, 1, size=(N, 1))
    for name, p in (("rna", 50), ("prot", 12)):
        rate = depth * np.exp(0.8 * hidden @ rng.normal(size=(2, p)) + 0.5 * rng.normal(size=p))
        x = rng.poisson(rate).astype(np.float32)
        if name == "rna":
            x[-1] = 0
        obs = pd.DataFrame({"batch": np.array(["a", "b"])[np.arange(N) % 2]}, [f"c{i}" for i in range(N)])
        var = pd.DataFrame(index=[f"g{j}" for j in range(p)])
        ad.AnnData(sparse.csr_matrix(x), obs, var).write_h5ad(folder / f"{name}.h5ad")
    links = "".join(f"g{j}\tg{j}\n" for j in range(12))
    (folder / "links.tsv").write_text("rna\tprot\n" + links)
    return folder


@pytest.fixture(scope="module")
def trained(cells):
    """One folder of each model; 30 of the 50 genes are decoded."""
    made = {}

    def of(model):
        if model not in made:
            linked = {"links": cells / "links.tsv"} if model in {"scmodal", "sccross"} else {}
            counts = {} if model == "scmodal" else {"likelihood": {"prot": "nb"}, "batch_key": "batch"}
            mocli.integrate(
                [cells / "rna.h5ad", cells / "prot.h5ad"], output=cells / f"{model}.h5mu", model=model,
                params=PARAMS[model], max_steps=6, hvg={"rna": DECODED}, **linked, **counts, **GIVEN,
            )  # fmt: skip
            made[model] = cells / f"{model}.model"
        return made[model]

    return of


@pytest.fixture
def denoise(cells, trained, tmp_path):
    def run(model, name="rna", file=None, **options):
        given = {"output": tmp_path / "out.h5ad", "source": name, "target": name, "force": True, **GIVEN}
        inputs = [f"{name}={file or cells / f'{name}.h5ad'}"]
        result = mocli.impute(inputs, from_model=trained(model), **{**given, **options})
        return result, ad.read_h5ad(tmp_path / "out.h5ad")

    return run


@pytest.mark.parametrize("name", ["rna", "prot"])
@pytest.mark.parametrize("model", PARAMS)
def test_a_cell_keeps_its_library(denoise, cells, model, name):
    x = ad.read_h5ad(cells / f"{name}.h5ad").X.toarray()
    result, found = denoise(model, name, scale="counts")
    assert list(found.obs_names) == [f"c{i}" for i in range(N)]
    assert not found.obs["imputed"].any()
    assert (found.X >= 0).all()
    np.testing.assert_allclose(found.X.sum(1), x.sum(1), rtol=1e-4)
    np.testing.assert_array_equal(found.layers["observed"], x)
    assert "lower" not in found.layers
    assert "pearson" not in found.var
    assert not result.report["metrics"]
    # not the cell as it is, but what the model takes it for
    assert np.abs(found.X - x).max() > 0.5


@pytest.mark.parametrize("model", PARAMS)
def test_shares_sum_to_one(denoise, cells, model):
    x = ad.read_h5ad(cells / "rna.h5ad").X.toarray()
    _, found = denoise(model, scale="shares")
    np.testing.assert_allclose(found.X.sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(
        found.layers["observed"][:-1], x[:-1] / x[:-1].sum(1, keepdims=True), rtol=1e-3
    )
    assert (found.layers["observed"][-1] == 0).all()
    # some features are shares of the whole, too
    _, some = denoise(model, scale="shares", features=["g7", "g3", "g40"])
    np.testing.assert_array_equal(some.X, found[:, ["g7", "g3", "g40"]].X)


@pytest.mark.parametrize("model", DECODING)
def test_values_are_the_decoder_s_and_the_library_of_what_it_knows_is_kept_too(denoise, cells, model):
    x = ad.read_h5ad(cells / "rna.h5ad").X.toarray()
    result, found = denoise(model, scale="counts")
    known = (found.var["imputed_by"] == "decoder").to_numpy()
    assert known.sum() >= DECODED
    np.testing.assert_allclose(found.X[:, known].sum(1), x[:, known].sum(1), rtol=1e-4)
    assert result.report["tables"]["route"]["rows"][0][0] == "decoder"


def test_counts_are_the_mean_of_what_every_batch_would_have_had(denoise, cells, trained):
    saved = load_model(trained("multigrate"))
    x = ad.read_h5ad(cells / "prot.h5ad").X.toarray()
    (file,) = open_inputs([f"prot={cells / 'prot.h5ad'}"])
    z = torch.from_numpy(project(saved, "prot", align(saved, "prot", file, layers={}, warn=print), "cpu"))
    shares = np.zeros(x.shape)
    for code in (0, 1):
        with torch.no_grad():
            rate = (
                saved.model.decode("prot", z, Conditions({"batch": torch.full((N,), code)})).double().numpy()
            )
        shares += rate / rate.sum(1, keepdims=True) / 2
    _, found = denoise("multigrate", "prot", scale="counts")
    np.testing.assert_allclose(found.X, shares * x.sum(1, keepdims=True), rtol=1e-3)


@pytest.mark.parametrize("model", DECODING)
def test_denoised_under_the_own_batch_of_each_cell(denoise, model):
    levels = np.array(["a", "b"])[np.arange(N) % 2]
    _, own = denoise(model, "prot", scale="counts", decode_batch="own", draw=True)
    for level in ("a", "b"):
        _, one = denoise(model, "prot", scale="counts", decode_batch=level)
        np.testing.assert_allclose(own.X[levels == level], one.X[levels == level], rtol=1e-4, atol=1e-5)
    assert np.isfinite(own.layers["sampled"]).all()


@pytest.mark.parametrize("model", DECODING)
def test_a_draw_is_at_the_cell_s_depth(denoise, cells, model):
    x = ad.read_h5ad(cells / "prot.h5ad").X.toarray()
    _, found = denoise(model, "prot", scale="counts", draw=True, decode_batch="a")
    drawn = found.layers["sampled"]
    assert (drawn == np.round(drawn)).all()
    assert np.corrcoef(drawn.sum(1), x.sum(1))[0, 1] > 0.5
    # of likelihoods whose mean is the expected value
    assert drawn.sum() == pytest.approx(x.sum(), rel=0.3)


def test_features_that_a_file_lacks_take_nothing_from_the_others(denoise, cells, tmp_path):
    rna = ad.read_h5ad(cells / "rna.h5ad")
    some = rna[:, 10:].copy()
    some.write_h5ad(tmp_path / "some.h5ad")
    _, found = denoise("multigrate", file=tmp_path / "some.h5ad", scale="counts")
    np.testing.assert_allclose(found[:, some.var_names].X.sum(1), some.X.sum(1).A1, rtol=1e-4)
    assert np.isnan(found.layers["observed"][:, :10]).all()


def test_logs_are_those_of_a_cell_of_median_depth(denoise, cells):
    total = ad.read_h5ad(cells / "prot.h5ad").X.sum(1)
    _, found = denoise("multigrate", "prot", scale="log")
    sums = np.expm1(found.X).sum(1)
    assert total.max() / total.min() > 5
    assert sums.max() / sums.min() < 2


def test_a_model_is_trained_where_none_is_given(cells, tmp_path):
    """One modality is enough where the model trains on one."""
    output = tmp_path / "alone.h5mu"
    options = {"source": "rna", "target": "rna", "scale": "counts", **GIVEN}
    options |= {"model": "multigrate", "params": SMALL, "max_steps": 5}
    plan = mocli.impute([cells / "rna.h5ad"], output=output, dry_run=True, **options)
    assert "denoises rna" in plan.plan
    result = mocli.impute([cells / "rna.h5ad"], output=output, **options)
    assert set(result.files) == set(plan.files) == {p for p in tmp_path.rglob("*") if p.is_file()}
    assert result.report["status"] == "ok"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"evaluate": True}, "--evaluate"),
        ({"hold_out": "batch=a"}, "--hold-out"),
        ({"scale": "shares", "target": "prot"}, "--scale"),
    ],
)
def test_what_means_nothing_is_refused(denoise, options, field):
    with pytest.raises(UsageError) as error:
        denoise("multigrate", **options)
    assert error.value.field == field


def test_gene2peak_still_needs_two_modalities(tmp_path, cells):
    with pytest.raises(UsageError, match="which modality holds genes"):
        mocli.gene2peak(
            [cells / "rna.h5ad", cells / "prot.h5ad"], output=tmp_path / "x.tsv", source="rna", target="rna",
            links=cells / "links.tsv", model="scmodal", **GIVEN,
        )  # fmt: skip


def test_benchmark_refuses_to_compare_a_modality_with_itself(tmp_path):
    write_demo(tmp_path, n_cells=60)
    with pytest.raises(UsageError, match="needs --from and --to"):
        mocli.benchmark(
            tmp_path / "multiome.h5mu", output=tmp_path / "x.tsv", tasks="impute", models="multigrate",
            source="rna", target="rna", dry_run=True,
        )  # fmt: skip
