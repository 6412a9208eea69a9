"""`mocli benchmark` of tasks that take a trained model: simulation, genes and peaks, shares of the cells."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from test_benchmark import QUICK, rows, run_inside, value

import mocli
from mocli.data.demo import write_demo
from mocli.errors import InputError, MocliError, UsageError
from mocli.tasks.benchmark import page as benchpage
from mocli.tasks.benchmark.scorer import loss_ratios
from mocli.tasks.benchmark.table import Record, held_out_loss


@pytest.fixture(autouse=True, scope="module")
def inside():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mocli.tasks.benchmark.processes.Processes.run", run_inside)
        yield


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tissue")
    write_demo(folder, n_cells=100)
    planted = pd.read_csv(folder / "planted.tsv", sep="\t", comment="#")
    genes = pd.read_csv(folder / "genes.tsv", sep="\t", comment="#").set_index("gene").loc[planted["gene"]]
    tss = np.where(genes["strand"] == "+", genes["start"], genes["end"] - 1)
    place = planted["peak"].str.extract(r"(.+):(\d+)-(\d+)")
    sides = {0: genes["chrom"].to_numpy(), 1: tss, 2: tss + 1, 3: place[0], 4: place[1], 5: place[2]}
    pd.DataFrame(sides).to_csv(folder / "truth.bedpe", sep="\t", index=False, header=False)
    return folder


@pytest.fixture(scope="module")
def bench(tissue):
    """One model at all tasks but imputation."""
    options = {
        **QUICK, "links": tissue / "rna-atac.tsv", "label_key": "cell_type", "models": "multigrate",
        "params": {"n_hidden": 16, "n_latent": 4, "batch_size": 32}, "seeds": [0],
        "tasks": "integrate,simulate,gene2peak", "gtf": tissue / "genes.tsv",
        "truth": tissue / "truth.bedpe",
    }  # fmt: skip
    mocli.benchmark(tissue / "multiome.h5mu", output=tissue / "b.tsv", **options)
    return tissue, options


def test_later_tasks_take_the_integrated_model(bench, check_report):
    folder, _ = bench
    for task in ("simulate", "gene2peak"):
        run = folder / f"b.runs/{task}-multigrate-seed0"
        report = json.loads((run / "out.report.json").read_text())
        assert report["status"] == "ok"
        assert report["training"] is None
        assert str(folder / "b.runs/integrate-multigrate-seed0/out.model") in report["command"]
        assert not any("already trained" in w for w in report["warnings"]), "no option without effect"
    check_report(folder / "b.report.json")


def test_held_out_cells_are_given_back_from_all_their_modalities(tissue, tmp_path, check_report):
    """Figures are those of decoded values, made here by hand; the control knows depths and means alone."""
    import mudata
    import torch
    from sklearn.metrics import average_precision_score

    from mocli.models.base import Conditions
    from mocli.tasks.trained.saved import load_model

    options = {**QUICK, "max_steps": 30, "params": {"n_hidden": 16, "n_latent": 4, "batch_size": 32}}
    mocli.benchmark(
        tissue / "multiome.h5mu", output=tmp_path / "b.tsv", models="multigrate,scmodal", seeds=[0],
        tasks="reconstruct", label_key="cell_type", **options,
    )  # fmt: skip
    table = rows(tmp_path / "b.tsv")
    (left,) = [r for r in table if r["method"] == "scmodal"]
    assert left["status"] == "skipped"
    runs = tmp_path / "b.runs"
    folders = {part: runs / f"integrate-multigrate-seed0-{part}" for part in ("training", "held-out")}
    n_obs = {
        part: {given["n_obs"] for given in json.loads((folder / "out.report.json").read_text())["inputs"]}
        for part, folder in folders.items()
    }
    assert n_obs == {"training": {80}, "held-out": {20}}

    # of the features that the decoder has, the values at the places that the second run wrote
    cells = mudata.read_h5mu(folders["held-out"] / "out.h5mu")
    saved = load_model(folders["training"] / "out.model")
    kept = saved.recipes["rna"].selected
    y = np.asarray(cells["rna"].X.todense(), np.float64)
    with torch.no_grad():
        z = torch.from_numpy(cells["rna"].obsm["X_multigrate"])
        shares = saved.model.decode("rna", z, Conditions({}, None), torch.ones(len(z))).numpy()
    x = y.copy()
    x[:, kept] = shares / shares.sum(1, keepdims=True) * y[:, kept].sum(1, keepdims=True)
    assert len(kept) >= y.shape[1] - 3, "the readout gives back only a few that are constant"
    rmse = value(table, "multigrate", "reconstruction_rmse", of="rna", task="reconstruct")
    assert rmse == pytest.approx(np.sqrt(np.mean((x - y) ** 2)), rel=0.01)
    both = [j for j in kept if 0 < (y[:, j] > 0).sum() < len(y)]
    auprc = np.mean([average_precision_score(y[:, j] > 0, x[:, j]) for j in both])
    assert value(table, "multigrate", "reconstruction_auprc", of="rna") == pytest.approx(auprc, abs=0.01)

    whole = mudata.read_h5mu(tissue / "multiome.h5mu")
    counts = np.asarray(whole["rna"].X.todense(), np.float64)
    out = np.isin(list(whole.obs_names), list(cells.obs_names))
    error = counts[out] - counts[out].sum(1, keepdims=True) * counts[~out].sum(0) / counts[~out].sum()
    told = value(table, "mean", "reconstruction_rmse", of="rna")
    assert told == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
    assert {r["kind"] for r in table if r["method"] == "mean"} == {"control"}
    check_report(tmp_path / "b.report.json")


def test_models_that_cannot_are_left_out_with_the_reason(bench, tmp_path):
    folder, options = bench
    options = {**options, "models": "scmodal", "params": {}}
    plan = mocli.benchmark(folder / "multiome.h5mu", output=tmp_path / "b.tsv", dry_run=True, **options).plan
    assert "leaves out scmodal for simulate: it cannot simulate" in plan
    (reason,) = [line for line in plan if line.startswith("leaves out scmodal for gene2peak")]
    assert "by correlation alone" in reason
    assert [line.split()[2] for line in plan if line.startswith("would run")] == ["integrate"]


def test_figures_are_those_of_the_runs_reports_with_their_controls(bench):
    folder, _ = bench
    table = rows(folder / "b.tsv")
    report = json.loads((folder / "b.runs/simulate-multigrate-seed0/out.report.json").read_text())
    for method, metrics in (
        ("multigrate", report["metrics"]),
        ("other_real_cells", report["baselines"]["other_real_cells"]["metrics"]),
    ):
        for metric in ("library_ks", "nearest_label", "variance_ratio"):
            told = metrics[f"{metric}[rna]"]["value"]
            assert value(table, method, metric, of="rna", task="simulate") == pytest.approx(told, rel=1e-6)
    ratio = report["metrics"]["variance_ratio[rna]"]["value"]
    assert value(table, "multigrate", "off_variance_ratio", of="rna") == pytest.approx(abs(ratio - 1.0))

    report = json.loads((folder / "b.runs/gene2peak-multigrate-seed0/out.report.json").read_text())
    told = {k: v["value"] for k, v in report["metrics"].items() if k.startswith("silencing_auprc")}
    scores = {"silencing": "multigrate", "spearman": "spearman", "nearness": "nearness", "chance": "chance"}
    for score, method in scores.items():
        found = value(table, method, "silencing_auprc", of="the known pairs", task="gene2peak")
        assert found == pytest.approx(told[f"silencing_auprc[the known pairs; {score}]"], rel=1e-6)
    kinds = {r["method"]: r["kind"] for r in table if r["task"] == "gene2peak"}
    assert kinds["spearman"] == kinds["pearson"] == kinds["chance"] == "control"
    ranks = {r["method"]: r["value"] for r in table if r["metric"] == "rank" and r["task"] == "gene2peak"}
    simple = {"spearman", "pearson", "nearness", "metacells", "combined"}
    assert set(ranks) == {"multigrate", *simple}, "chance is a bound"
    assert {r["aspect"] for r in table if r["task"] == "gene2peak" and r["metric"] == "silencing_auprc"} == {
        "links"
    }


def test_they_are_made_again_with_the_model_and_only_then(bench, tmp_path):
    folder, options = bench

    def ask():
        output, dry = folder / "b.tsv", {"force": True, "dry_run": True}
        return mocli.benchmark(folder / "multiome.h5mu", output=output, **dry, **options)

    kept = [folder / f"b.runs/{task}-multigrate-seed0" for task in ("integrate", "simulate")]
    plan = ask()
    assert not [line for line in plan.plan if line.startswith("would run")]
    # the report of the integration is lost: its model will be another one
    held = tmp_path / "report.json"
    shutil.move(kept[0] / "out.report.json", held)
    try:
        plan = ask()
    finally:
        shutil.move(held, kept[0] / "out.report.json")
    again = {line.split(":")[0] for line in plan.plan if line.startswith("would run")}
    assert again == {f"would run {t} multigrate seed 0" for t in ("integrate", "simulate", "gene2peak")}


def test_what_takes_a_failed_model_fails_with_it(tissue, tmp_path):
    """A likelihood that multiDGD has not: nothing is simulated from a model that is not there."""
    with pytest.raises(MocliError, match="no run of multigrate ended well"):
        mocli.benchmark(
            tissue / "multiome.h5mu", output=tmp_path / "b.tsv", models="multigrate", seeds=[0],
            tasks="integrate,simulate", label_key="cell_type", params={"n_hidden": 16},
            transform={"rna": "tfidf-lsi"}, likelihood={"rna": "nb"}, **QUICK,
        )  # fmt: skip
    failed = {r["task"]: r["note"] for r in rows(tmp_path / "b.tsv") if r["status"] == "failed"}
    assert set(failed) == {"integrate", "simulate"}
    assert failed["simulate"] == "the run whose model it takes failed: integrate multigrate seed 0"


def test_without_integration_they_train_themselves(tissue, tmp_path):
    plan = mocli.benchmark(
        tissue / "multiome.h5mu", output=tmp_path / "b.tsv", models="multigrate", seeds=[0],
        tasks="gene2peak,simulate", gtf=tissue / "genes.tsv", dry_run=True, **QUICK,
    ).plan  # fmt: skip
    runs = [line for line in plan if line.startswith("would run")]
    assert [line.split()[2] for line in runs] == ["simulate", "gene2peak"]
    assert all("--model multigrate" in line and "--from-model" not in line for line in runs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tasks": "gene2peak"}, UsageError, "needs --gtf"),
        ({"tasks": "simulate", "gtf": "g"}, UsageError, "--gtf only works"),
        ({"truth": "t"}, UsageError, "--truth only works"),
        ({"tasks": "gene2peak", "gtf": "absent.gtf"}, InputError, "--gtf does not exist"),
    ],
)
def test_what_cannot_be_meant_is_refused(tissue, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        mocli.benchmark(tissue / "multiome.h5mu", output=tmp_path / "b.tsv", **{**QUICK, **options})


def test_proteins_are_no_peaks(paired, tmp_path):
    plan = mocli.benchmark(
        paired / "data.h5mu", output=tmp_path / "b.tsv", models="multigrate", tasks="integrate,gene2peak",
        gtf=paired / "links.tsv", dry_run=True, **QUICK,
    ).plan  # fmt: skip
    assert "leaves out multigrate for gene2peak: it needs expression and accessibility" in plan


@pytest.mark.slow
def test_models_of_a_share_of_the_cells_place_all_of_them(tissue, tmp_path):
    options = {**QUICK, "models": "multigrate", "seeds": [0], "label_key": "cell_type"}
    done = mocli.benchmark(
        tissue / "multiome.h5mu", output=tmp_path / "b.tsv", tasks="integrate,impute", fractions="0.5",
        source="atac", target="rna", params={"n_hidden": 16, "n_latent": 4, "batch_size": 32}, **options,
    )  # fmt: skip
    table = rows(tmp_path / "b.tsv")
    assert not [r["note"] for r in table if r["status"] == "failed"]
    whole = value(table, "multigrate", "silhouette_label", study="")
    share = value(table, "multigrate", "silhouette_label", study="fraction=0.5")
    assert share is not None
    assert share != whole
    assert len({r["n"] for r in table if r["metric"] == "silhouette_label"}) == 1
    found = [json.loads(p.read_text()) for p in tmp_path.glob("b.runs/impute-*/out.report.json")]
    assert {r["inputs"][0]["n_obs"] for r in found} == {50, 80}
    costs = done.report["tables"]["costs"]
    assert {(r[1], r[2]) for r in costs["rows"]} == {
        ("integrate", None), ("impute", None), ("integrate", "fraction=0.5"), ("impute", "fraction=0.5"),
    }  # fmt: skip


@pytest.mark.slow
def test_held_out_cells_are_lost_on_models_of_few_cells_and_of_other_batches(tissue, tmp_path):
    """The same held-out cells under every study: the loss of a study over that of all training cells."""
    import mudata

    options = {**QUICK, "max_steps": 150, "params": {"n_hidden": 32, "n_latent": 6, "batch_size": 32}}
    mocli.benchmark(
        tissue / "multiome.h5mu", output=tmp_path / "b.tsv", models="multigrate", seeds=[0],
        tasks="reconstruct", batch_key="batch", fractions="0.25,0.5", features_seen_in="0.3",
        leave_one_batch_out=True, **options,
    )  # fmt: skip
    table = rows(tmp_path / "b.tsv")
    assert not [r["note"] for r in table if r["status"] == "failed"]
    loss = {
        study: value(table, "multigrate", "reconstruction_loss", of="rna", study=study)
        for study in ("", "fraction=0.25", "fraction=0.5")
    }
    ratio = value(table, "multigrate", "reconstruction_loss_ratio", of="rna", study="fraction=0.25")
    assert ratio == pytest.approx(loss["fraction=0.25"] / loss[""], rel=1e-4)
    assert ratio > 1
    shared = value(table, "multigrate", "reconstruction_loss_ratio", of="rna", study="seen-in=0.3")
    assert 0.5 < shared < 2
    (folder,) = tmp_path.glob("b.runs/integrate-multigrate-seed0-training-seen-in*")
    n_kept = {
        i["modality"]: i["n_used"] for i in json.loads((folder / "out.report.json").read_text())["inputs"]
    }
    assert n_kept["rna"] < 300
    held_out = {}
    for part in ("held-out", "held-out-fraction*0.25*", "held-out*batch_1*", "held-out*batch_2*"):
        (folder,) = tmp_path.glob(f"b.runs/integrate-multigrate-seed0-{part}")
        held_out[part] = set(mudata.read_h5mu(folder / "out.h5mu").obs_names)
    first, fraction, one, two = held_out.values()
    assert first == fraction == one | two
    assert not one & two
    assert (
        value(table, "multigrate", "reconstruction_loss_ratio", of="rna", study="without-batch=batch_1") > 0.9
    )
    assert value(table, "mean", "reconstruction_loss", of="rna", study="without-batch=batch_1") is not None


def test_losses_are_divided_and_the_held_out_one_is_found():
    def entries(**losses):
        return {
            f"reconstruction_loss[{m}]": {"value": v, "definition": "", "n": 7} for m, v in losses.items()
        }

    found = loss_ratios(
        {**entries(rna=3.0, atac=1.0), "reconstruction_rmse[rna]": {}}, entries(rna=2.0, atac=4.0)
    )
    values = {key: entry["value"] for key, entry in found.items()}
    assert values == {"reconstruction_loss_ratio[rna]": 1.5, "reconstruction_loss_ratio[atac]": 0.25}
    curve = {"step": [1.0, 2.0, 3.0], "value": [5.0, 3.0, 4.0]}
    assert held_out_loss({"history": {"pretrain": {}, "train": {"validation": curve}}}) == 3.0
    assert held_out_loss({"history": {"align": {"mmd": {"step": [1.0], "value": [1.0]}}}}) is None


def test_the_page_sets_what_studies_cost_beside_the_benchmark_itself():
    def record(study, key, value):
        return Record("impute", "a", "model", 0, study, "ok", key, value, aspect="cost")

    half = "fraction=0.5"
    records = [record("", "train_s", 4.0), record(half, "train_s", 2.0), record(half, "steps", 9.0)]
    assert benchpage.costs(records, studies=False) == {"Training, s": {"a, impute": [4.0]}}
    assert benchpage.costs(records, studies=True) == {
        "Training, s": {"a, impute, all": [4.0], "a, impute, fraction=0.5": [2.0]}
    }
    assert benchpage.costs(records[:1], studies=True) == {}


def test_shares_of_cells_need_something_to_impute(paired, tmp_path):
    with pytest.raises(
        UsageError, match="--fractions only works together with --tasks impute or reconstruct"
    ):
        mocli.benchmark(paired / "data.h5mu", output=tmp_path / "b.tsv", fractions="0.5", **QUICK)
