"""A Python interpreter, perhaps of another environment: check it, and find which packages it has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mocli.errors import UsageError

OPTION = "--peer-python"
PATIENCE_S = 120.0
"""Seconds to wait for the first start of an environment on a network disk."""

# imports nothing; a folder of that name where mocli was started is no package
PROBE = """
import json, sys
from importlib import metadata, util
sys.path[:] = [p for p in sys.path if p]
found = {}
for module, package in json.loads(sys.argv[1]).items():
    spec = util.find_spec(module)
    if spec is None or (spec.origin is None and not spec.has_location):
        continue
    try:
        found[module] = metadata.version(package)
    except metadata.PackageNotFoundError:
        found[module] = "unknown"
print("\\n" + json.dumps(found))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python, and the versions of the wanted packages that it has, by module."""

    path: Path
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it is the one that runs mocli."""
        # a virtual environment's is a link to another's: links are not followed
        return self.path == Path(sys.executable)

    def environment(self, threads: int) -> dict[str, str]:
        """Return the variables for a process of it: without mocli's options, and without another's paths."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MOCLI_")}
        for name in () if self.own else ("PYTHONPATH", "PYTHONHOME"):
            variables.pop(name, None)
        if path := safe_path(variables.pop("PYTHONPATH", "")):
            variables["PYTHONPATH"] = path
        for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
            variables[f"{library}_NUM_THREADS"] = str(threads)
        return variables


def safe_path(path: str) -> str:
    """Return the absolute folders of a `PYTHONPATH`."""
    return os.pathsep.join(part for part in path.split(os.pathsep) if Path(part).is_absolute())


def find_interpreter(program: str | Path | None, packages: Mapping[str, str]) -> Interpreter:
    """Return the interpreter given, or the one that runs mocli, and what it has of the packages.

    `packages`: name of the installed package by the name that is imported. Raises `UsageError`: there is no
    such file, it cannot be run, or it is not a Python.
    """
    path = Path(sys.executable)
    if program is not None:
        if Path(program).is_dir():
            raise UsageError(
                "a folder is not an interpreter", field=OPTION, found=program, hint=_inside(Path(program))
            )
        executable = shutil.which(str(program))
        if executable is None:
            raise UsageError(
                "there is no such program" if not Path(program).exists() else "the file cannot be run",
                field=OPTION,
                found=program,
                hint="give the path of a Python: python -m venv PEERS makes PEERS/bin/python",
            )
        # links are kept: they say which environment
        path = Path(os.path.abspath(executable))  # noqa: PTH100
    python = Interpreter(path)
    try:
        # in a folder without any file: what lies beside the data is not imported in place of a package
        with tempfile.TemporaryDirectory(prefix="mocli-") as empty:
            done = subprocess.run(
                [str(path), "-c", PROBE, json.dumps(dict(packages))],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=PATIENCE_S,
                env=python.environment(threads=1),
                cwd=empty,
            )
        packages_there = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        complaint = str(error)
        if not isinstance(error, (OSError, subprocess.TimeoutExpired)):
            complaint = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UsageError(
            "the program does not answer like a Python of version 3.8 or later",
            field=OPTION,
            found=path,
            hint=f"it says: {complaint[:200]}",
        ) from error
    return Interpreter(path, packages_there)


def _inside(folder: Path) -> str:
    inner = folder / "bin" / "python"
    return f"give the program: {inner}" if inner.exists() else "give the path of a Python"
