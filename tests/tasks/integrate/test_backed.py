"""Cells that stay on disk: the same result in less memory, chosen by itself, refused where a model cannot."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from mocli.__main__ import main
from mocli.data import batches as drawing
from mocli.tasks.prepare import footprint as memory
from mocli.tasks.run.guard import kept_in_memory

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["-m", "multigrate", "--device", "cpu", "--threads", "1", "--no-html", "--metrics", "none"]
SMALL += ["--clusters", "none", "--no-umap", "-s", "n_hidden=16", "--n-latent", "4", "--batch-size", "16"]


def words(paired, out, *more, steps=30):
    return ["integrate", str(paired / "data.h5mu"), "-o", str(out), *SMALL, "--max-steps", str(steps), *more]


def report(out):
    return json.loads(out.with_suffix(".report.json").read_text())


def latent(out):
    return report(out)["determinism"]["latent_sha256"]


def test_the_result_is_that_of_cells_in_memory(paired, tmp_path, capsys):
    assert main(words(paired, tmp_path / "held.h5mu", "--no-backed")) == 0
    assert main(words(paired, tmp_path / "backed.h5mu", "--backed")) == 0
    assert "cells stay on disk, packed in" in capsys.readouterr().err
    held, backed = report(tmp_path / "held.h5mu"), report(tmp_path / "backed.h5mu")
    assert latent(tmp_path / "held.h5mu") == latent(tmp_path / "backed.h5mu")
    assert held["metrics"] == backed["metrics"]
    assert held["inputs"] == backed["inputs"]


def test_the_same_seed_gives_the_same_bytes_where_cells_are_drawn_in_windows(paired, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "WINDOW", 16)
    monkeypatch.setattr(drawing, "RUN", 4)
    assert main(words(paired, tmp_path / "a.h5mu", "--backed")) == 0
    assert main(words(paired, tmp_path / "b.h5mu", "--backed")) == 0
    assert latent(tmp_path / "a.h5mu") == latent(tmp_path / "b.h5mu")
    # they are drawn in another order than from memory
    assert main(words(paired, tmp_path / "c.h5mu", "--no-backed")) == 0
    assert latent(tmp_path / "a.h5mu") != latent(tmp_path / "c.h5mu")


def test_cells_go_to_the_disk_by_themselves_where_memory_would_not_do(paired, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "PREPARING", 1e6)
    monkeypatch.setattr(memory, "MOST_FITTED", 1)
    command = words(paired, tmp_path / "o.h5mu", "--max-memory", "5G")
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "cells stay on disk" in said
    assert "of memory would be needed for them" in said
    assert main([*command, "--no-backed"]) == 137
    assert "--max-memory" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["otcca"], ["scmodal", "--max-steps", "10"]])
def test_cells_measured_apart_and_their_links_are_read_from_the_disk(unpaired, tmp_path, more):
    for how in ("backed", "no-backed"):
        command = link_words(unpaired, tmp_path / f"{how}.h5mu", "-m", *more, f"--{how}", *SMALL[2:-6])
        assert main(command) == 0
    assert latent(tmp_path / "backed.h5mu") == latent(tmp_path / "no-backed.h5mu")


def test_features_of_cells_on_disk_have_neighbours(unpaired, tmp_path, monkeypatch):
    """Not their components, which are kept in memory."""
    found = {}
    for how in ("backed", "no-backed"):
        out = tmp_path / f"{how}.h5mu"
        more = ["-m", "otcca", "-s", "n_pcs=0", f"--{how}", *SMALL[2:-6]]
        monkeypatch.setattr("mocli.tasks.prepare.smoothing.N_COMPONENTS", 8)
        assert main(link_words(unpaired, out, *more)) == 0
        with h5py.File(out) as h5:
            found[how] = h5["obsm/X_otcca"][()]
    np.testing.assert_allclose(found["backed"], found["no-backed"], atol=1e-2)


def link_words(unpaired, out, *more):
    files = [str(unpaired / "rna.h5ad"), str(unpaired / "prot.h5ad"), "--links", str(unpaired / "links.tsv")]
    return ["integrate", *files, "-o", str(out), *more]


def test_a_model_that_needs_them_in_memory_says_which_do_not(unpaired, tmp_path, capsys):
    assert main(link_words(unpaired, tmp_path / "o.h5mu", "-m", "sccross", "--backed")) == 2
    said = capsys.readouterr().err
    assert "sccross needs all cells in memory" in said
    assert "-m: multigrate, otcca, scmodal" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--reference", "ref.model"], "are read into memory"),
        (["-m", "best"], "compares models on cells in memory"),
    ],
)
def test_what_reads_cells_into_memory_is_refused(paired, tmp_path, capsys, more, said):
    for dry in ([], ["--dry-run"]):
        assert main(words(paired, tmp_path / "o.h5mu", "--backed", *more, *dry)) == 2
        assert said in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told_before(paired, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert main(words(paired, tmp_path / "o.h5mu", "--backed", "--dry-run")) == 4
    assert "set TMPDIR" in capsys.readouterr().err


def test_a_folder_in_memory_is_known(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\ntmpfs {tmp_path}/shm tmpfs rw 0 0\n")
    (tmp_path / "shm" / "job").mkdir(parents=True)
    assert kept_in_memory(tmp_path / "shm" / "job", mounts)
    assert not kept_in_memory(tmp_path, mounts)
    assert not kept_in_memory(tmp_path, tmp_path / "absent")


def start(command, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "mocli", *command],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_kill_leaves_nothing_in_the_folder_and_the_same_command_ends_where_it_would_have(paired, tmp_path):
    assert main(words(paired, tmp_path / "whole.h5mu", "--backed", steps=300)) == 0
    folder, out = tmp_path / "tmp", tmp_path / "o.h5mu"
    folder.mkdir()
    command = words(paired, out, "--backed", "--checkpoint-every", "0.1s", steps=300)
    for signum in (signal.SIGKILL, signal.SIGTERM):
        process, checkpoint = start(command, folder), tmp_path / "o.ckpt" / "checkpoint.safetensors"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        end = time.monotonic() + 60
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        assert list(folder.iterdir()) == []
        process.send_signal(signum)
        process.communicate(timeout=60)
        assert list(folder.iterdir()) == []
    assert main(command) == 0
    assert report(out)["training"]["resumed_from_step"] is not None
    assert latent(out) == latent(tmp_path / "whole.h5mu")


MEASURED = """
import json, resource, sys
from mocli.data import packed
from mocli.models.registry import resolve
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.tasks.trained.train import build  # and with it torch
from mocli.types import Task

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

packed.BLOCK_VALUES = 1 << 18
files, backed = json.loads(sys.argv[1]), sys.argv[2] == "backed"
plan = make_plan(DataOptions(inputs=files), TrainOptions(model="multigrate"), Task.INTEGRATE, lambda _: None)
before = peak()
params = resolve(plan.traits, {}, "auto")
made = load(plan, params, seed=0, say=lambda _: None, warn=lambda _: None, backed=backed)
for m in made.bundle.modalities.values():
    m.features.mean(), m.features.totals(), m.features.some(500, seed=0)
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_values(tmp_path):
    import pandas as pd
    from scipy import sparse

    from mocli.data.write.blocks import NewModality
    from mocli.data.write.write import write_h5ad

    n, p, files = 60_000, 1_000, []
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n)])
    for seed, name in enumerate(("rna", "prot")):

        def blocks(seed=seed):
            rng = np.random.default_rng(seed)
            for _ in range(0, n, 5_000):
                x = sparse.random(5_000, p, 0.1, format="csr", dtype=np.float32, random_state=rng)
                x.data = np.ceil(5 * x.data)
                yield {"X": x}

        write_h5ad(tmp_path / f"{name}.h5ad", NewModality(name, obs, _genes(p, name), blocks))
        files.append(str(tmp_path / f"{name}.h5ad"))
    grown = {}
    for how in ("backed", "held"):
        command = [sys.executable, "-c", MEASURED, json.dumps(files), how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        grown[how] = int(done.stdout)
    csr = 8 * n * p // 10
    assert grown["held"] > 2 * csr
    assert grown["backed"] < csr


def _genes(p, name):
    import pandas as pd

    return pd.DataFrame(index=[f"{name}{i}" for i in range(p)])
