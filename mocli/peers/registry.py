"""The peers, every file of `mocli.peers` that declares `PEER`, and the Python that runs them.

The interpreter may be one of another environment: it is checked, and asked which packages it has.
"""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import mocli.peers
from mocli.errors import UsageError, did_you_mean
from mocli.types import ModalityKind, Pairing

Array = Literal["components", "counts", "features", "linked"]
Need = Literal["batch", "links"]

RUNNER = Path(__file__).with_name("runner.py")
"""The script that reads the data, runs a peer and writes its coordinates; it does not need mocli."""


@dataclass(frozen=True)
class Peer:
    """A published tool; all but `file` as the `PEER` of its file declares it.

    Attributes:
        package, module: Its names for `pip install` and `import`.
        takes: Arrays that it is given; see `mocli.peers.runner.Given`.
        needs: What the data must have: `batch` (two at least), `links`.
        pairings, kinds: How cells relate; the kinds of the modalities, one of each, or none for any.
        n_modalities: How many modalities, None for any number.
        seeds: Whether another seed may give other coordinates.
        params: Hyper-parameters with their defaults, None where the package chooses.
    """

    name: str
    title: str
    doi: str
    package: str
    module: str
    licence: str
    takes: frozenset[Array]
    needs: frozenset[Need]
    pairings: frozenset[Pairing]
    kinds: frozenset[ModalityKind]
    n_modalities: int | None
    seeds: bool
    params: Mapping[str, float | None]
    file: Path

    @classmethod
    def of(cls, declared: Mapping[str, Any], file: Path) -> Peer:
        """Make it from its declaration."""
        sets: dict[str, Any] = {name: frozenset(declared[name]) for name in ("takes", "needs")}
        sets |= {"pairings": frozenset(map(Pairing, declared["pairings"]))}
        sets |= {"kinds": frozenset(map(ModalityKind, declared["kinds"]))}
        return cls(**{**declared, **sets}, file=file)

    def problem_with(
        self, *, pairing: Pairing, kinds: Sequence[ModalityKind], n_batches: int, n_links: int
    ) -> str | None:
        """Return None if it takes such data, else the reason, as the end of a sentence.

        `n_links`: pairs of modalities that links join.
        """
        if self.kinds and sorted(kinds) != sorted(self.kinds):
            return f"takes {' and '.join(sorted(self.kinds))} data, these are {' and '.join(kinds)}"
        if self.n_modalities is not None and len(kinds) != self.n_modalities:
            return f"takes {self.n_modalities} modalities, got {len(kinds)}"
        if pairing not in self.pairings:
            return f"takes {' or '.join(sorted(self.pairings))} cells, these are {pairing}"
        if "batch" in self.needs and n_batches < 2:
            return "needs two batches or more (--batch-key)"
        if "links" in self.needs and not n_links:
            return "needs a feature-link table (--links)"
        return None

    def settle(self, params: Mapping[str, object]) -> dict[str, float | None]:
        """Return the hyper-parameters with those given (names without `peer.`) in place of defaults.

        Raises `UsageError`: it has no such hyper-parameter, or the value is no number of that sort.
        """
        for key, value in params.items():
            where = f"--set {self.name}.{key}"
            if key not in self.params:
                raise UsageError(
                    f"{self.name} has no hyper-parameter '{key}'",
                    field=where,
                    hint=did_you_mean(key, self.params, "hyper-parameters"),
                )
            takes_shares = isinstance(self.params[key], float)
            number = isinstance(value, (int, float)) if takes_shares else isinstance(value, int)
            if isinstance(value, bool) or not number or not float(str(value)) > 0:
                raise UsageError(
                    f"'{key}' of {self.name} is a positive {'number' if takes_shares else 'whole number'}",
                    field=where,
                    found=value,
                )
        return {**self.params, **params}  # type: ignore[dict-item]


def available_peers() -> dict[str, Peer]:
    """Return every peer of every file on `mocli.peers.__path__`, by name; imports none of their packages."""
    peers: dict[str, Peer] = {}
    for module in pkgutil.iter_modules(mocli.peers.__path__):
        imported = import_module(f"mocli.peers.{module.name}")
        declared = getattr(imported, "PEER", None)
        if declared is not None and imported.__file__ is not None:
            peers[declared["name"]] = Peer.of(declared, Path(imported.__file__))
    return dict(sorted(peers.items()))


def peers_named(names: Sequence[str]) -> list[Peer]:
    """Return peers by name, all of them for `all`; raises `UsageError` with the nearest names."""
    peers = available_peers()
    for name in names:
        if name not in peers and name != "all":
            raise UsageError(
                f"there is no peer '{name}'",
                field="--peers",
                hint=did_you_mean(name, ["all", *peers], "peers"),
            )
    return list(peers.values()) if "all" in names else [peers[name] for name in names]


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
