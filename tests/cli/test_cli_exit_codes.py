"""Every way a command ends: code, message, streams."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from mocli import __version__, log
from mocli.__main__ import main
from mocli.errors import (
    EnvironmentProblem,
    InputError,
    Interrupted,
    MocliError,
    NumericalError,
    OutOfMemory,
    UsageError,
)

BASE = ["integrate", "a.h5ad", "b.h5ad", "-o", "out.h5mu"]


@pytest.fixture
def ends_with(monkeypatch):
    """Make the task raise an error, or do what a function does."""

    def install(outcome):
        def integrate(inputs, **arguments):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome(**arguments)

        module = ModuleType("mocli.tasks.integrate.integrate")
        module.integrate = integrate
        monkeypatch.setitem(sys.modules, "mocli.tasks.integrate.integrate", module)

    return install


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


KNOWN = [
    (UsageError("u", hint="h"), 2),
    (InputError("i", file="f.h5ad", field="X", found="1", expected="2", hint="h"), 3),
    (EnvironmentProblem("e"), 4),
    (NumericalError("n", term="kl", step=7), 5),
    (OutOfMemory("m"), 137),
    (Interrupted(signal.SIGINT, "s"), 130),
    (Interrupted(signal.SIGTERM, "s", hint="resume"), 143),
    (Interrupted(signal.SIGUSR1, "s"), 138),
    (KeyboardInterrupt(), 130),
    (MemoryError(), 137),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 137),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 137),
    (OSError(errno.ENOSPC, "No space left on device", "out.h5mu"), 4),
    (ModuleNotFoundError("No module named 'x'", name="x"), 4),
]


@pytest.mark.parametrize(
    ("error", "code"), KNOWN, ids=lambda v: v if isinstance(v, int) else type(v).__name__
)
def test_known_errors_give_a_message_and_no_traceback(ends_with, capsys, error, code):
    ends_with(error)
    assert main(BASE) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "mocli: " in captured.err
    assert "Traceback" not in captured.err
    if isinstance(error, MocliError):
        assert str(error) in captured.err


def test_a_bug_gives_a_traceback_and_code_one(ends_with, capsys):
    ends_with(ZeroDivisionError("oops"))
    assert main(BASE) == 1
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    assert "oops" in captured.err
    assert f"this is a bug in mocli {__version__}" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (InputError("i", hint="h"), 3, "input"),
        (ZeroDivisionError("oops"), 1, "bug"),
        (MemoryError(), 137, "memory"),
    ],
)
def test_json_errors_are_one_line(ends_with, capsys, error, code, kind):
    ends_with(error)
    assert main([*BASE, "--log-format", "json"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert (entry["level"], entry["kind"], entry["exit_code"]) == ("error", kind, code)


def test_a_misunderstood_command_line_is_json_too(capsys, monkeypatch):
    assert main([*BASE, "--log-format=json", "--sede", "1"]) == 2
    assert json.loads(capsys.readouterr().err)["kind"] == "usage"
    monkeypatch.setenv("MOCLI_LOG_FORMAT", "json")
    assert main([*BASE, "--sede", "1"]) == 2
    assert json.loads(capsys.readouterr().err)["exit_code"] == 2


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["integrat"], "integrate"),
        (["nonsense"], "mocli -h"),
        ([*BASE, "--sede", "1"], "did you mean '--seed'"),
        ([*BASE, "--batchkey", "x"], "did you mean '--batch-key'?"),
        ([*BASE, "--outptu"], "--output"),
        ([*BASE, "--seed"], "--seed"),
        ([*BASE, "--seed", "x"], "--seed"),
        ([*BASE, "--seed", "-1"], "--seed"),
        ([*BASE, "--preset", "quick"], "auto, paper, fast"),
        ([*BASE, "--preset", "papr"], "did you mean 'paper'"),
        ([*BASE, "-m", "scmodl"], "did you mean 'scmodal'"),
        ([*BASE, "--device", "gpu"], "cuda"),
        ([*BASE, "--device", "cuda0"], "did you mean 'cuda:0'"),
        ([*BASE, "--pairing", "pared"], "did you mean 'paired'"),
        ([*BASE, "--layer", "counts"], "MOD=LAYER"),
        ([*BASE, "--layer", "=counts"], "MOD=LAYER"),
        ([*BASE, "--hvg", "rna=0"], "whole number"),
        ([*BASE, "--kind", "a=protein"], "did you mean 'prot'"),
        ([*BASE, "--max-time", "soon"], "3h50m"),
        ([*BASE, "--max-time", "0"], "3h50m"),
        ([*BASE, "--checkpoint-every", "10m5m"], "3h50m"),
        ([*BASE, "--lr", "0"], "above zero"),
        ([*BASE, "--lr", "nan"], "above zero"),
        ([*BASE, "--progress", "bars"], "did you mean 'bar'"),
        (["integrate"], "no input file"),
        (["integrate", "a.h5ad"], "--output"),
        (["params", "scmodl"], "did you mean 'scmodal'"),
        (["params"], "MODEL"),
    ],
)
def test_usage_errors(ends_with, capsys, args, complaint):
    ends_with(AssertionError("the task must not be called"))
    assert main(args) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_bad_variable_is_named(ends_with, capsys, monkeypatch):
    monkeypatch.setenv("MOCLI_SEED", "x")
    assert main(BASE) == 2
    assert "environment MOCLI_SEED" in capsys.readouterr().err
    monkeypatch.setenv("MOCLI_SEED", "1")
    monkeypatch.setenv("MOCLI_PRESET", "papr")
    assert main(BASE) == 2
    assert "environment MOCLI_PRESET" in capsys.readouterr().err


def test_a_run_leaves_stdout_empty(ends_with, capsys):
    ends_with(lambda **_: SimpleNamespace(plan=[], report={}))
    assert main(BASE) == 0
    assert capsys.readouterr().out == ""


def test_dry_run_prints_the_plan(ends_with, capsys):
    ends_with(lambda **given: SimpleNamespace(plan=[f"dry_run={given['dry_run']}", "would write out.h5mu"]))
    assert main([*BASE, "-n"]) == 0
    assert capsys.readouterr().out == "dry_run=True\nwould write out.h5mu\n"


def test_report_to_stdout_in_success_and_failure(ends_with, capsys):
    written = []

    def task(fails, **given):
        written.append(given["report"])
        Path(given["report"]).write_text('{"status": "x"}')
        if fails:
            raise InputError("bad")

    ends_with(lambda **given: task(False, **given))
    assert main([*BASE, "--report", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == {"status": "x"}
    ends_with(lambda **given: task(True, **given))
    assert main([*BASE, "--report", "-"]) == 3
    assert json.loads(capsys.readouterr().out) == {"status": "x"}
    assert not any(path.exists() for path in written)


@pytest.mark.parametrize(
    ("flags", "levels"), [([], "iw"), (["-v"], "diw"), (["-q"], "w"), (["-qq"], ""), (["-q", "-v"], "iw")]
)
def test_verbosity(ends_with, capsys, flags, levels):
    def task(**_):
        log.logger.debug("d-line")
        log.logger.info("i-line")
        log.logger.warning("w-line")

    ends_with(task)
    assert main([*BASE, *flags]) == 0
    err = capsys.readouterr().err
    assert [c for c in "diw" if f"{c}-line" in err] == list(levels)


def test_a_closed_pipe_ends_quietly():
    command = f"{sys.executable} -m mocli params scmodal --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_pipe_closed_before_the_first_byte(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(os.fdopen(writer, "wb")) as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert main(["models"]) == 0
    assert capsys.readouterr().err == ""


def test_a_real_process_passes_the_code_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mocli", "integrate", "--sede"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize(
    ("words", "code"), [("models", 0), ("integrate -h", 0), ("integrate absent.h5ad -o o.h5mu", 3)]
)
def test_closed_streams_change_no_exit_code(tmp_path, closed, words, code):
    shell = ["bash", "-c", f"{sys.executable} -m mocli {words} {closed}"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(shell, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
