"""`mocli.integrate` from files to files: what is written, what stays, what is the same twice."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

from mocli.errors import InputError, UsageError

ROOT = Path(__file__).resolve().parents[3]


def two(folder):
    return [folder / "rna.h5ad", folder / "prot.h5ad"]


def files_in(folder):
    return {p for p in folder.rglob("*") if p.is_file()}


def test_outputs_exist_and_the_report_is_true(run, unpaired, tmp_path, read, check_report):
    result = run(two(unpaired), links=[unpaired / "links.tsv"], label_key="cell_type")
    assert files_in(tmp_path) == set(result.files)
    report = check_report(tmp_path / "out.report.json")
    assert report == json.loads(json.dumps(result.report))
    assert report["status"] == "ok"
    assert {o["path"] for o in report["outputs"]} == {str(tmp_path / "out.h5mu"), str(tmp_path / "out.model")}
    assert [(i["modality"], i["n_obs"], i["n_vars"]) for i in report["inputs"]] == [
        ("rna", 70, 50),
        ("prot", 60, 12),
    ]
    assert [i["transform"] for i in report["inputs"]] == ["lognorm", "clr"]
    link = report["links"][0]
    assert (link["n_read"], link["n_matched"], link["n_columns"]) == (10, 10, 10)
    assert report["training"]["steps"] == 10
    assert report["training"]["stop_reason"] == "steps"
    assert len(report["training"]["history"]["align"]["mnn"]["value"]) == 10
    assert report["model"]["params"]["n_hidden"] == 16
    assert {"load_s", "train_s", "encode_s", "evaluate_s", "write_s", "total_s"} <= set(report["timing"])
    assert report["determinism"]["level"] == "bitwise"
    assert set(report["baselines"]) == {"link_features", "smoothed_link_features"}

    cells = read(tmp_path / "out.h5mu")
    assert list(cells.mod) == ["rna", "prot"]
    for name, n in (("rna", 70), ("prot", 60)):
        z = cells[name].obsm["X_scmodal"]
        assert z.shape == (n, 4)
        assert z.dtype == np.float32
        assert np.isfinite(z).all()
    joined = np.concatenate([cells[name].obsm["X_scmodal"] for name in ("rna", "prot")])
    np.testing.assert_array_equal(cells.obsm["X_scmodal"], joined)
    assert list(cells.obs_names) == [*cells["rna"].obs_names, *cells["prot"].obs_names]
    assert not (tmp_path / "out.ckpt").exists()


def test_the_log_holds_every_decision(run, unpaired, tmp_path):
    run(two(unpaired), links=[unpaired / "links.tsv"])
    text = (tmp_path / "out.log").read_text()
    for words in (
        "70 cells x 50 rna features",
        "cells are unpaired (no cell name is shared)",
        "model: scmodal",
        "transform lognorm (usual for rna with counts)",
        "10 links: 10 of 50 rna features <-> 10 of 12 prot features",
        "step 10/10",
        "mixing",
        "wrote",
    ):
        assert words in text


def test_from_python_it_is_silent(run, unpaired, capfd):
    run(two(unpaired), links=[unpaired / "links.tsv"])
    assert capfd.readouterr() == ("", "")


def test_one_path_may_stand_for_a_list(run, paired):
    result = run(paired / "data.h5mu", links=paired / "links.tsv", pairing="unpaired")
    assert result.output.exists()


# what stays


def test_inputs_never_change(run, unpaired, sha256):
    before = {p: sha256(p) for p in files_in(unpaired)}
    run(two(unpaired), links=[unpaired / "links.tsv"], label_key="cell_type", umap=True)
    assert {p: sha256(p) for p in files_in(unpaired)} == before


def rich(path, source):
    """A user's file full of slots that are none of our business."""
    a = ad.read_h5ad(source)
    rng = np.random.default_rng(0)
    a.layers["raw_counts"] = a.X.copy()
    a.obsm["X_pca"] = rng.normal(size=(a.n_obs, 3)).astype(np.float32)
    a.obsp["graph"] = sparse.random(a.n_obs, a.n_obs, 0.05, format="csr", random_state=0)
    a.varm["loadings"] = rng.normal(size=(a.n_vars, 3))
    a.uns["colours"] = {"cell_type": np.array(["red", "green"]), "n": 3}
    a.obs["note"] = [f"n{i}" for i in range(a.n_obs)]
    a.var["chrom"] = pd.Categorical(["chr1"] * a.n_vars)
    a.raw = a.copy()
    a.write_h5ad(path, compression="gzip")
    return a


def test_the_users_slots_come_through(run, unpaired, tmp_path, read):
    mine = rich(tmp_path / "rna.h5ad", unpaired / "rna.h5ad")
    run([tmp_path / "rna.h5ad", unpaired / "prot.h5ad"], links=[unpaired / "links.tsv"])
    theirs = read(tmp_path / "out.h5mu")["rna"]
    assert theirs.obs[list(mine.obs)].equals(mine.obs)
    assert theirs.var[list(mine.var)].equals(mine.var)
    assert "modality" in set(theirs.obs) - set(mine.obs) <= {"modality", "scmodal_louvain", "louvain"}
    assert set(theirs.var) - set(mine.var) == {"mocli_used"}
    assert (theirs.X != mine.X).nnz == 0
    assert (theirs.layers["raw_counts"] != mine.layers["raw_counts"]).nnz == 0
    np.testing.assert_array_equal(theirs.obsm["X_pca"], mine.obsm["X_pca"])
    assert (theirs.obsp["graph"] != mine.obsp["graph"]).nnz == 0
    np.testing.assert_array_equal(theirs.varm["loadings"], mine.varm["loadings"])
    np.testing.assert_array_equal(theirs.uns["colours"]["cell_type"], mine.uns["colours"]["cell_type"])
    assert theirs.raw.shape == mine.raw.shape
    assert set(theirs.obsm) == {"X_pca", "X_scmodal"}
    assert set(theirs.uns) == {"colours", "mocli"}


def test_order_of_cells_in_is_order_out(run, unpaired, tmp_path, read):
    """And each row of the latent is of its own cell: the saved model gives it from that cell's row alone."""
    from mocli.data.files.inputs import open_inputs
    from mocli.tasks.infer.align import place
    from mocli.tasks.trained.saved import load_model

    shuffled = ad.read_h5ad(unpaired / "rna.h5ad")
    shuffled = shuffled[np.random.default_rng(7).permutation(shuffled.n_obs)].copy()
    shuffled.write_h5ad(tmp_path / "rna.h5ad")
    run([tmp_path / "rna.h5ad", unpaired / "prot.h5ad"], links=[unpaired / "links.tsv"])
    out = read(tmp_path / "out.h5mu")
    assert list(out["rna"].obs_names) == list(shuffled.obs_names)
    assert list(out.obs_names)[:70] == list(shuffled.obs_names)

    saved = load_model(tmp_path / "out.model")
    (original,) = open_inputs([str(unpaired / "rna.h5ad")])
    z = pd.DataFrame(place(saved, "rna", original.read(), None, "cpu"), index=original.obs.index)
    np.testing.assert_allclose(z.loc[shuffled.obs_names], out["rna"].obsm["X_scmodal"], atol=2e-5)


# provenance and sameness


def test_provenance(run, unpaired, tmp_path, read, sha256):
    command = ["mocli", "integrate", "rna.h5ad"]
    run(two(unpaired), links=[unpaired / "links.tsv"], seed=3, command=command)
    out = read(tmp_path / "out.h5mu")
    for part in (out, out["rna"], out["prot"]):
        told = part.uns["mocli"]
        assert list(told["command"]) == command
        assert told["model"] == "scmodal"
        assert int(told["seed"]) == 3
        assert told["device"] == "cpu"
        assert json.loads(told["params"])["n_latent"] == 4
        assert {i["sha256"] for i in json.loads(told["inputs"])} == {sha256(p) for p in two(unpaired)}
        assert json.loads(told["links"])[0]["sha256"] == sha256(unpaired / "links.tsv")
        assert {"mocli", "torch", "anndata"} <= set(json.loads(told["versions"]))
        assert told["date"].endswith("Z")


def test_without_provenance_the_files_are_the_same_to_the_byte(run, unpaired, tmp_path, sha256):
    hashes = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(
            two(unpaired),
            links=[unpaired / "links.tsv"],
            output=tmp_path / name / "out.h5mu",
            provenance=False,
            umap=True,
        )
        names = ("out.h5mu", "out.model/weights.safetensors", "out.model/model.json")
        hashes.append([sha256(tmp_path / name / f) for f in names])
    assert hashes[0] == hashes[1]
    with h5py.File(tmp_path / "a" / "out.h5mu") as h5:
        assert "mocli" not in h5["uns"]
        assert "mocli" not in h5["mod/rna/uns"]


def test_the_same_seed_gives_the_same_latent_and_another_does_not(run, unpaired):
    def digest(seed):
        result = run(two(unpaired), links=[unpaired / "links.tsv"], seed=seed, force=True)
        return result.report["determinism"]["latent_sha256"]

    first = digest(0)
    assert digest(0) == first
    assert digest(1) != first


def test_callers_random_numbers_are_untouched(run, unpaired):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(two(unpaired), links=[unpaired / "links.tsv"], seed=9)
    assert torch.equal(torch.rand(3), expected)


# options about the output


def test_key_added_and_umap(run, unpaired, tmp_path, read):
    run(two(unpaired), links=[unpaired / "links.tsv"], key_added="X_mine", umap=True, params={"n_latent": 6})
    out = read(tmp_path / "out.h5mu")
    assert out.obsm["X_mine"].shape == (130, 6)
    assert out["prot"].obsm["X_mine"].shape == (60, 6)
    assert "X_scmodal" not in out.obsm
    assert out.obsm["X_umap"].shape == (130, 2)
    assert np.isfinite(out.obsm["X_umap"]).all()


def test_reports_can_lie_elsewhere(run, unpaired, tmp_path, check_report):
    (tmp_path / "reports").mkdir()
    run(two(unpaired), links=[unpaired / "links.tsv"], report=tmp_path / "reports" / "x_mqc.json")
    assert check_report(tmp_path / "reports" / "x_mqc.json")["status"] == "ok"
    assert not (tmp_path / "out.report.json").exists()


def test_an_output_that_exists_is_kept_unless_forced(run, unpaired, tmp_path, sha256, check_report):
    run(two(unpaired), links=[unpaired / "links.tsv"])
    before = {p: sha256(p) for p in files_in(tmp_path)}
    with pytest.raises(UsageError, match="the output exists"):
        run(two(unpaired), links=[unpaired / "links.tsv"], seed=1)
    failed = tmp_path / "out.failed.report.json"
    assert {p: sha256(p) for p in files_in(tmp_path) - {failed}} == before
    assert json.loads(failed.read_text())["error"]["exit_code"] == 2
    # nor does a forced run that fails before it has written anything take the good one's report
    with pytest.raises(InputError):
        run(two(unpaired), links=[unpaired / "links.tsv"], force=True, label_key="nothing")
    report = tmp_path / "out.report.json"
    assert sha256(report) == before[report]
    run(two(unpaired), links=[unpaired / "links.tsv"], seed=1, force=True)
    assert sha256(tmp_path / "out.h5mu") != before[tmp_path / "out.h5mu"]
    assert check_report(tmp_path / "out.report.json")["seed"] == 1


def test_its_own_output_can_be_integrated_again(run, unpaired, tmp_path, read):
    run(two(unpaired), links=[unpaired / "links.tsv"])
    run([tmp_path / "out.h5mu"], links=[unpaired / "links.tsv"], output=tmp_path / "again.h5mu", seed=1)
    first, second = read(tmp_path / "out.h5mu"), read(tmp_path / "again.h5mu")
    assert list(first.obs_names) == list(second.obs_names)
    assert set(second.obsm) - {"rna", "prot"} == {"X_scmodal"}
    assert not np.array_equal(first.obsm["X_scmodal"], second.obsm["X_scmodal"])


# dry run


@pytest.mark.parametrize("html", [False, True])
def test_a_dry_run_names_exactly_the_files_of_a_real_one(run, unpaired, tmp_path, html):
    options = {"links": [unpaired / "links.tsv"], "html": html, "label_key": "cell_type"}
    dry = run(two(unpaired), dry_run=True, **options)
    assert files_in(tmp_path) == set()
    named = {Path(line.removeprefix("would write ")) for line in dry.plan if line.startswith("would write")}
    assert named == set(dry.files)
    if html:  # a picture of few cells needs no UMAP
        small = {}
        for name in ("rna", "prot"):
            a = ad.read_h5ad(unpaired / f"{name}.h5ad")[:7]
            (tmp_path / "in").mkdir(exist_ok=True)
            a.copy().write_h5ad(tmp_path / "in" / f"{name}.h5ad")
            small[name] = tmp_path / "in" / f"{name}.h5ad"
        run(list(small.values()), **options)
    else:
        run(two(unpaired), **options)
    assert files_in(tmp_path) - files_in(tmp_path / "in") == named


def test_a_dry_run_says_what_a_real_run_decides(run, unpaired):
    plan = "\n".join(run(two(unpaired), links=[unpaired / "links.tsv"], dry_run=True, seed=4).plan)
    for words in ("model: scmodal", "transform clr", "10 links", "n_hidden=16", "memory will be needed"):
        assert words in plan


def test_a_dry_run_refuses_what_a_real_run_would(run, unpaired, tmp_path):
    (tmp_path / "out.h5mu").write_text("mine")
    with pytest.raises(UsageError, match="the output exists"):
        run(two(unpaired), links=[unpaired / "links.tsv"], dry_run=True)
    with pytest.raises(UsageError, match="did you mean 'n_hidden'"):
        run(
            two(unpaired),
            links=[unpaired / "links.tsv"],
            output=tmp_path / "o.h5mu",
            dry_run=True,
            params={"n_hiden": 3},
        )


def test_a_dry_run_loads_no_torch(unpaired, tmp_path):
    code = """
import sys, mocli
mocli.integrate(sys.argv[1:3], links=sys.argv[3], output=sys.argv[4], dry_run=True)
heavy = {"torch", "sklearn", "umap", "matplotlib", "scanpy"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *two(unpaired), unpaired / "links.tsv", tmp_path / "o.h5mu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_it_runs_in_a_thread_of_a_notebook(run, unpaired, tmp_path):
    """Where no signal handler can be set."""
    expected = run(two(unpaired), links=[unpaired / "links.tsv"]).report["determinism"]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run, two(unpaired), links=[unpaired / "links.tsv"], output=tmp_path / "t.h5mu")
        assert job.result().report["determinism"] == expected


def test_threads_stay_as_asked_whatever_other_libraries_do(tmp_path):
    import torch

    def of_pools():
        # other libraries may have kinds of their own
        pools = [p for p in threadpool_info() if p["user_api"] in {"blas", "openmp"}]
        return {(pool["user_api"], pool["num_threads"]) for pool in pools}

    from mocli.tasks.run.options import OutputOptions, RunOptions
    from mocli.tasks.run.paths import Paths
    from mocli.tasks.run.run import Run

    output, options = OutputOptions(tmp_path / "o.h5mu"), RunOptions(device="cpu", threads=1)
    paths = Paths.of(output, options, suffixes=(".h5mu",))
    with Run("integrate", paths, output=output, options=options, command=["mocli"]) as run:
        assert of_pools() == {("blas", 1), ("openmp", 1)}
        with run.timed("load"):
            torch.set_num_threads(2)
            threadpool_limits(2)
        assert torch.get_num_threads() == 1
        assert of_pools() == {("blas", 1), ("openmp", 1)}


def test_metrics_may_be_left_out(run, unpaired, check_report):
    result = run(two(unpaired), links=[unpaired / "links.tsv"], metrics="none", html=True)
    report = check_report(result.output.with_suffix("").with_suffix(".report.json"))
    assert report["metrics"] == {}
    assert report["baselines"] == {}
    assert result.output.exists()
    assert result.output.with_name("out.report.html").exists()


def test_pictures_of_the_report_are_files_on_request(run, unpaired, tmp_path, check_report):
    inputs, links = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], [unpaired / "links.tsv"]
    options = {"links": links, "html": True, "label_key": "cell_type", "metrics": "leading"}
    run(inputs, **options, figures="svg")
    files = sorted(p.name for p in (tmp_path / "out.figures").iterdir())
    page = (tmp_path / "out.report.html").read_text()
    assert len(files) == page.count("<img") > 5
    assert any(name.endswith("-cells-by-label.svg") for name in files)
    text = (tmp_path / "out.figures" / files[0]).read_text()
    assert "<svg" in text
    report = check_report(tmp_path / "out.report.json")
    assert str(tmp_path / "out.figures") in [output["path"] for output in report["outputs"]]
    with pytest.raises(UsageError, match="the output exists"):
        run(inputs, **options, figures="png", output=tmp_path / "out.h5mu")
    with pytest.raises(UsageError, match="--no-html"):
        run(inputs, links=links, figures="svg", output=tmp_path / "other.h5mu", html=False)
