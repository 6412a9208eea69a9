"""Stopped by a scheduler, a person or a power cut: nothing half-written, and the same result in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mocli.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["-s", "n_hidden=16", "-s", "n_neighbors=5", "--n-latent", "4", "--batch-size", "32"]
STEPS = 600  # some seconds: enough to be stopped on the way
PATIENCE = 60.0


@pytest.fixture
def arguments(unpaired):
    """Arguments of one run into a folder; the same ones again continue it."""

    def build(folder, *more, steps=STEPS):
        folder.mkdir(exist_ok=True)
        files = [str(unpaired / "rna.h5ad"), str(unpaired / "prot.h5ad")]
        options = ["--links", str(unpaired / "links.tsv"), "-o", str(folder / "o.h5mu"), "--no-html"]
        run = ["--threads", "1", "--device", "cpu", "--checkpoint-every", "0.1s", "--max-steps", str(steps)]
        return ["integrate", *files, *options, *run, *SMALL, *more]

    return build


def start(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mocli", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, ready):
    end = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.01)


def stop(process, signum):
    process.send_signal(signum)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def report_of(folder):
    return json.loads((folder / "o.report.json").read_text())


def changed(path):
    before = path.stat().st_mtime_ns if path.exists() else None
    return lambda: path.exists() and path.stat().st_mtime_ns != before


SIGNALS = [(signal.SIGUSR1, 138), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]


def test_a_run_stopped_again_and_again_ends_where_an_undisturbed_one_does(arguments, tmp_path):
    assert main(arguments(tmp_path / "whole")) == 0
    expected = report_of(tmp_path / "whole")["determinism"]["latent_sha256"]

    folder = tmp_path / "stopped"
    checkpoint = folder / "o.ckpt" / "checkpoint.safetensors"
    for signum, code in SIGNALS:
        newer = changed(checkpoint)
        process = start(arguments(folder))
        wait_for(process, newer)
        found, out, err = stop(process, signum)
        assert found == code, err
        assert out == ""
        assert "Traceback" not in err
        assert checkpoint.exists()
        assert not (folder / "o.h5mu").exists()
        assert not (folder / "o.model").exists()
        if code > 0:
            assert "repeat the command to continue" in err
            report = report_of(folder)
            assert report["status"] == "interrupted"
            assert report["error"]["exit_code"] == code
            assert report["outputs"] == []

    assert main(arguments(folder)) == 0
    report = report_of(folder)
    assert report["status"] == "ok"
    assert report["training"]["steps"] == STEPS
    assert 0 < report["training"]["resumed_from_step"] < STEPS
    assert report["determinism"]["latent_sha256"] == expected
    whole = report_of(tmp_path / "whole")
    assert report["training"]["history"] == whole["training"]["history"]
    assert report["metrics"] == whole["metrics"]
    text = (folder / "o.log").read_text()
    assert text.count("resumed at step") == len(SIGNALS)
    assert "signal 15 received" in text
    assert not checkpoint.parent.exists()


def words_of(model, paired, folder, steps):
    folder.mkdir(exist_ok=True)
    files = [str(paired / "data.h5mu"), "--pairing", "paired", "-m", model, "-o", str(folder / "o.h5mu")]
    run = ["--threads", "1", "--device", "cpu", "--checkpoint-every", "0.05s", "--max-steps", str(steps)]
    return [
        "integrate",
        *files,
        *run,
        "--no-html",
        "--metrics",
        "none",
        "-s",
        "n_hidden=16",
        "--n-latent",
        "4",
    ]


@pytest.mark.parametrize("model", ["multigrate", "multidgd", "sccross"])
def test_every_model_takes_its_own_checkpoint(model, paired, tmp_path):
    """With the parameters of a real run, some of which JSON changes."""
    assert main(words_of(model, paired, tmp_path / "whole", 40)) == 0
    words = words_of(model, paired, tmp_path / "stopped", 40)
    assert main([*words, "--max-time", "0.001s"]) == 138
    assert main(words) == 0
    reports = [report_of(tmp_path / name) for name in ("whole", "stopped")]
    assert reports[1]["training"]["resumed_from_step"] is not None
    first, second = (r["determinism"]["latent_sha256"] for r in reports)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("model", ["multigrate", "multidgd", "sccross"])
def test_every_model_survives_kills_at_twelve_moments(model, paired, tmp_path):
    steps = 1500
    assert main(words_of(model, paired, tmp_path / "whole", steps)) == 0
    expected = report_of(tmp_path / "whole")["determinism"]["latent_sha256"]
    for moment, wait in enumerate(np.random.default_rng(0).uniform(0, 1.5, 12)):
        folder = tmp_path / f"kill{moment}"
        words = words_of(model, paired, folder, steps)
        checkpoint = folder / "o.ckpt" / "checkpoint.safetensors"
        process = start(words)
        wait_for(process, checkpoint.exists)
        time.sleep(wait)
        stop(process, signal.SIGKILL)
        if not (folder / "o.h5mu").exists():
            assert main(words) == 0
        assert report_of(folder)["determinism"]["latent_sha256"] == expected


def test_a_checkpoint_of_another_run_is_refused_by_field(arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(arguments(folder, "--max-time", "0.05s")) == 138
    capsys.readouterr()
    assert main(arguments(folder, "--seed", "1")) == 2
    err = capsys.readouterr().err
    assert "belongs to another run" in err
    assert "seed: 0 then, 1 now" in err
    assert "--resume never" in err
    assert main(arguments(folder, "-s", "weight_mnn=3", "--hvg", "rna=20")) == 2
    err = capsys.readouterr().err
    assert "params" in err
    assert "hvg" in err
    assert report_of(folder)["status"] == "error"
    assert not (folder / "o.h5mu").exists()
    assert main(arguments(folder, "--seed", "1", "--resume", "never", steps=5)) == 0
    assert report_of(folder)["training"]["resumed_from_step"] is None


def test_other_links_that_match_are_another_run(arguments, tmp_path, capsys, unpaired):
    """Also where the table itself has no name to tell by, or the same one."""
    links = tmp_path / "l.tsv"
    links.write_text((unpaired / "links.tsv").read_text())
    folder = tmp_path / "run"
    words = arguments(folder)
    words[words.index("--links") + 1] = str(links)
    assert main([*words, "--max-time", "0.05s"]) == 138
    links.write_text("rna\tprot\nGENE3\tProt4\n")
    capsys.readouterr()
    assert main(words) == 2
    assert "matched" in capsys.readouterr().err


def test_a_stopped_training_is_kept_from_a_run_that_does_not_train(arguments, good, tmp_path, capsys):
    """Both write outputs of one stem; the checkpoint was deleted by the second."""
    folder = tmp_path / "run"
    assert main(arguments(folder, "--max-time", "0.05s")) == 138
    checkpoint = folder / "o.ckpt" / "checkpoint.safetensors"
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    words = ["impute", str(good / "data.h5mu"), "--from-model", str(good / "o.model"), "--from", "rna"]
    words += ["--to", "prot", "--cells", "all", "-o", str(folder / "o.h5ad"), "--no-html", "--device", "cpu"]
    for more in (["--dry-run"], []):
        capsys.readouterr()
        assert main([*words, *more]) == 2
        assert "was stopped, and can be continued" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert main([*words, "--force"]) == 0
    assert (folder / "o.h5ad").exists()
    assert checkpoint.exists()


def test_time_that_is_over_ends_as_a_schedulers_warning(arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(arguments(folder, "--max-time", "0.2s")) == 138
    err = capsys.readouterr().err
    assert "the time allowed is over" in err
    report = report_of(folder)
    assert (report["status"], report["error"]["kind"]) == ("interrupted", "interrupted")
    assert (folder / "o.ckpt" / "checkpoint.safetensors").exists()


def test_resume_always_needs_a_checkpoint(arguments, tmp_path, capsys):
    assert main(arguments(tmp_path / "run", "--resume", "always")) == 2
    assert "no checkpoint to resume from" in capsys.readouterr().err


def test_stopped_before_training_there_is_a_report_and_nothing_else(arguments, tmp_path):
    folder = tmp_path / "run"
    log_file = folder / "o.log"
    process = start(arguments(folder))
    wait_for(process, lambda: log_file.exists() and "device:" in log_file.read_text())
    code, _, err = stop(process, signal.SIGTERM)
    assert code == 143, err
    assert report_of(folder)["status"] == "interrupted"
    assert not (folder / "o.h5mu").exists()
