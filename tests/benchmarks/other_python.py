"""Run a script in a Python of its own: another environment's, or this one's without what is loaded here."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
VARIABLE = "MOCLI_SCVI_PYTHON"


@dataclass(frozen=True)
class Used:
    """What a process took, start-up and all: CPU and wall seconds, MB (10^6 bytes) at its peak."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def find_python(given: str | None) -> str:
    """Return the interpreter that has scvi-tools; ends the script with a sentence where there is none."""
    python = given or os.environ.get(VARIABLE)
    if not python:
        raise SystemExit(
            f"no Python with scvi-tools: give --python OTHER/bin/python or set {VARIABLE} "
            "(python -m venv OTHER; OTHER/bin/pip install scvi-tools)"
        )
    try:
        found = subprocess.run([python, "-c", "import scvi"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"{python} cannot be run: {error.strerror}") from error
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"{python} cannot import scvi ({last}): OTHER/bin/pip install scvi-tools")
    return python


def run(python: str, script: str, *arguments: object) -> tuple[Used, dict[str, Any]]:
    """Run a script beside this one; returns what it took, and the JSON that it wrote to its last argument.

    One thread; ends with the script's own message where it fails.
    """
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    environment = os.environ | threads
    if python == sys.executable:
        paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    else:
        environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        answer, said = Path(folder) / "answer.json", Path(folder) / "said.txt"
        command = [python, str(HERE / script), *map(str, arguments), str(answer)]
        begun = time.monotonic()
        with said.open("wb") as out:
            child = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=folder
            )
            _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(
                f"{script} failed:\n{said.read_text(encoding='utf-8', errors='replace')[-3000:]}"
            )
        found = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    return Used(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024 / 1e6), found
