"""In which order the runs of a benchmark start, and that they end with it."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mocli.tasks.benchmark.processes import Processes


def runs(seed):
    return [SimpleNamespace(work=m, turn=str(seed), model=m) for m in ("a", "b", "c")]


def test_what_took_longest_starts_first_with_the_next_seed():
    processes = Processes(2, ["cpu"], 1, print)
    waiting = runs(0) + runs(1)
    assert [processes._next(waiting).model for _ in range(3)] == ["a", "b", "c"]
    processes._took |= {"a": 1.0, "b": 9.0}
    # not all are known yet: as planned
    assert processes._next(list(waiting)).model == "a"
    processes._took["c"] = 5.0
    assert [processes._next(waiting).model for _ in range(3)] == ["b", "c", "a"]
    assert waiting == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_a_process_ends_with_a_parent_that_is_killed(tmp_path):
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    words = [sys.executable, "-c", child]
    parent = (
        "import subprocess; from mocli.tasks.benchmark.processes import following; "
        f"subprocess.Popen(following({words!r})).wait()"
    )
    running = subprocess.Popen([sys.executable, "-c", parent])
    end = time.monotonic() + 30
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)
    running.kill()
    running.wait()
    status = Path(f"/proc/{pid.read_text()}/status")
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < end, "it runs on"
        time.sleep(0.01)
