"""Integration with one place for every cell: paired, mosaic and trimodal files, covariates, likelihoods."""

import json

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy import sparse

import mocli
from mocli.data.batches import BundleRows
from mocli.errors import InputError, UsageError
from mocli.report.file import validate
from mocli.tasks.run.paths import CALIBRATION, STACKS, read_part
from mocli.tasks.trained.saved import load_model

SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 32}
CELLS = [f"c{i}" for i in range(90)]
P = {"rna": 60, "atac": 80, "prot": 10}


def measure(path, name, cells, *, seed, scale=1.0, **obs):
    """Counts of some of the cells, in an order of their own; three types."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(cells))
    cells = [cells[i] for i in order]
    kind = np.array([int(c[1:]) % 3 for c in cells])
    rate = rng.gamma(0.4, 1.0, size=(3, P[name])) * scale
    x = sparse.csr_matrix(rng.poisson(rate[kind]).astype(np.float32))
    table = pd.DataFrame({"cell_type": [f"t{k}" for k in kind]}, index=cells)
    for key, values in obs.items():
        table[key] = [values[int(c[1:])] for c in cells]
    var = pd.DataFrame(index=[f"{name}{j}" for j in range(P[name])])
    data = ad.AnnData(X=x, obs=table, var=var)
    data.layers["log"] = x.log1p()
    data.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    obs = {
        "batch": [f"b{i % 2}" for i in range(90)],
        "donor": [f"d{i % 4}" for i in range(90)],
        "age": [20.0 + i % 7 for i in range(90)],
        "gap": [np.nan if i == 5 else 1.0 * i for i in range(90)],
        "way": ["left" if i < 30 else "both" if i < 60 else "right" for i in range(90)],
    }
    measure(folder / "rna.h5ad", "rna", CELLS, seed=1, **obs)
    measure(folder / "prot.h5ad", "prot", CELLS, seed=2, scale=20, **obs)
    measure(folder / "atac.h5ad", "atac", CELLS, seed=3, scale=0.3, **obs)
    measure(folder / "rna60.h5ad", "rna", CELLS[:60], seed=1, **obs)
    measure(folder / "atac60.h5ad", "atac", CELLS[30:], seed=3, scale=0.3, **obs)
    return folder


@pytest.fixture
def run(tmp_path):
    def integrate(*inputs, params=None, **options):
        defaults = {"max_steps": 12, "html": False, "threads": 1, "device": "cpu", "label_key": "cell_type"}
        defaults["metrics"] = "all"
        merged = {"model": "multigrate", **defaults, **options}
        merged.setdefault("output", tmp_path / "out.h5mu")
        return mocli.integrate(list(inputs), params={**SMALL, **(params or {})}, **merged)

    return integrate


def latents(path, *names):
    with h5py.File(path) as h5:
        found = {"whole": h5["obsm/X_multigrate"][()]}
        for name in names:
            found[name] = h5[f"mod/{name}/obsm/X_multigrate"][()]
        cells = {"whole": h5["obs/_index"].asstr()[()]}
        for name in names:
            group = h5[f"mod/{name}/obs"]
            cells[name] = group[group.attrs["_index"]].asstr()[()]
    return {k: pd.DataFrame(v, index=cells[k]) for k, v in found.items()}


def test_paired_cells_have_one_place_that_the_report_scores_as_such(run, files, tmp_path):
    result = run(files / "rna.h5ad", files / "prot.h5ad", batch_key="batch", html=True)
    report = json.loads((tmp_path / "out.report.json").read_text())
    validate(report)
    assert report["model"]["name"] == "multigrate"
    assert [(i["transform"], i["likelihood"]) for i in report["inputs"]] == [
        ("counts", "nb"),
        ("clr", "normal"),
    ]
    z = latents(result.output, "rna", "prot")
    assert z["whole"].shape == (90, 4)
    assert np.isfinite(z["whole"].to_numpy()).all()
    for name in ("rna", "prot"):
        pd.testing.assert_frame_equal(z[name], z["whole"].loc[z[name].index])
    # a distance between partners that are one point is no measure
    named = {key.split("[")[0] for key in report["metrics"]}
    assert {"silhouette", "silhouette_batch", "kbet_batch", "scib_total", "pcr_comparison"} <= named
    assert not named & {"foscttm", "pair_distance", "mixing", "kbet", "label_transfer"}
    assert set(report["baselines"]) == {"principal_components"}
    # components are what these two compare with
    compared = {"neighbor_conservation[rna+prot]", "pcr_comparison[rna+prot]"}
    scored = set(report["baselines"]["principal_components"]["metrics"])
    assert scored == set(report["metrics"]) - compared
    assert compared <= set(report["metrics"])
    assert report["training"]["phases"][0]["best_step"]
    assert report["training"]["history"]["join"]["validation"]["value"]
    assert report["model"]["params"]["weight_kl"] == 0.3
    assert "Multigrate" in (tmp_path / "out.report.html").read_text()


def test_a_mosaic_says_how_cells_mix_by_what_was_measured(run, files, tmp_path):
    result = run(files / "rna60.h5ad", files / "atac60.h5ad")
    report = result.report
    assert report["model"]["name"] == "multigrate"
    assert [i["likelihood"] for i in report["inputs"]] == ["nb", "poisson"]
    named = {key.split("[")[0] for key in report["metrics"]}
    assert {"mixing", "kbet", "silhouette", "silhouette_modality", "label_transfer", "scib_bio"} <= named
    assert not named & {"foscttm", "pair_distance", "kbet_batch", "scib_batch", "scib_total"}
    assert "label_transfer[rna->atac]" in report["metrics"]
    assert "label_transfer[rna+atac->rna]" in report["metrics"]
    z = latents(result.output, "rna", "atac")
    assert z["whole"].shape == (90, 4)
    for name in ("rna", "atac"):
        pd.testing.assert_frame_equal(z[name], z["whole"].loc[z[name].index])
    assert report["model"]["params"]["weight_kl"] is not None
    # rows of modalities that were not measured do not count as drawn
    assert report["training"]["cells_drawn"] == pytest.approx(12 * 32 * 120 / 90, rel=0.01)


def test_three_modalities_and_the_same_bytes_twice(run, files, tmp_path):
    inputs = [files / "rna.h5ad", files / "prot.h5ad", files / "atac60.h5ad"]
    digests = [
        run(*inputs, output=tmp_path / f"{i}.h5mu").report["determinism"]["latent_sha256"] for i in range(2)
    ]
    assert digests[0] == digests[1]
    other = run(*inputs, output=tmp_path / "other.h5mu", seed=1)
    assert other.report["determinism"]["latent_sha256"] != digests[0]
    assert "label_transfer[rna+prot+atac->rna+prot]" in other.report["metrics"]


def test_covariates_of_both_sorts_reach_the_model(run, files, tmp_path):
    result = run(
        files / "rna.h5ad", files / "prot.h5ad", batch_key="batch", covariate=["donor"], continuous=["age"]
    )
    saved = load_model(tmp_path / "out.model").model
    assert {k: len(v) for k, v in saved.shape.levels.items()} == {"batch": 2, "donor": 4}
    assert saved.shape.continuous == ("age",)
    ages = np.array([20.0 + i % 7 for i in range(90)])
    response = saved.module.covariates.response
    assert float(response.mean) == pytest.approx(ages.mean())
    assert float(response.sd) == pytest.approx(ages.std(), rel=1e-6)
    assert result.report["status"] == "ok"


def test_a_covariate_that_is_no_number_is_named_with_its_cell(run, files):
    with pytest.raises(InputError) as error:
        run(files / "rna.h5ad", files / "prot.h5ad", continuous=["gap"])
    assert error.value.field == "obs['gap']"
    assert "1 of 90" in error.value.found
    assert "'c5'" in error.value.found
    with pytest.raises(InputError):
        run(files / "rna.h5ad", files / "prot.h5ad", continuous=["donor"])
    with pytest.raises(InputError, match="donr"):
        run(files / "rna.h5ad", files / "prot.h5ad", covariate=["donr"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"likelihood": {"rna": "zinb"}}, [("counts", "zinb"), ("clr", "normal")]),
        ({"likelihood": {"prot": "nb"}}, [("counts", "nb"), ("counts", "nb")]),
        ({"layer": {"rna": "log"}}, [("identity", "normal"), ("clr", "normal")]),
        ({"transform": {"rna": "lognorm"}}, [("lognorm", "normal"), ("clr", "normal")]),
        ({"transform": {"prot": "arcsinh"}, "hvg": {"rna": 20}}, [("counts", "nb"), ("arcsinh", "normal")]),
    ],
)
def test_what_values_are_taken_for(run, files, options, expected):
    report = run(files / "rna.h5ad", files / "prot.h5ad", max_steps=3, **options).report
    assert [(i["transform"], i["likelihood"]) for i in report["inputs"]] == expected


def test_likelihoods_that_do_not_fit_are_refused_with_what_would(run, files, tmp_path):
    two = (files / "rna.h5ad", files / "prot.h5ad")
    rna = ad.read_h5ad(files / "rna.h5ad")
    log = rna.layers["log"].toarray()
    with pytest.raises(UsageError, match="--likelihood does not accept"):
        run(*two, likelihood={"rna": "binomial"})
    with pytest.raises(UsageError, match="does not take rna values for ziln") as error:
        run(*two, likelihood={"rna": "ziln"})
    assert "zinb" in error.value.expected
    with pytest.raises(InputError, match="needs counts") as error:
        run(*two, likelihood={"rna": "nb"}, layer={"rna": "log"})
    assert "--layer rna=X" in error.value.hint
    for likelihood in ("nb", "zinb", "poisson"):
        given = {"likelihood": {"rna": likelihood}, "dry_run": True}
        for x, hint in ((log, "--likelihood rna=normal"), (log - 1, "--transform rna=identity")):
            alone = ad.AnnData(x, rna.obs, rna.var)
            alone.write_h5ad(tmp_path / "rna.h5ad")
            with pytest.raises(InputError, match="needs counts") as error:
                run(tmp_path / "rna.h5ad", files / "prot.h5ad", **given)
            assert error.value.hint.endswith(hint)
    # what the hint says is taken
    normal = {"likelihood": {"rna": "normal"}, "transform": {"rna": "identity"}, "dry_run": True}
    assert run(tmp_path / "rna.h5ad", files / "prot.h5ad", **normal).plan
    with pytest.raises(UsageError, match="not for values after lognorm"):
        run(*two, likelihood={"rna": "nb"}, transform={"rna": "lognorm"})
    with pytest.raises(UsageError, match="among the inputs"):
        run(*two, likelihood={"rnaa": "nb"})
    with pytest.raises(UsageError) as error:
        run(*two, model="scmodal", links=[], likelihood={"rna": "nb"})
    assert error.value.exit_code == 2


def test_what_changes_nothing_is_said(run, files, tmp_path):
    (tmp_path / "l.tsv").write_text("rna\tprot\nrna1\tprot1\n")
    report = run(files / "rna.h5ad", files / "prot.h5ad", links=[tmp_path / "l.tsv"], max_steps=3).report
    assert any("--links changes nothing" in w for w in report["warnings"])
    assert report["links"] == []


def test_batches_that_were_each_measured_in_one_way_are_told(run, files):
    inputs = (files / "rna60.h5ad", files / "atac60.h5ad")
    report = run(*inputs, batch_key="way", max_steps=3).report
    assert any("in one way only" in w for w in report["warnings"])
    report = run(*inputs, batch_key="batch", max_steps=3, force=True).report
    assert not any("in one way only" in w for w in report["warnings"])


def test_a_saved_model_encodes_new_cells_as_it_did(run, files, tmp_path):
    run(files / "rna60.h5ad", files / "atac60.h5ad", batch_key="batch")
    saved = load_model(tmp_path / "out.model")
    z = latents(tmp_path / "out.h5mu")["whole"]
    from mocli.tasks.prepare.load import load
    from mocli.tasks.prepare.plan import make_plan
    from mocli.tasks.run.options import DataOptions, TrainOptions
    from mocli.types import Task

    data = DataOptions([str(files / "rna60.h5ad"), str(files / "atac60.h5ad")], batch_key="batch")
    made = make_plan(data, TrainOptions(), Task.INTEGRATE, lambda _: None)
    quiet = {"say": lambda _: None, "warn": lambda _: None}
    bundle = load(made, saved.model.params, seed=0, **quiet).bundle
    import torch

    with torch.inference_mode():
        batch = BundleRows(bundle, "cpu").take_cells(torch.arange(bundle.n_cells), 0)
        again = saved.model.encode_cells(batch).numpy()
    np.testing.assert_array_equal(again, z.loc[list(bundle.obs_names)].to_numpy())


def test_a_model_of_paired_cells_keeps_the_ways_by_which_queries_are_imputed(run, files, tmp_path):
    result = run(files / "rna.h5ad", files / "prot.h5ad")
    folder = result.output.with_suffix(".model")
    assert load_model(folder).stacks.keys() == {("rna", "prot"), ("prot", "rna")}
    log = result.output.with_suffix(".log").read_text()
    assert 0 < log.index("weighing ways from rna to prot") < log.index("ways from rna to prot weighed")
    query = measure(tmp_path / "query.h5ad", "rna", CELLS[:40], seed=1)
    filled = mocli.impute(
        [f"rna={query}"],
        from_model=folder,
        target="prot",
        output=tmp_path / "filled.h5ad",
        html=False,
        threads=1,
    )
    new = ad.read_h5ad(tmp_path / "filled.h5ad")
    # made by the stack, with intervals from training cells while these were left out
    assert "route" in filled.report["tables"]
    inside = (new.layers["lower"] <= new.X) & (new.layers["upper"] >= new.X)
    assert inside.all()
    assert {"pearson", "r2"} <= set(new.var)
    assert "training_distance" in new.obs
    assert not any("has no stack" in warning for warning in filled.report["warnings"])


def test_ways_that_nothing_will_read_are_not_weighed(run, files):
    result = run(files / "rna.h5ad", files / "prot.h5ad", ways=False)
    assert load_model(result.output.with_suffix(".model")).stacks == {}
    assert "weighing ways" not in result.output.with_suffix(".log").read_text()
    assert "stack_s" not in result.report["timing"]


def test_a_stack_is_added_to_a_model_that_is_whole_without(run, files, monkeypatch):
    from mocli.tasks.infer import stackfitting

    before = {}

    def stop(folder, stacks):
        before.update({p.name: p.read_bytes() for p in folder.iterdir()})
        assert load_model(folder).stacks == {}
        keep(folder, stacks)

    keep = stackfitting.write_stacks
    monkeypatch.setattr(stackfitting, "write_stacks", stop)
    folder = run(files / "rna.h5ad", files / "prot.h5ad").output.with_suffix(".model")
    assert before.keys() == {"model.json", "weights.safetensors"}
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert {p.name for p in folder.iterdir()} - before.keys() == {STACKS, CALIBRATION}
    assert (folder / STACKS).stat().st_mode == (folder / "model.json").stat().st_mode
    # a model of an earlier version held them among its weights
    stacks, arrays = read_part(folder, STACKS)
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "stacks": stacks}))
    weights = load_file(folder / "weights.safetensors")
    save_file({**weights, **arrays}, folder / "weights.safetensors")
    new = load_model(folder).stacks
    (folder / STACKS).unlink()
    assert load_model(folder).stacks.keys() == new.keys() == {("rna", "prot"), ("prot", "rna")}
    (folder / STACKS).write_bytes(b"rubbish")
    with pytest.raises(InputError, match="holds no readable model"):
        load_model(folder)


def test_wide_targets_have_no_stack_and_imputing_says_how_to_get_one(run, files, tmp_path, monkeypatch):
    monkeypatch.setattr("mocli.tasks.infer.stackfitting.MOST_FEATURES", P["prot"])
    result = run(files / "rna.h5ad", files / "prot.h5ad")
    folder = result.output.with_suffix(".model")
    assert load_model(folder).stacks.keys() == {("rna", "prot")}
    filled = mocli.impute(
        [files / "prot.h5ad"],
        from_model=folder,
        target="rna",
        output=tmp_path / "o.h5ad",
        html=False,
        threads=1,
    )
    assert any("mocli impute --from prot --to rna" in warning for warning in filled.report["warnings"])
