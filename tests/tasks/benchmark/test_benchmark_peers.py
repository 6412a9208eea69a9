"""Peers in `mocli benchmark`: run in another Python, left out with a reason, failing, reused."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import mudata
import numpy as np
import pytest
from test_benchmark import QUICK, rows, run_inside, value

import mocli
import mocli.peers
from mocli.data.demo import write_demo
from mocli.errors import Signalled, UsageError
from mocli.peers import runner
from mocli.peers.registry import Interpreter, available_peers, find_interpreter
from mocli.tasks.benchmark.ground import prepare_ground
from mocli.tasks.benchmark.peers import PeerData, PeerRun, PeersWork
from mocli.tasks.benchmark.processes import Processes
from mocli.tasks.benchmark.runs import ModelRun
from mocli.tasks.benchmark.work import last_words
from mocli.tasks.run.options import DataOptions

TOY = """
import sys
import numpy as np
PEER = {{
    "name": "{name}", "title": "Toy of features", "doi": "10.1234/toy", "package": "{package}",
    "module": "{package}", "licence": "MIT", "takes": ["features"], "needs": {needs},
    "pairings": ["paired", "unpaired", "mosaic"], "kinds": [], "n_modalities": None, "seeds": {seeds},
    "params": {{"width": 4}},
}}
def place(given):
    assert not {{"mocli", "torch"}} & set(sys.modules)
    {body}
"""
BODY = """
    rng, name = np.random.default_rng(given.seed), given.of_kind("rna")
    x = given.features[name]
    z = x @ rng.normal(size=(x.shape[1], given.params["width"]))
    return z[given.rows[:, list(given.kinds).index(name)]]
"""
TOYS = {
    "toyplaces": {"body": BODY},
    "toyfails": {"body": 'raise ValueError("the toy broke")', "seeds": False},
    "toyabsent": {"package": "no_such_package_at_all"},
    "toybatches": {"needs": ["batch"]},
}


@pytest.fixture(autouse=True, scope="module")
def inside():
    """Models are trained in this process, peers in their own."""
    start = Processes.run

    def run(self, jobs):
        models = [job for job in jobs if isinstance(job, ModelRun)]
        others = [job for job in jobs if not isinstance(job, ModelRun)]
        return run_inside(self, models) | (start(self, others) if others else {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mocli.tasks.benchmark.processes.Processes.run", run)
        yield


@pytest.fixture(autouse=True, scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    for name, change in TOYS.items():
        toy = {"name": name, "package": "numpy", "needs": [], "seeds": True, "body": "return None", **change}
        (folder / f"{name}.py").write_text(TOY.format(**toy))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mocli.peers, "__path__", [*mocli.peers.__path__, str(folder)])
        yield


@pytest.fixture(scope="module")
def other_python(tmp_path_factory):
    """Another way to this Python, as another environment has."""
    path = tmp_path_factory.mktemp("env") / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory, other_python):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=100)
    options = {
        **QUICK, "links": folder / "rna-atac.tsv", "label_key": "cell_type", "models": "multigrate",
        "params": {"n_hidden": 16, "n_latent": 4, "batch_size": 32}, "seeds": [0, 1], "jobs": 2,
        "peers": ",".join(TOYS), "peer_python": other_python,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # no UMAP and few trees, for their time
        patch.setattr("mocli.tasks.benchmark.page.layout", lambda z, **_: z[:, :2])
        patch.setattr("mocli.metrics.matching.TREES", 5)
        done = mocli.benchmark(folder / "multiome.h5mu", output=folder / "b.tsv", **{**options, "html": True})
    return folder, options, done


def test_a_peer_stands_in_table_report_and_page(bench, check_report):
    folder, _, _ = bench
    table = rows(folder / "b.tsv")
    mine = [r for r in table if r["method"] == "toyplaces"]
    assert {r["kind"] for r in mine} == {"peer"}
    assert {r["seed"] for r in mine if r["metric"] == "silhouette_label"} == {"0", "1"}
    same = {r["metric"] for r in table if r["method"] == "principal_components" and r["aspect"] == "labels"}
    assert same <= {r["metric"] for r in mine}
    assert len({r["n"] for r in table if r["metric"] == "silhouette_label"}) == 1
    scores = [value(table, "toyplaces", "silhouette_label", seed=s) for s in "01"]
    assert scores[0] != scores[1]
    for metric in ("train_s", "total_s", "peak_memory_bytes"):
        assert value(table, "toyplaces", metric, seed="1") >= 0
    assert value(table, "toyplaces", "peak_memory_bytes") < 5e8
    report = check_report(folder / "b.report.json")
    ranked = {r[0]: r for r in report["tables"]["ranking_integrate"]["rows"]}
    assert ranked["toyplaces"][1] == "peer"
    assert ranked["toyplaces"][2] >= 1
    assert "toyplaces" in report["data"], "MultiQC gets a row"
    assert ["toyplaces", "integrate", None, 1] in [r[:4] for r in report["tables"]["costs"]["rows"]]
    peers = {r[0]: r for r in report["tables"]["peers"]["rows"]}
    assert peers["toyplaces"][4:] == [np.__version__, "MIT", "run"]
    assert peers["toyabsent"][4:] == [None, "MIT", "left out"]
    page = (folder / "b.report.html").read_text()
    assert "<th>toyplaces</th><td>peer</td>" in page
    assert "toybatches" in page
    assert "10.1234/toy" in page


def test_those_that_cannot_run_are_told_and_stop_nothing(bench, other_python):
    folder, _, done = bench
    amiss = {r["method"]: r for r in rows(folder / "b.tsv") if r["status"] != "ok"}
    assert {m: r["status"] for m, r in amiss.items() if m.startswith("toy")} == {
        "toyfails": "failed", "toyabsent": "skipped", "toybatches": "skipped",
    }  # fmt: skip
    assert amiss["toyfails"]["note"] == "ValueError: the toy broke"
    assert f"{other_python} -m pip install no_such_package_at_all" in amiss["toyabsent"]["note"]
    assert amiss["toybatches"]["note"] == "it needs two batches or more (--batch-key)"
    assert {r["kind"] for r in amiss.values() if r["method"].startswith("toy")} == {"peer"}
    assert done.report["status"] == "ok"
    assert any("peer toyfails failed (ValueError: the toy broke); see" in w for w in done.report["warnings"])
    assert not list(folder.glob("b.runs/peers")), "what was written for them is gone"


def test_finished_peers_are_reused(bench, tmp_path):
    folder, options, _ = bench

    def ask(**change):
        return mocli.benchmark(
            folder / "multiome.h5mu", output=folder / "b.tsv", force=True, dry_run=True,
            **{**options, **change},
        ).plan  # fmt: skip

    plan = ask()
    assert [line.split(":")[0] for line in plan if "toyplaces" in line] == [
        "has peer toyplaces seed 0", "has peer toyplaces seed 1",
    ]  # fmt: skip
    assert [line.split(":")[0] for line in plan if "peer toyfails" in line] == ["would run peer toyfails"]
    assert "leaves out the peer toybatches: it needs two batches or more (--batch-key)" in plan
    for change in (
        {"params": {**options["params"], "toyplaces.width": 5}},
        {"seed": 1},
        {"hvg": {"rna": 20}},
    ):
        again = [line for line in ask(**change) if line.startswith("would run peer toyplaces")]
        assert len(again) == 2, change
    # what does not change a peer's places does not repeat it
    assert "has peer toyplaces seed 0" in " ".join(ask(max_memory=1e12))
    # labels are for the metrics: a peer never sees them
    assert "has peer toyplaces seed 0" in " ".join(ask(label_key=None))
    before = {p: p.stat().st_mtime_ns for p in folder.glob("b.runs/peer-*/places.npz")}
    first = rows(folder / "b.tsv")
    mocli.benchmark(folder / "multiome.h5mu", output=folder / "b.tsv", force=True, **options)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("b.runs/peer-*/places.npz")} == before
    assert rows(folder / "b.tsv") == first
    places = folder / "b.runs/peer-toyplaces-seed1/places.npz"
    kept = places.read_bytes()
    try:
        places.write_bytes(kept[:-10])
        assert sum(line.startswith("would run peer toyplaces seed 1") for line in ask()) == 1
    finally:
        places.write_bytes(kept)


def quiet(_):
    return None


def test_places_are_found_by_name(paired, tmp_path):
    """The ground is a sample, the peer's places are of all cells and in another order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mocli.tasks.benchmark.ground.MAX_CELLS", 25)
        data = DataOptions(inputs=[str(paired / "data.h5mu")])
        ground = prepare_ground(data, seed=0, say=quiet, warn=quiet, debug=quiet)
    assert ground.bundle.n_cells == 25
    names = np.array([f"c{i}" for i in range(60)])[np.random.default_rng(1).permutation(60)]
    z = np.stack([np.char.strip(names, "c").astype(float), np.ones(60)], axis=1)
    peer = available_peers()["mofa"]
    python = Interpreter(Path(sys.executable), {"mofapy2": "0"})
    run = PeerRun(peer, 0, tmp_path, tmp_path / "i.npz", python, {}, (), ())
    runner.write(run.output, {"": (names, z.astype(np.float32))})
    found = run.contender(ground)
    assert found.kind == "peer"
    assert [f"c{int(v)}" for v in found.joint[:, 0]] == list(ground.bundle.obs_names)
    # and what it is given is of all cells
    PeerData(ground, {}, 0).write(peer, tmp_path / "given.npz")
    options = {"seed": 0, "params": {}, "device": "cpu", "threads": 1}
    assert len(runner.read(tmp_path / "given.npz", options, tmp_path).cells) == 60


def test_counts_given_are_those_of_the_file(paired, tmp_path):
    data = DataOptions(inputs=[str(paired / "data.h5mu")], links=[str(paired / "links.tsv")], hvg={"rna": 15})
    ground = prepare_ground(data, seed=0, say=quiet, warn=quiet, debug=quiet)
    work = PeerData(ground, {}, 0)
    work.write(available_peers()["totalvi"], tmp_path / "i.npz")
    given = runner.read(
        tmp_path / "i.npz", {"seed": 0, "params": {}, "device": "cpu", "threads": 1}, tmp_path
    )
    file = mudata.read_h5mu(paired / "data.h5mu")
    cells = list(given.cells)
    chosen = list(ground.bundle.modalities["rna"].features.names)
    assert 15 <= len(chosen) < 40
    rna = given.by_cell(given.counts, "rna")
    assert np.array_equal((rna @ np.eye(len(chosen))), file["rna"][cells, chosen].X @ np.eye(len(chosen)))
    prot = given.by_cell(given.counts, "prot")
    assert isinstance(prot, np.ndarray)
    assert np.array_equal(prot, file["prot"][cells].X @ np.eye(10))
    assert not given.features
    assert not given.linked
    work.write(replace(available_peers()["maxfuse"]), tmp_path / "i.npz")
    given = runner.read(
        tmp_path / "i.npz", {"seed": 0, "params": {}, "device": "cpu", "threads": 1}, tmp_path
    )
    assert {m: x.shape for m, x in given.linked.items()} == {"rna": (60, 8), "prot": (60, 8)}
    assert all(abs(x.mean(0)).max() < 1e-4 for x in given.linked.values())
    lognorm = np.log1p(file["rna"][:, chosen[0]].X @ np.ones(1))
    assert np.corrcoef(given.features["rna"][:, 0], lognorm)[0, 1] > 0.8


def test_values_that_are_no_counts_leave_totalvi_out(tmp_path):
    cells = [f"c{i}" for i in range(40)]
    rng = np.random.default_rng(0)
    parts = {}
    for name, n in (("rna", 30), ("prot", 8)):
        parts[name] = ad.AnnData(rng.random((40, n), dtype=np.float32))
        parts[name].obs_names = cells
        parts[name].var_names = [f"{name}{i}" for i in range(n)]
    with mudata.set_options(pull_on_update=False):
        mudata.MuData(parts).write_h5mu(tmp_path / "d.h5mu")
    plan = mocli.benchmark(
        tmp_path / "d.h5mu", output=tmp_path / "b.tsv", models="multigrate", peers="totalvi,mofa",
        dry_run=True, **QUICK,
    ).plan  # fmt: skip
    (told,) = [line for line in plan if "peer totalvi" in line]
    assert told.startswith("leaves out the peer totalvi: it needs counts, and rna has none")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"peers": "toyplace"}, "no peer 'toyplace'", "'toyplaces'"),
        ({"peer_python": "python"}, "--peer-python only works together with --peers", "--peers all"),
        ({"peers": "all", "peer_python": "/no/such/python"}, "no such program", "python -m venv"),
        ({"peers": "all", "peer_python": "/bin"}, "a folder is not an interpreter", "path of a Python"),
        ({"peers": "all", "peer_python": "/bin/ls"}, "does not answer like a Python", "it says"),
        ({"peers": "all", "peer_python": __file__}, "cannot be run", "path of a Python"),
        ({"peers": "toyplaces", "params": {"toyplaces.depth": 1}}, "no hyper-parameter 'depth'", "width"),
        ({"params": {"toyplaces.width": 1}}, "no model of this benchmark has", ""),
    ],
)
def test_what_cannot_be_meant_is_refused(paired, tmp_path, options, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        mocli.benchmark(
            paired / "data.h5mu", output=tmp_path / "b.tsv", models="multigrate", **{**QUICK, **options}
        )
    assert hint in str(caught.value.hint)


def test_an_interpreter_tells_what_it_has(other_python, tmp_path, monkeypatch):
    monkeypatch.setenv("MOCLI_PEERS", "all")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "emptyfolder").mkdir()
    monkeypatch.chdir(tmp_path)
    found = find_interpreter(other_python, {"numpy": "numpy", "emptyfolder": "emptyfolder", "nope": "nope"})
    assert found.versions == {"numpy": np.__version__}
    assert not found.own
    assert not {"PYTHONPATH", "MOCLI_PEERS"} & set(found.environment(3))
    assert found.environment(3)["OMP_NUM_THREADS"] == "3"
    own = find_interpreter(None, {"numpy": "numpy"})
    assert own.own
    assert own.environment(1)["PYTHONPATH"] == str(tmp_path)


def test_the_command_line_takes_them(paired, tmp_path, capsys):
    from mocli.__main__ import main

    words = ["benchmark", paired / "data.h5mu", "-o", tmp_path / "b.tsv", "--models", "multigrate"]
    words += ["--peers", "toyplaces,toyabsent", "--peer-python", sys.executable, "--dry-run", "-s"]
    assert main([str(w) for w in [*words, "toyplaces.width=3"]]) == 0
    plan = capsys.readouterr().out
    assert f"would run peer toyplaces seed 0: numpy {np.__version__} of {sys.executable}" in plan
    assert "leaves out the peer toyabsent" in plan


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        (-9, "", "ended by signal 9: out of memory?"),
        (1, "Traceback\n  x\nValueError: bad\nException ignored in: y\n", "ValueError: bad"),
        (1, "scvi.Error\nmodule.OwnError: no\n", "module.OwnError: no"),
        (
            1,
            "error: coordinates have the shape (2,), but there are 3 cells\n",
            "coordinates have the shape (2,), but there are 3 cells",
        ),
        (3, "", "exit code 3"),
    ],
)
def test_why_a_process_failed_is_taken_from_its_last_words(tmp_path, code, said, reason):
    (tmp_path / "stderr.txt").write_text(said)
    assert last_words(tmp_path, code) == reason


def test_a_signal_while_data_are_written_is_no_failure_of_a_peer():
    def write(*_):
        raise Signalled(15)

    run = SimpleNamespace(source="x", peer=SimpleNamespace(name="toy"))
    work = PeersWork([run], [], SimpleNamespace(write=write, forget=lambda: None))
    with pytest.raises(Signalled):
        work.write_data([run])
