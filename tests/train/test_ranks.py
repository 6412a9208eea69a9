"""Processes that torchrun starts share every minibatch: together they are one run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mocli.__main__ import main
from mocli.tasks.run.run import Launch

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("multigrate", "multidgd", "sccross", "scmodal")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def started(words, **how):
    """Start a command by torchrun as two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*TORCHRUN, *map(str, words)], env=environment, stderr=subprocess.PIPE, text=True, **how
    )


@pytest.fixture(scope="module")
def folder(paired, tmp_path_factory):
    """Cells in one file and apart."""
    folder = tmp_path_factory.mktemp("ranks")
    for name, source in (("data.h5mu", "data.h5mu"), ("links.tsv", "links.tsv")):
        (folder / name).write_bytes((paired / source).read_bytes())
    for name, source in (("rna.h5ad", "a.h5ad"), ("prot.h5ad", "b.h5ad")):
        (folder / name).write_bytes((paired / source).read_bytes())
    return folder


@pytest.fixture(scope="module")
def reports(folder):
    """Reports of every model, trained by one process and by two."""
    script = ROOT / "tests" / "train" / "one_after_another.py"
    for n in (1, 2):
        (folder / str(n)).mkdir()
    two = started([script, folder, folder / "2", *MODELS])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script), folder, folder / "1", *MODELS], env=environment, check=True)
    _, err = two.communicate(timeout=240)
    assert two.returncode == 0, err
    read = {(n, m): (folder / str(n) / f"{m}.report.json").read_text() for n in (1, 2) for m in MODELS}
    return {key: json.loads(text) for key, text in read.items()}


def test_two_processes_lose_what_one_with_both_their_minibatches_does(reports):
    # one test, as each worker that runs a part of it would train every model again
    for model in MODELS:
        _lose_the_same(reports, model)


def _lose_the_same(reports, model):
    one, two = (reports[n, model]["training"] for n in (1, 2))
    assert reports[2, model]["device"]["processes"] == 2
    assert "processes" not in reports[1, model]["device"]
    assert one["steps"] == two["steps"]
    # without noise it is the same run up to rounding; pairs of nearest cells are those within a share
    near = 1e-3 if model == "multidgd" else 0.05
    for phase, terms in one["losses"].items():
        for term in terms.keys() - {"mnn", "pairs"}:
            for when in ("first", "last"):
                values = terms[term][when], two["losses"][phase][term][when]
                assert values[0] == pytest.approx(values[1], rel=near, abs=near), (phase, term, when)


def test_stopped_by_a_signal_two_processes_write_one_checkpoint_that_one_continues(folder, tmp_path):
    """The first of them writes; a run of any number of processes is the same run."""
    words = ["integrate", folder / "data.h5mu", "-m", "multigrate", "--n-latent", "4", "-s", "n_hidden=16"]
    words += ["--max-steps", "1000", "--threads", "1", "--no-html", "--no-umap", "--metrics", "none"]
    words += ["-o", tmp_path / "o.h5mu"]
    process = started(["-m", "mocli", *words, "--checkpoint-every", "0.2s"])
    checkpoint = tmp_path / "o.ckpt" / "checkpoint.safetensors"
    end = time.monotonic() + 90
    while not checkpoint.exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=90)
    assert checkpoint.exists(), err
    assert process.returncode != 0
    assert err.count("checkpoint written to") == 1
    assert main([*map(str, words), "-q"]) == 0
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["training"]["resumed_from_step"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "o.h5mu",
        "o.log",
        "o.model",
        "o.report.json",
        "o_mqc.json",
    ]


def test_a_benchmark_is_not_started_by_torchrun(folder, tmp_path, monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1",
                        "LOCAL_WORLD_SIZE": "2"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert Launch.here() == Launch(1, 2, 1, 2)
    assert main(["benchmark", str(folder / "data.h5mu"), "-o", str(tmp_path / "b.tsv")]) == 2
    assert "without torchrun" in capsys.readouterr().err
