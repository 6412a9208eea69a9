"""What a run will need, what there is, and the end of one that takes more."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mocli.__main__ import main
from mocli.errors import Interrupted, OutOfMemory
from mocli.tasks.prepare import footprint as memory
from mocli.tasks.prepare.plan import Aim
from mocli.tasks.run import guard as machine
from mocli.tasks.run.guard import MemoryLimit

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--device", "cpu", "--threads", "1", "--no-html", "-s", "n_hidden=16", "--n-latent", "4"]


def words(folder, out, *more):
    files = [str(folder / "rna.h5ad"), str(folder / "prot.h5ad")]
    return ["integrate", *files, "--links", str(folder / "links.tsv"), "-o", str(out), *SMALL, *more]


def test_the_estimate_is_within_a_factor_of_two(unpaired, tmp_path):
    command = [sys.executable, "-m", "mocli", *words(unpaired, tmp_path / "o.h5mu", "--max-steps", "5")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    device = json.loads((tmp_path / "o.report.json").read_text())["device"]
    assert 0.5 < device["expected_memory_bytes"] / device["peak_memory_bytes"] < 2.0
    assert "of memory will be needed" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("integrate", []),
        ("integrate", ["--reference", "a.model"]),
        ("impute", ["--from", "atac", "--to", "rna", "--from-model", "a.model", "--evaluate"]),
        ("gene2peak", ["--from-model", "a.model", "--gtf", "genes.tsv", "--genes", "CD4,CD19"]),
        ("simulate", ["--from-model", "a.model"]),
        (
            "perturb",
            [
                "--from-model",
                "a.model",
                "--from",
                "batch=batch_1",
                "--to",
                "batch=batch_2",
                "--features",
                "CD4",
            ],
        ),
    ],
)
def test_every_subcommand_tells_what_it_will_need(tmp_path_factory, task, more):
    """Each in a process of its own, on the demo; the model is trained by the first."""
    folder = tmp_path_factory.getbasetemp() / "every"
    run = [sys.executable, "-m", "mocli"]
    given = {
        "cwd": folder,
        "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        "check": True,
    }
    if not folder.exists():
        folder.mkdir()
        subprocess.run([*run, "demo", ".", "--cells", "400"], **given)
        first = ["-m", "multigrate", "--max-steps", "100", "--label-key", "cell_type", *SMALL]
        subprocess.run([*run, "integrate", "multiome.h5mu", *first, "-o", "a.h5mu"], **given)
    if not more:
        more = ["-m", "sccross", "--max-steps", "50"]
    suffix = ".tsv" if task in {"gene2peak", "perturb"} else ".h5mu"
    quiet = ["--device", "cpu", "--threads", "1", "--no-html"]
    subprocess.run([*run, task, "multiome.h5mu", *more, "-o", f"{task}{len(more)}{suffix}", *quiet], **given)
    device = json.loads((folder / f"{task}{len(more)}.report.json").read_text())["device"]
    print(task, device["expected_memory_bytes"] / device["peak_memory_bytes"])
    assert 0.5 < device["expected_memory_bytes"] / device["peak_memory_bytes"] < 2.0


def test_a_dry_run_tells_it(unpaired, tmp_path, capsys):
    assert main(words(unpaired, tmp_path / "o.h5mu", "--dry-run")) == 0
    told = capsys.readouterr().out
    assert "of memory will be needed, most of it while" in told
    assert "hyper-parameters: n_latent=4, n_hidden=16" in told or "n_hidden=16, n_latent=4" in told
    assert "mocli params" in told
    assert "{" not in told


def test_more_cells_features_and_links_need_more(unpaired, monkeypatch):
    from mocli.data.files.modality import ModalityFile
    from mocli.models.registry import resolve
    from mocli.tasks.prepare.plan import make_plan
    from mocli.tasks.run.options import DataOptions, TrainOptions
    from mocli.types import Task

    data = DataOptions(
        inputs=[str(unpaired / "rna.h5ad"), str(unpaired / "prot.h5ad")], links=[str(unpaired / "links.tsv")]
    )
    made = make_plan(data, TrainOptions(), Task.INTEGRATE, lambda _: None)
    params = resolve(made.traits, {}, "auto")
    small = memory.footprint(made, params, Aim(Task.INTEGRATE))
    assert small.peak < 1.5 * memory.LIBRARIES
    monkeypatch.setattr(ModalityFile, "nbytes", lambda *_: 4_000_000_000)
    assert not any("metrics" in name for name in memory.footprint(made, params, Aim(Task.PERTURB)).stages)
    large = memory.footprint(made, params, Aim(Task.INTEGRATE))
    assert large.stage == "matrices are prepared"
    assert large.peak > 10_000_000_000


def test_a_run_above_the_limit_is_refused_before_it_reads(unpaired, tmp_path, capsys, monkeypatch):
    # the process of the tests is above the limit already: its guard may not come before the refusal
    monkeypatch.setattr("mocli.tasks.run.guard.PERIOD_S", 60.0)
    assert main(words(unpaired, tmp_path / "o.h5mu", "--max-memory", "200M")) == 137
    err = capsys.readouterr().err
    assert "--max-memory" in err
    assert "at most 200 MB" in err
    assert "Traceback" not in err
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["status"] == "error"
    assert report["error"]["kind"] == "memory"
    assert not (tmp_path / "o.h5mu").exists()


def test_a_run_that_grows_ends_with_checkpoint_and_report(unpaired, tmp_path, capsys, monkeypatch):
    from mocli.tasks.trained import train as training

    monkeypatch.setattr(training, "tell_memory", lambda *_: None)  # an estimate that was too low
    given = words(unpaired, tmp_path / "o.h5mu", "--max-steps", "100000", "--max-memory", "20M")
    assert main(given) == 137
    err = capsys.readouterr().err
    assert "used more memory than it may" in err
    assert "Traceback" not in err
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["error"]["exit_code"] == 137
    assert not (tmp_path / "o.h5mu").exists()


def test_a_limit_interrupts_and_explains():
    def receive(signum, _):
        raise Interrupted(signum, "stopped")

    old = signal.signal(signal.SIGTERM, receive)
    try:
        with MemoryLimit(1.0) as limit, pytest.raises(Interrupted) as caught:
            time.sleep(20)
    finally:
        signal.signal(signal.SIGTERM, old)
    found = limit.explain(caught.value)
    assert isinstance(found, OutOfMemory)
    assert "stopped" in str(found.found)
    other = ValueError("something else")
    assert limit.explain(other) is other
    assert MemoryLimit(None).explain(caught.value) is caught.value


def test_what_is_resident_is_near_the_peak():
    from mocli.train.device import peak_memory

    now = machine.resident_memory()
    assert now is not None
    assert 0 < now < 1.1 * peak_memory()


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_job_counts(tmp_path, version):
    root, of = tmp_path / "cgroup", tmp_path / "self"
    base = root if version == 2 else root / "memory"
    job = base / "slurm" / "job_7"
    job.mkdir(parents=True)
    of.write_text("0::/slurm/job_7\n" if version == 2 else "5:cpu:/x\n4:memory:/slurm/job_7\n")
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (job / names[0]).write_text("8000\n")
    (job / names[1]).write_text("3000\n")
    (job / "memory.stat").write_text(f"anon 5\n{names[2]} 500\n")
    (job.parent / names[0]).write_text("max\n")  # no limit of its own
    assert list(machine._of_groups(root, of)) == [8000 - 3000 + 500]


def test_no_groups_are_no_limit(tmp_path):
    assert list(machine._of_groups(tmp_path, tmp_path / "absent")) == []


def test_the_time_is_told_before_and_grows_with_steps_and_features(unpaired, tmp_path, capsys):
    from dataclasses import replace

    from mocli.models.registry import resolve, traits_of
    from mocli.tasks.prepare.footprint import duration
    from mocli.tasks.prepare.plan import make_plan
    from mocli.tasks.run.options import DataOptions, RunOptions, TrainOptions
    from mocli.types import Task

    command = words(unpaired, tmp_path / "o.h5mu", "--max-steps", "5", "--metrics", "none")
    assert main([*command, "--dry-run"]) == 0
    assert "on a CPU, 5 s of it for 5 training steps\n" in capsys.readouterr().out
    assert main(command) == 0
    assert json.loads((tmp_path / "o.report.json").read_text())["device"]["expected_seconds"] == 8
    data = DataOptions(
        inputs=[str(unpaired / "rna.h5ad"), str(unpaired / "prot.h5ad")], links=[str(unpaired / "links.tsv")]
    )
    asked, run = TrainOptions(model="scmodal"), RunOptions(threads=1)
    plan = make_plan(data, asked, Task.INTEGRATE, lambda _: None)
    params = resolve(plan.traits, {}, "auto")
    size = memory.footprint(plan, params, Aim(Task.INTEGRATE))
    aim = Aim(Task.INTEGRATE)
    told = duration(plan, params, asked, run, size, aim)
    assert (told.steps, told.most_steps) == (700, 2_000)
    assert told.most_training == pytest.approx(told.training * 2_000 / 700)
    assert "at most" in told.words
    paper = duration(plan, resolve(plan.traits, {}, "paper"), replace(asked, preset="paper"), run, size, aim)
    assert paper.steps == paper.most_steps == 10_000
    wider = replace(size, weights=50 * size.weights)
    assert duration(plan, params, asked, run, wider, aim).training > 2 * told.training
    shorter = duration(plan, params, replace(asked, max_steps=200), run, size, aim)
    assert shorter.training == pytest.approx(told.training * 200 / 700)
    assert "at most" not in shorter.words
    assert duration(plan, params, asked, replace(run, max_time=3.0), size, aim).training == 3.0
    closed = traits_of("otcca")
    assert duration(plan, resolve(closed, {}, "auto"), asked, run, size, aim).steps == 0


def test_a_benchmark_tells_what_its_runs_and_its_scores_need(unpaired, tmp_path, capsys):
    files = [str(unpaired / "rna.h5ad"), str(unpaired / "prot.h5ad"), "--links", str(unpaired / "links.tsv")]
    options = ["--models", "scmodal", "--device", "cpu", "-o", str(tmp_path / "o.tsv"), "--jobs", "2"]
    assert main(["benchmark", *files, *options, "--seeds", "0,1", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "of memory will be needed, most of it while methods are scored" in told
    assert "of memory of its own; 2 go on at a time" in told
    assert re.search(r"it will take about \d+ (s|min) on a CPU, judging included", told)
    assert told.count("--no-ways") == 2  # nothing of a benchmark imputes by the models of its integrations


def test_metacells_tell_what_they_need(tmp_path, capsys):
    from mocli.data.demo import write_demo

    write_demo(tmp_path, n_cells=120)
    words = ["gene2peak", str(tmp_path / "multiome.h5mu"), "--gtf", str(tmp_path / "genes.tsv")]
    words += ["--method", "metacells", "-o", str(tmp_path / "o.tsv"), "--device", "cpu", "--no-html"]
    assert main([*words, "--dry-run"]) == 0
    assert "most of it while genes and peaks are correlated" in capsys.readouterr().out
    assert main(words) == 0
    device = json.loads((tmp_path / "o.report.json").read_text())["device"]
    assert device["expected_memory_bytes"] > memory.LIBRARIES


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize(("before", "least", "most"), [("", 20, 30), ("return_large_blocks()", -1, 5)])
def test_large_blocks_are_returned_once_they_are_freed(before, least, most):
    code = f"""
import ctypes
from mocli.tasks.run.guard import resident_memory, return_large_blocks
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def taken(n):
    block = libc.malloc(n)
    ctypes.memset(block, 1, n)
    return block
libc.free(ctypes.c_void_p(taken(30 << 20)))  # from here on glibc keeps blocks of this size in its heap
before, block, _ = resident_memory(), taken(25 << 20), taken(1 << 10)
libc.free(ctypes.c_void_p(block))
print((resident_memory() - before) >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert least <= int(done.stdout) < most
