"""Logs, the log file and progress: levels, formats, terminals."""

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from mocli import __version__, log
from mocli.errors import EnvironmentProblem, InputError

ROOT = Path(__file__).resolve().parents[1]
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture(autouse=True)
def unconfigured():
    log.teardown()
    yield
    log.teardown()


class Counted:
    """A loss whose reading is counted, as a synchronisation with the GPU would be felt."""

    reads = 0

    def __float__(self):
        type(self).reads += 1
        return 0.5


def steps(n, description="train", start=0, **more):
    with log.progress(n, description, start=start, **more) as p:
        for step in range(start + 1, n + 1):
            p.update(step, {"loss": 1 / step})


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e"), (logging.INFO, "iwe")],
)
def test_levels(capsys, level, shown):
    log.setup(level)
    for letter, name in zip("diwe", ("debug", "info", "warning", "error"), strict=True):
        getattr(log.logger, name)("%s-line", letter)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [c for c in "diwe" if f"{c}-line" in captured.err] == list(shown)


def test_text_names_the_level_only_where_it_matters(capsys):
    log.setup()
    log.logger.info("plain")
    log.logger.warning("careful")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(STAMP + "plain", first)
    assert re.fullmatch(STAMP + "warning: careful", second)


def test_json_lines_are_valid_whatever_they_hold(capsys):
    log.setup(fmt="json")
    log.logger.info(
        'quote " newline \n µ', extra={"fields": {"terms": {"kl": float("nan")}, "path": Path("x")}}
    )
    try:
        raise ValueError("v")
    except ValueError:
        log.logger.exception("bad")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["message"] == 'quote " newline \n µ'
    assert first["terms"] == {"kl": None}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (second["level"], "ValueError: v" in second["traceback"]) == ("error", True)


def test_setup_replaces_itself(capsys):
    log.setup()
    log.setup("warning", "json")
    log.logger.info("no")
    log.logger.warning("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert log.configured_format() == "json"
    log.teardown()
    assert log.configured_format() is None


def test_notices_of_libraries_are_for_debugging(capsys):
    log.setup("info")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("api will change", FutureWarning, stacklevel=1)
        warnings.warn("division", RuntimeWarning, stacklevel=1)
    err = capsys.readouterr().err
    assert "api will change" not in err
    assert "warning: RuntimeWarning: division" in err


def test_a_closed_stderr_does_not_end_a_run(monkeypatch):
    log.setup()
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    log.logger.info("nobody reads this")
    steps(5)


def library(code):
    """Run code in a process that never called setup."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == ""
    return done.stderr


def test_a_library_is_silent_but_for_warnings(tmp_path):
    code = f"""
from mocli import log
def work():
    log.logger.info("info-line")
    with log.progress(10, "train") as p:
        p.update(10, {{"loss": 1.0}})
    log.logger.warning("warning-line")
work()
with log.open_log({str(tmp_path / "o.log")!r}):
    work()
work()
"""
    assert library(code).splitlines() == ["warning-line"] * 3
    written = (tmp_path / "o.log").read_text()
    assert "info-line" in written
    assert "step 10/10" in written


def test_a_program_that_logs_gets_our_records_once_and_at_its_level(tmp_path):
    code = f"""
import logging
from mocli import log
logging.basicConfig(level=logging.WARNING, format="ROOT %(message)s")
with log.open_log({str(tmp_path / "o.log")!r}):
    log.logger.info("info-line")
    log.logger.warning("warning-line")
"""
    assert library(code).splitlines() == ["ROOT warning-line"]


def test_the_file_starts_with_version_and_command(tmp_path, capsys):
    log.setup("error")
    path = tmp_path / "o.log"
    with log.open_log(path, command=["mocli", "integrate", "my file.h5ad"]):
        log.logger.info("said")
        log.logger.debug("not said")
    log.logger.info("after")
    first, second, third = path.read_text().splitlines()
    assert first.endswith(f"mocli {__version__}")
    assert second.endswith("command: mocli integrate 'my file.h5ad'")
    assert third.endswith("said")
    assert capsys.readouterr().err == ""
    with log.open_log(path, append=True):
        pass
    assert len(path.read_text().splitlines()) == 4
    with log.open_log(path):
        pass
    assert len(path.read_text().splitlines()) == 1


def test_the_file_keeps_the_error_that_ended_the_run(tmp_path, capsys):
    log.setup(fmt="json")
    path = tmp_path / "o.log"

    def fail():
        with log.open_log(path):
            raise InputError("no cells", hint="add some")

    with pytest.raises(InputError):
        fail()
    entry = json.loads(path.read_text().splitlines()[-1])
    assert entry["level"] == "error"
    assert "no cells" in entry["message"]
    assert capsys.readouterr().err == ""
    assert not [h for h in log.logger.handlers if isinstance(h, logging.FileHandler)]


def test_verbose_reaches_the_file(tmp_path):
    log.setup("debug")
    with log.open_log(tmp_path / "o.log"):
        log.logger.debug("detail")
    assert "debug: detail" in (tmp_path / "o.log").read_text()


def test_an_unwritable_log_is_an_environment_problem(tmp_path):
    with pytest.raises(EnvironmentProblem, match="log file"), log.open_log(tmp_path / "absent" / "o.log"):
        pass


def test_plain_progress_says_each_twentieth(capsys):
    log.setup()
    steps(1000)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 20
    assert re.fullmatch(STAMP + r"train: step 50/1,000 \(5 %\)  loss 0\.02  elapsed 0s  ETA 0s", lines[0])
    assert "step 1,000/1,000 (100 %)" in lines[-1]
    assert not re.search(r"[\r\x1b]", captured.err)


@pytest.mark.parametrize("total", [1, 3, 19, 20, 21, 39, 41, 101, 9_999])
def test_never_more_than_twenty_lines_and_always_the_last(capsys, total):
    log.setup()
    steps(total)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 21
    assert f"step {total:,}/{total:,}" in lines[-1]


def test_a_minute_without_a_line_gives_one(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    log.setup()
    with log.progress(1_000_000, "train") as p:
        for step in range(1, 181):
            now[0] += 1.0
            p.update(step)
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"step (\S+)/", line).group(1) for line in lines] == ["60", "120", "180"]
    assert "elapsed 1m00s  ETA 277h45m" in lines[0]


def test_early_end_and_resumed_start(capsys):
    log.setup()
    with log.progress(100, "train", start=90) as p:
        p.update(91)
        p.update(97)
        p.update(98)
    lines = capsys.readouterr().err.splitlines()
    assert "step 98/100" in lines[-1]
    assert len(lines) == 2


def test_no_last_line_after_an_error(capsys):
    log.setup()

    def fail():
        with log.progress(100, "train") as p:
            p.update(1)
            raise InputError("x")

    with pytest.raises(InputError):
        fail()
    assert capsys.readouterr().err == ""


def test_terms_are_read_only_when_shown():
    log.setup("info", progress_mode="plain")
    Counted.reads = 0
    with log.progress(1000, "train") as p:
        for step in range(1, 1001):
            p.update(step, {"loss": Counted()} if step % 2 else lambda: {"loss": Counted()})
    assert Counted.reads == 20


def test_json_progress_has_numbers(capsys):
    log.setup(fmt="json", progress_mode="bar")
    steps(20, "align")
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [e["step"] for e in entries] == list(range(1, 21))
    assert entries[3]["terms"] == {"loss": 0.25}
    assert {e["phase"] for e in entries} == {"align"}
    assert all(e["eta_s"] >= 0 for e in entries)


@pytest.mark.parametrize(("level", "mode"), [("info", "none"), ("warning", "plain"), ("warning", "auto")])
def test_no_progress_on_the_screen_but_in_the_file(capsys, tmp_path, level, mode):
    log.setup(level, progress_mode=mode)
    with log.open_log(tmp_path / "o.log"):
        steps(40)
    assert capsys.readouterr().err == ""
    assert "step 40/40" in (tmp_path / "o.log").read_text()


def on_terminal(code, **environment):
    """Run code with stderr on a pseudo-terminal; return what it showed."""
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stderr=follower, stdout=subprocess.PIPE, cwd=ROOT, env=env
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    out, _ = child.communicate()
    os.close(leader)
    assert child.returncode == 0
    assert out == b""
    return shown.decode()


CODE = """
import time
from mocli import log
log.REDRAW_EVERY = 0
log.setup(progress_mode={mode!r})
with log.progress(40, "train") as p:
    for step in range(1, 41):
        p.update(step, {{"loss": 0.25}})
        if step == 20:
            log.logger.info("in between")
            time.sleep(0.2)
"""


def test_a_bar_on_a_terminal():
    shown = on_terminal(CODE.format(mode="auto"))
    assert "\x1b" in shown
    assert "loss 0.25" in shown
    assert "in between" in shown
    assert "step 20/40" not in shown


@pytest.mark.parametrize(("mode", "term"), [("plain", "xterm"), ("bar", "dumb")])
def test_plain_lines_on_a_terminal_when_asked_or_dumb(mode, term):
    shown = on_terminal(CODE.format(mode=mode), TERM=term)
    assert "\x1b" not in shown
    assert "step 20/40" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599.7, "1h00m"), (13800, "3h50m"), (float("nan"), "?")],
)
def test_short_times(seconds, text):
    assert log.short_time(seconds) == text
