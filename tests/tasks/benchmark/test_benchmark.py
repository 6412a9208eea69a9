"""`mocli benchmark` on tiny files: runs in processes, controls, others' embeddings, resuming, failures."""

import csv
import dataclasses
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import mocli
from mocli.errors import InputError, MocliError, UsageError
from mocli.tasks.benchmark.runs import ModelRun
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.run.options import DataOptions, OutputOptions, RunOptions, TrainOptions
from mocli.tasks.run.request import Request
from mocli.types import Task

ROOT = Path(__file__).resolve().parents[3]
QUICK = {"threads": 1, "device": "cpu", "html": False, "max_steps": 2}


@pytest.fixture
def tiny(small):
    """Options of a benchmark whose runs take a moment."""
    return {**QUICK, "params": dict(small), "seeds": [0]}


def run_inside(self, trainings):
    """Stand for `Processes.run` without new processes, whose start costs seconds."""
    from mocli import log
    from mocli.__main__ import main

    codes = {}
    for training in trainings:
        training.begin()
        codes[training.name] = main([*training.command, "--device", "cpu", "--threads", "1", "-qq"])
        log.teardown()
        (training.folder / "stderr.txt").write_text("")
    return codes


@pytest.fixture(autouse=True, scope="module")
def inside():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mocli.tasks.benchmark.processes.Processes.run", run_inside)
        yield


def rows(path):
    with Path(path).open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def value(table, method, metric, **where):
    found = [
        float(r["value"])
        for r in table
        if r["method"] == method and r["metric"] == metric and r["value"]
        and all(r[k] == v for k, v in where.items())
    ]  # fmt: skip
    return found[0] if found else None


@pytest.fixture(scope="module")
def unpaired_bench(unpaired, tmp_path_factory):
    """One benchmark of files measured apart, with everything a later test looks at."""
    folder = tmp_path_factory.mktemp("bench")
    small = {"n_hidden": 16, "n_latent": 4, "batch_size": 32, "n_neighbors": 5}
    options = {**QUICK, "links": unpaired / "links.tsv", "label_key": "cell_type", "params": small}
    options["models"] = "scmodal,multigrate"
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    result = mocli.benchmark(inputs, output=folder / "bench.tsv", seeds=[0], **options)
    return folder, inputs, options, result


def test_table_has_models_controls_and_reasons(unpaired_bench, check_report):
    folder, *_ = unpaired_bench
    table = rows(folder / "bench.tsv")
    methods = {r["method"] for r in table if r["kind"] == "control"}
    assert methods == {"link_features", "smoothed_link_features", "cca", "linked_pca", "shuffled", "perfect"}
    left = {r["method"]: r["note"] for r in table if r["status"] == "skipped"}
    assert "unpaired" in left["multigrate"]
    assert value(table, "scmodal", "train_s", seed="0") > 0
    assert value(table, "scmodal", "peak_memory_bytes") > 1e6
    for metric in ("silhouette_label", "mixing", "label_transfer", "ari_best"):
        scored = {
            r["method"]: r["n"] for r in table if r["metric"] == metric and r["of"] in {"", "rna->prot"}
        }
        assert set(scored) == methods | {"scmodal"}
        assert len(set(scored.values())) == 1, "all are measured on the same cells"
    assert value(table, "perfect", "label_transfer", of="rna->prot") == 1.0
    report = check_report(folder / "bench.report.json")
    # a model of ten steps: nobody is told to run it alone
    assert "is not surpassed" in report["conclusion"]
    assert report["advice"].startswith("A control is first")
    assert value(table, "perfect", "silhouette_label") > 0.85
    assert value(table, "shuffled", "silhouette_label") < 0.55
    assert report["status"] == "ok"
    assert "scmodal" in report["data"], "MultiQC gets a row a method"
    ranking = report["tables"]["ranking_integrate"]
    by_method = {r[0]: r for r in ranking["rows"]}
    assert by_method["perfect"][2] is None
    assert by_method["shuffled"][2] is None
    assert sorted(r[2] for r in ranking["rows"] if r[2]) == [1, 2, 3, 4, 5]
    assert f"{ranking['rows'][0][0]} is first of 5 methods" in report["conclusion"]
    for method, row in by_method.items():
        assert value(table, method, "rank") == row[2]
        if row[3] is not None:
            assert value(table, method, "overall") == pytest.approx(row[3], abs=1e-3)


def test_finished_runs_are_reused_and_say_the_same(unpaired_bench, tmp_path):
    folder, inputs, options, _ = unpaired_bench
    before = (folder / "bench.runs/integrate-scmodal-seed0/out.h5mu").stat().st_mtime_ns
    first = rows(folder / "bench.tsv")
    begun = time.monotonic()
    again = mocli.benchmark(inputs, output=folder / "bench.tsv", seeds=[0], force=True, **options)
    assert time.monotonic() - begun < 3
    assert (folder / "bench.runs/integrate-scmodal-seed0/out.h5mu").stat().st_mtime_ns == before
    assert rows(folder / "bench.tsv") == first
    assert again.report["tables"].keys() == {"ranking_integrate", "costs", "amiss"}


@pytest.fixture
def finished(unpaired_bench, tmp_path):
    """A run that ended well, with its inputs, alone in a folder where it may be spoilt."""
    from mocli.__main__ import main

    _, inputs, options, _ = unpaired_bench
    copies = [shutil.copy(path, tmp_path) for path in (*inputs, options["links"])]
    output = OutputOptions(tmp_path / "run/out.h5mu", html=False, force=True, unless_done=True)
    request = Request(
        DataOptions(copies[:2], links=copies[2:]),
        TrainOptions("scmodal", max_steps=2, params={"n_hidden": 16, "n_latent": 4, "batch_size": 32}),
        RunOptions(device="cpu", threads=1), output, IntegrateOptions(metrics="none", clusters=None),
    )  # fmt: skip
    training = ModelRun(Task.INTEGRATE, "scmodal", 0, "", tmp_path / "run", request)
    training.begin()
    assert main([*training.command, "-qq"]) == 0
    return training


def test_what_has_changed_is_not_reused(finished):
    assert finished.finished()
    request = finished.request

    def changed(**groups):
        return dataclasses.replace(finished, request=dataclasses.replace(request, **groups))

    assert changed(run=RunOptions(device="cuda", threads=2, checkpoint_every="1m")).finished()
    assert not changed(run=RunOptions(seed=1)).finished()
    assert not changed(train=dataclasses.replace(request.train, params={"n_hidden": 17})).finished()
    path = request.data.inputs[0]
    before = Path(path).read_bytes()
    with Path(path).open("ab") as stream:
        stream.write(b"more")
    assert not finished.finished(), "an input is another one"
    Path(path).write_bytes(before)
    assert finished.finished(), "what is in the file counts, not when it was written"
    finished.output.write_bytes(finished.output.read_bytes()[:-10])
    assert not finished.finished()


def test_a_command_that_is_given_again_does_nothing_and_is_done_again_where_files_changed(finished, capsys):
    from mocli.__main__ import main

    written = finished.output.stat().st_mtime_ns
    assert main(finished.command) == 0
    assert "exists already" in capsys.readouterr().err
    assert finished.output.stat().st_mtime_ns == written
    other = Path(finished.request.data.links[0])
    other.write_text(other.read_text() + "\n")
    assert main([*finished.command, "-qq"]) == 0
    assert finished.output.stat().st_mtime_ns != written
    assert finished.finished()


def test_paired_cells_are_scored_whole_and_apart(paired, tmp_path, tiny):
    output = tmp_path / "b.tsv"
    done = mocli.benchmark(
        paired / "data.h5mu", output=output, links=paired / "links.tsv", label_key="cell_type",
        models="scmodal", **tiny,
    )  # fmt: skip
    table = rows(output)
    assert value(table, "principal_components", "foscttm") is None, "a cell with one place has no partner"
    assert value(table, "perfect", "foscttm", of="rna-prot") == 0.0
    assert value(table, "scmodal", "foscttm", of="rna-prot") is not None
    assert {r["n"] for r in table if r["metric"] == "silhouette_label"} == {"60"}
    assert not any("cannot be scored" in w for w in done.report["warnings"])


def test_clusters_of_a_model_stand_in_the_table(paired, tmp_path, tiny, read):
    options = {**tiny, "params": {"n_hidden": 8, "n_latent": 3, "batch_size": 32}, "max_steps": 8}
    mocli.benchmark(
        [paired / "data.h5mu"], output=tmp_path / "b.tsv", models="multidgd", label_key="cell_type", **options
    )
    table = rows(tmp_path / "b.tsv")
    obs = read(tmp_path / "b.runs/integrate-multidgd-seed0/out.h5mu")["rna"].obs
    label, cluster = obs["cell_type"].astype(str), obs["multidgd_cluster"].astype(str)
    for metric, score in (
        ("cluster_agreement", adjusted_rand_score),
        ("cluster_agreement_nmi", normalized_mutual_info_score),
    ):
        assert value(table, "multidgd", metric) == pytest.approx(score(label, cluster), abs=1e-6)
        found = [r for r in table if r["metric"] == metric]
        assert [(r["method"], r["n"], r["aspect"]) for r in found] == [("multidgd", "60", "other")]
    report = json.loads((tmp_path / "b.runs/integrate-multidgd-seed0/out.report.json").read_text())
    own = report["metrics"]["cluster_agreement_nmi"]["value"]
    assert own == pytest.approx(value(table, "multidgd", "cluster_agreement_nmi"), abs=1e-6)


def test_embeddings_of_others_are_found_by_name(paired, tmp_path, tiny):
    import anndata as ad

    cells = [f"c{i}" for i in range(60)]
    order = np.random.default_rng(3).permutation(60)
    z = np.eye(3, dtype=np.float32)[np.arange(60) % 3] + np.random.default_rng(0).normal(0, 0.01, (60, 3))
    other = ad.AnnData(np.zeros((60, 1), np.float32))
    other.obs_names = [cells[i] for i in order]
    other.obsm["X_other"] = z[order].astype(np.float32)
    other.write_h5ad(tmp_path / "other.h5ad")
    mocli.benchmark(
        paired / "data.h5mu", output=tmp_path / "b.tsv", models="scmodal", links=paired / "links.tsv",
        label_key="cell_type", embedding=f"{tmp_path / 'other.h5ad'}::X_other", **tiny,
    )  # fmt: skip
    assert value(rows(tmp_path / "b.tsv"), "X_other", "ari_kmeans") == 1.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("nan", "no finite coordinates for 1 of 60"),
        ("cells", "lacks 60 of 60 cells"),
        ("few", "lacks 10 of 60"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused_before_training(paired, tmp_path, tiny, spoil, message):
    import anndata as ad

    names = [f"{'other' if spoil == 'cells' else 'c'}{i}" for i in range(50 if spoil == "few" else 60)]
    other = ad.AnnData(np.zeros((len(names), 1), np.float32))
    other.obs_names = names
    z = np.ones((len(names), 2), np.float32)
    if spoil == "nan":
        z[7] = np.nan
    other.obsm["X_o"] = z
    other.write_h5ad(tmp_path / "o.h5ad")
    with pytest.raises(InputError, match=message):
        mocli.benchmark(
            paired / "data.h5mu", output=tmp_path / "b.tsv", embedding=f"{tmp_path / 'o.h5ad'}::X_o",
            models="scmodal", links=paired / "links.tsv", **tiny,
        )  # fmt: skip
    assert not (tmp_path / "b.runs").exists()


def test_a_failing_run_is_a_line_of_the_table(unpaired, tmp_path, tiny):
    """A likelihood that the model has not: table and controls are there, and the exit code says it."""
    with pytest.raises(MocliError, match="no run of scmodal ended well") as caught:
        mocli.benchmark(
            [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], output=tmp_path / "b.tsv", models="scmodal",
            links=unpaired / "links.tsv", **{**tiny, "params": {"n_hidden": 16}}, likelihood={"rna": "nb"},
        )  # fmt: skip
    assert caught.value.exit_code in {2, 3}
    (failed,) = [r for r in rows(tmp_path / "b.tsv") if r["status"] == "failed"]
    assert failed["method"] == "scmodal"
    assert failed["note"]
    assert value(rows(tmp_path / "b.tsv"), "cca", "mixing") is not None
    report = json.loads((tmp_path / "b.report.json").read_text())
    assert report["status"] == "error"
    assert any("failed" in w for w in report["warnings"])
    assert any("there are no labels" in w for w in report["warnings"])


def test_a_plan_is_run_elsewhere_and_collected(unpaired, tmp_path, tiny, check_report):
    """A line a run; each is done once; the table is that of what has ended; the benchmark does the rest."""
    from mocli.__main__ import main

    inputs, output, plan = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], tmp_path / "b.tsv", tmp_path / "p"
    tiny = {**tiny, "seeds": [0, 1], "models": "scmodal", "links": unpaired / "links.tsv"}
    assert mocli.benchmark(inputs, output=output, plan=plan, **tiny).files == [plan]
    lines = rows(plan)
    assert [line["id"] for line in lines] == ["integrate-scmodal-seed0", "integrate-scmodal-seed1"]
    assert all(int(line["memory_bytes"]) > 1e8 for line in lines)
    assert not output.exists()
    with pytest.raises(MocliError, match="no run of scmodal ended well"):
        mocli.benchmark(inputs, output=output, collect=True, **tiny)

    program, *words = shlex.split(lines[1]["command"])
    assert program == "mocli"
    assert main([*words, "-qq"]) == 0
    assert Path(lines[1]["output"]).exists()
    for _ in range(2):  # a table that lacks runs is not done
        told = mocli.benchmark(inputs, output=output, collect=True, force=True, unless_done=True, **tiny)
        assert told.report["made_from"] is None
        assert not told.plan
    table = rows(output)
    assert {r["seed"] for r in table if r["metric"] == "train_s"} == {"1"}
    (absent,) = [r for r in table if r["status"] == "missing"]
    assert (absent["method"], absent["seed"]) == ("scmodal", "0")
    assert not (tmp_path / "b.runs/integrate-scmodal-seed0/out.h5mu").exists(), "nothing is run"

    before = Path(lines[1]["output"]).stat().st_mtime_ns
    mocli.benchmark(inputs, output=output, force=True, **tiny)
    assert {r["seed"] for r in rows(output) if r["metric"] == "train_s"} == {"0", "1"}
    assert Path(lines[1]["output"]).stat().st_mtime_ns == before, "what the plan ran is not repeated"
    assert check_report(tmp_path / "b.report.json")["made_from"]["words"][0] == "benchmark"


def test_studies_run_beside_the_benchmark(unpaired, tmp_path, tiny):
    done = mocli.benchmark(
        [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], output=tmp_path / "b.tsv", models="scmodal",
        links=unpaired / "links.tsv", label_key="cell_type", panel="4", dry_run=True, ablate="geometry",
        corrupt="0.5", **tiny,
    )  # fmt: skip
    runs = [line for line in done.plan if line.startswith("would run")]
    assert [line.split(":")[0].removeprefix("would run integrate scmodal seed 0") for line in runs] == [
        "", " panel=4", " corrupt=0.5", " without=geometry",
    ]  # fmt: skip
    assert "weight_geometry=0.0" in runs[3]
    assert not (tmp_path / "b.runs").exists(), "a dry run writes nothing"


@pytest.fixture(scope="module")
def ground(unpaired):
    from mocli.tasks.benchmark.ground import prepare_ground

    def quiet(_):
        return None

    inputs = [str(unpaired / "rna.h5ad"), str(unpaired / "prot.h5ad")]
    data = DataOptions(inputs=inputs, links=[str(unpaired / "links.tsv")], label_key="cell_type")
    return prepare_ground(data, seed=0, say=quiet, warn=quiet, debug=quiet)


def test_panels_and_wrong_links_are_what_they_say(ground):
    from mocli.tasks.benchmark.ground import fewer, wrong

    (edge,) = ground.plan.linked.edges
    kept = fewer(edge, 4, 0)
    assert len(kept) == 4
    assert kept != fewer(edge, 4, 1)
    told = {(line.split("\t")[1], line.split("\t")[3]) for line in wrong(edge, 0.5, 0)}
    true = {(f"GENE{i}", f"Prot{i}") for i in range(10)}
    assert len(told) == 10
    assert len(told & true) == 5


def test_an_informative_panel_has_the_features_that_tell_labels_apart(ground):
    """Eta squared of a one-way analysis of variance, from scikit-learn's F."""
    from sklearn.feature_selection import f_classif

    from mocli.data.batches import dense_rows
    from mocli.tasks.benchmark.ground import fewer, informative

    (link,), (edge,), bundle = ground.bundle.links, ground.plan.linked.edges, ground.bundle
    told = []
    for name, of in ((link.source, link.source_features), (link.target, link.target_features)):
        codes = bundle.codes_of(bundle.label, name)
        f, _ = f_classif(dense_rows(of, np.arange(of.n_obs)), codes)
        k, n = len(np.unique(codes)), of.n_obs
        told.append(f * (k - 1) / (f * (k - 1) + n - k))
    worth = informative(bundle, link)
    expected = dict(zip(link.names, np.mean(told, axis=0), strict=True))
    assert worth == pytest.approx(expected, abs=1e-5)
    best = sorted(worth, key=worth.get)[-3:]
    kept = fewer(edge, 3, 0, worth=worth)
    assert {line.split("\t")[1] for line in kept} | {line.split("\t")[3] for line in kept} >= set(best)
    assert kept == fewer(edge, 3, 1, worth=worth)
    # without labels: a feature that follows the others has more worth than one that goes alone
    alone = informative(dataclasses.replace(bundle, label=None), link)
    assert all(0 <= v <= 1 + 1e-9 for v in alone.values())


def test_cells_of_studies_are_as_many_as_they_say(ground):
    from mocli.tasks.benchmark.ground import fewer_of, some

    names = some(ground, DataOptions(label_key="cell_type"), 50, 0)
    both = [ground.files[i].obs.index.isin(names).sum() for i in (0, 1)]
    assert both == [50, 50]
    assert names != some(ground, DataOptions(), 50, 1)
    labels = [f.obs["cell_type"].astype(str) for f in ground.files]
    level = labels[0].iloc[0]
    kept = fewer_of(ground, DataOptions(label_key="cell_type"), level, 0.25, 0)
    for of in labels:
        assert (of[of != level].index.isin(kept)).all()
    own = {name for of in labels for name in of.index[of == level]}
    assert len(own & set(kept)) == round(0.25 * len(own))
    with pytest.raises(UsageError, match="no two cells of this label"):
        fewer_of(ground, DataOptions(label_key="cell_type"), "none such", 0.25, 0)


def test_sweeps_and_fewer_cells_stand_in_table_and_page(unpaired, tmp_path, tiny):
    """All combinations, for the model that has them; controls are scored on the cells of a study, too."""
    tiny = {**tiny, "html": True, "params": {"n_hidden": 8, "batch_size": 32}}
    done = mocli.benchmark(
        [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], output=tmp_path / "b.tsv", models="scmodal",
        links=unpaired / "links.tsv", label_key="cell_type", subsample="50,60",
        grid={"n_latent": "3,4", "scmodal.weight_mnn": "0.1,1"}, **tiny,
    )  # fmt: skip
    table = rows(tmp_path / "b.tsv")
    of = {"method": "scmodal", "metric": "scib_bio"}
    found = {r["study"]: r for r in table if all(r[k] == v for k, v in of.items())}
    swept = {f"n_latent={n} weight_mnn={w}" for n in (3, 4) for w in (0.1, 1)}
    assert set(found) == swept | {"", "cells=50", "cells=60"}
    assert found["cells=50"]["n"] == "100"
    (run,) = (tmp_path / "b.runs").glob("integrate-scmodal-seed0-cells-50*/out.report.json")
    assert {given["n_obs"] for given in json.loads(run.read_text())["inputs"]} == {50}
    assert {r["study"] for r in table if r["method"] == "cca" and r["metric"] == "mixing"} == {
        "", "cells=50", "cells=60",
    }  # fmt: skip
    columns = [row[2] for row in done.report["tables"]["studies"]["rows"] if row[0] == "scmodal"]
    assert set(columns) == swept | {"as it is", "cells=50", "cells=60"}
    page = (tmp_path / "b.report.html").read_text()
    assert "scmodal over n_latent, weight_mnn" in page
    assert "integrate: cells" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": "scmodel"}, "no model 'scmodel'"),
        ({"ablate": "gravity"}, "loss term 'gravity'"),
        ({"subsample": "4000"}, "number of cells cannot be drawn"),
        ({"rare": {"B": "0.5"}}, "a rare label needs labels"),
        ({"grid": {"n_hiden": "3,4"}}, "no model of this benchmark has"),
        ({"grid": {"n_hidden": "8,many"}}, "has a value that"),
        ({"panel": "400"}, "there are 10 linked features"),
        ({"seeds": "0,x"}, "--seeds takes whole numbers"),
        ({"tasks": "integrate,cook"}, "does not accept 'cook'"),
        ({"plan": "plan.tsv", "collect": True}, "--plan comes before"),
        ({"embedding": "X_pca"}, "does not name an embedding"),
        ({"params": {"n_hiden": 3}}, "no model of this benchmark has"),
        ({"leave_one_batch_out": True}, "not two batches"),
        ({"fractions": "0.005"}, "too few cells"),
    ],
)
def test_what_cannot_be_meant_is_refused(unpaired, tmp_path, tiny, options, message):
    with pytest.raises(UsageError, match=message):
        mocli.benchmark(
            [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], output=tmp_path / "b.tsv",
            links=unpaired / "links.tsv", **{**tiny, **options},
        )  # fmt: skip


@pytest.mark.slow
def test_a_signal_is_passed_on_and_the_next_call_goes_on(unpaired, tmp_path):
    options = "--models scmodal --seeds 0 --max-steps 100000 --threads 1 --device cpu --no-html"
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad", "--links", unpaired / "links.tsv"]
    words = [sys.executable, "-m", "mocli", "benchmark", *inputs, *options.split(), "-o", tmp_path / "b.tsv"]
    words += ["-s", "n_hidden=16", "-s", "batch_size=32"]
    process = subprocess.Popen([str(w) for w in words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "b.runs/integrate-scmodal-seed0/out.log"
    end = time.monotonic() + 240
    while not (log.exists() and "align" in log.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "0 of 1 runs are finished" in said
    assert (log.parent / "out.ckpt" / "checkpoint.safetensors").exists(), "the run has kept what it had"
    assert json.loads((tmp_path / "b.report.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "b.tsv").exists()


TOY_MODEL = """
from dataclasses import replace
from mocli.models.scmodal import TRAITS as OTHER
TRAITS = replace(OTHER, name="toyfifth", title="Toy")
"""
TOY_METRIC = """
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import Score, metric
@metric(Embedding, better="higher", bounds=(0.0, float("inf")))
def toy_spread(e):
    "Toy spread.\\n\\nHow far cells spread.\\n\\nMean absolute coordinate.\\n\\nSource: none."
    yield Score(float(abs(e.joint).mean()), len(e.joint))
"""


def test_a_fifth_model_and_a_new_metric_are_in_the_table(unpaired, tmp_path, tiny, monkeypatch):
    """One folder and one file: nothing else names them."""
    import mocli.metrics
    import mocli.models

    (tmp_path / "models" / "toyfifth").mkdir(parents=True)
    (tmp_path / "models" / "toyfifth" / "__init__.py").write_text(TOY_MODEL)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "toy_spread.py").write_text(TOY_METRIC)
    monkeypatch.setattr(mocli.models, "__path__", [*mocli.models.__path__, str(tmp_path / "models")])
    monkeypatch.setattr(mocli.metrics, "__path__", [*mocli.metrics.__path__, str(tmp_path / "metrics")])
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    mocli.benchmark(inputs, output=tmp_path / "b.tsv", links=unpaired / "links.tsv", **tiny)
    table = rows(tmp_path / "b.tsv")
    ran = {r["method"] for r in table if r["kind"] == "model" and r["status"] == "ok"}
    assert ran >= {"scmodal", "toyfifth"}
    scored = {r["method"] for r in table if r["metric"] == "toy_spread"}
    assert scored >= ran | {"cca", "shuffled"}


def test_a_model_of_other_features_has_a_control_of_its_own():
    from mocli.tasks.benchmark.scorer import control_name

    entries = {"rmse[rna]": {"value": 1.5}, "auprc[rna]": {"value": None}}
    assert control_name(entries, {}, "multigrate") == "mean"
    known = {("multidgd", "rmse[rna]"): 1.0, ("mean", "rmse[rna]"): 1.5, ("mean", "auprc[rna]"): None}
    assert control_name(entries, known, "multigrate") is None
    assert control_name({"rmse[rna]": {"value": 0.4}}, known, "multigrate") == "mean (multigrate)"
    assert control_name({**entries, "rmse[atac]": {"value": 0.4}}, known, "x") == "mean (x)"


def test_errors_in_units_of_a_model_s_own_scale_are_not_ranked():
    from mocli.tasks.benchmark.table import Record

    entry = {"value": 0.5, "better": "lower", "title": "Mean absolute error"}
    told = Record.of((Task.IMPUTE, "sccross", "model", 0, ""), "imputation_mae_median[rna->prot]", entry)
    assert told.better is None
    assert "own scale" in told.title
    shares = Record.of((Task.IMPUTE, "sccross", "model", 0, ""), "imputation_r2_median[rna->prot]", entry)
    assert shares.better == "lower"
