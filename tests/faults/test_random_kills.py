"""Every subcommand with every model, stopped at random moments, ends with the same bytes when repeated."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import warnings
from contextlib import suppress

import numpy as np
import pytest
from digests import of_hdf5

from mocli import log
from mocli.__main__ import main
from mocli.data.demo import write_demo
from mocli.models.registry import available, traits_of
from mocli.types import Task

MOMENTS = int(os.environ.get("MOCLI_TEST_KILLS", "12"))
"""Of an integration by each model, and of what trains none; half of them of what else trains."""
PATIENCE = 120.0
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP]
RUN = [
    *("--device", "cpu", "--threads", "1", "--no-provenance"),
    *("--checkpoint-every", "0.02s", "--progress", "none", "--no-html"),
]
TRAIN = [*RUN, "--max-steps", "25", "--n-latent", "4"]

OF_TASK = {
    Task.INTEGRATE: ("integrate", "{data} --links {links} --label-key cell_type --metrics none", "o.h5mu"),
    Task.IMPUTE: ("impute", "{data} --links {links} --from rna --to atac --evaluate", "o.h5ad"),
    Task.SIMULATE: ("simulate", "{data} --links {links} --n-cells 500", "o.h5mu"),
    Task.PERTURB: (
        "perturb",
        "{data} --links {links} --from cell_type=lymph_a --to cell_type=lymph_b --screen all",
        "o.tsv",
    ),
    Task.GENE2PEAK: ("gene2peak", "{data} --links {links} --gtf {genes} --genes CD4,CD8A,CD19", "o.tsv"),
}
"""Subcommand, its words, its output."""

TRAINING = [
    pytest.param(task, name, id=f"{task.value}-{name}")
    for task in OF_TASK
    for name, traits in available().items()
    if task in traits.tasks
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=150)
    return {
        "data": folder / "multiome.h5mu",
        "links": folder / "rna-atac.tsv",
        "genes": folder / "genes.tsv",
        "folder": folder,
    }


@pytest.fixture(scope="module")
def model(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    words = ["integrate", str(demo["data"]), "-m", "multigrate", "-o", str(folder / "o.h5mu"), *TRAIN]
    assert quietly(words) == 0
    return folder / "o.model"


def quietly(words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main(words)
    log.teardown()
    return code


def results(folder):
    """What a run computes, by file: no log, no times."""
    found = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".h5mu", ".h5ad", ".tsv", ".model"}):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found |= {
            f"{path.name}/{file.name}": of_hdf5(file) if file.suffix.startswith(".h5") else file.read_bytes()
            for file in files
        }
    return found


def survive(words, output, tmp_path, inputs, *, moments=MOMENTS, left_out=None):
    """Stop the command at random moments and repeat it; return what is wrong, moment by moment."""
    before = {path: path.read_bytes() for path in inputs.iterdir() if path.is_file()}
    whole = tmp_path / "whole"
    whole.mkdir()
    assert quietly([*words, "-o", str(whole / output), "--force"]) == 0  # and all is loaded
    begun = time.monotonic()
    assert wait(start(whole, [*words, "--force"], output)) == 0
    took = time.monotonic() - begun
    expected = left_out(results(whole)) if left_out else results(whole)
    wrong = []
    for moment, delay in enumerate(np.random.default_rng(0).uniform(0, took, moments)):
        folder = tmp_path / f"kill{moment}"
        folder.mkdir()
        child = start(folder, words, output)
        time.sleep(delay)
        os.kill(child, signum := SIGNALS[moment % len(SIGNALS)])
        code = wait(child)
        said = (folder / "stderr.txt").read_text(errors="replace")
        told = f"signal {signum} after {delay:.2f} of {took:.2f} s, exit {code}"
        if "Traceback" in said or code not in {0, -9, 128 + signum, -signum}:
            wrong.append(f"{told}: {said[-500:]}")
            continue
        wait_for_locks(folder)
        again = 0 if code == 0 else quietly([*words, "-o", str(folder / output)])
        finished = again == 2 and (folder / output).exists() and not (folder / "o.ckpt").exists()
        if again and not finished:
            log_text = (folder / "o.log").read_text()[-500:] if (folder / "o.log").exists() else ""
            wrong.append(f"{told}: the same command ends with {again}: {log_text}")
            continue
        found = left_out(results(folder)) if left_out else results(folder)
        if differing := sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n)):
            wrong.append(f"{told}: other bytes in {differing}")
        if rest := [path.name for path in folder.rglob("*.tmp")]:
            wrong.append(f"{told}: {rest} left")
    if any(path.read_bytes() != content for path, content in before.items()):
        wrong.append("an input is changed")
    return wrong


def wait_for_locks(folder):
    """Wait until runs that a killed benchmark had started have ended: they write a checkpoint first."""
    for path in folder.rglob(".*.lock"):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def start(folder, words, output):
    """Run the command line in a forked process, which has loaded all it needs; return its number."""
    sink = os.open(folder / "stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    child = os.fork()
    if child == 0:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = 99
        with suppress(BaseException):
            code = main([*words, "-o", str(folder / output)])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.close(sink)
    return child


def wait(child):
    """Return the exit code, negative for a signal."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -99


def tell(capsys, subcommand, model, wrong, moments=MOMENTS):
    with capsys.disabled():
        print(f"\n| {subcommand} | {model} | {moments - len(wrong)}/{moments} |")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "name"), TRAINING)
def test_a_run_that_trains_survives(task, name, demo, tmp_path, capsys):
    subcommand, words, output = OF_TASK[task]
    options = TRAIN if traits_of(name).solves else [*TRAIN, "--batch-size", "32", "-s", "n_hidden=16"]
    argv = [subcommand, *words.format(**demo).split(), "-m", name, *options]
    moments = MOMENTS if task is Task.INTEGRATE else max(1, MOMENTS // 2)
    wrong = survive(argv, output, tmp_path, demo["folder"], moments=moments)
    tell(capsys, subcommand, name, wrong, moments)
    assert wrong == [], "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", ["impute", "simulate"])
def test_a_writer_of_blocks_survives(subcommand, demo, model, tmp_path, capsys):
    """Nothing is trained: most of the time is writing what the model gives, block by block."""
    words = {"impute": f"{demo['data']} --from rna --to atac --cells all", "simulate": "--n-cells 4000"}[
        subcommand
    ]
    argv = [subcommand, *words.split(), "--from-model", str(model), *RUN[:5], "--no-html"]
    wrong = survive(argv, "o.h5mu", tmp_path, demo["folder"])
    tell(capsys, f"{subcommand} --from-model", "multigrate", wrong)
    assert wrong == [], "\n".join(wrong)


@pytest.mark.slow
def test_a_benchmark_survives(demo, tmp_path, capsys):
    words = (
        f"{demo['data']} --links {demo['links']} --label-key cell_type --models scmodal,multigrate --seeds 0"
    )
    argv = ["benchmark", *words.split(), "--max-steps", "30", "--device", "cpu", "--threads", "1"]

    def of_scores(found):
        """Return the rows of the table but for times and memory."""
        rows = [
            row
            for row in found["o.tsv/o.tsv"].decode().splitlines()
            if "_s\t" not in row and "bytes" not in row
        ]
        return {"rows": rows}

    wrong = survive(argv, "o.tsv", tmp_path, demo["folder"], left_out=of_scores)
    tell(capsys, "benchmark", "scmodal, multigrate", wrong)
    assert wrong == [], "\n".join(wrong)
