"""What lies in the folder that a benchmark is started in is not run as code."""

import os
import subprocess
import sys

from mocli.peers.registry import find_interpreter, safe_path
from mocli.tasks.benchmark.processes import own_environment
from mocli.tasks.benchmark.runs import ModelRun
from mocli.tasks.run.request import requested
from mocli.types import Task


def test_a_run_imports_nothing_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("queue", "typer", "mocli", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "", os.environ.get("PYTHONPATH", "")]))
    training = ModelRun(Task.INTEGRATE, "scmodal", 0, "", tmp_path, requested("a.h5mu", output="o.h5mu"))
    start, *words = training.process("cpu", 1).argv
    assert start == sys.executable
    run = [start, *words[: words.index("mocli") + 1], "--version"]
    done = subprocess.run(run, env=own_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_the_python_of_peers_is_asked_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "numpy" in find_interpreter(None, {"numpy": "numpy"}).versions
    assert not (tmp_path / "ran").exists()


def test_only_absolute_folders_stay_in_the_path():
    assert safe_path(os.pathsep.join(["", ".", "lib", "/opt/lib", "~/x"])) == "/opt/lib"
