"""What is asked of a benchmark, beside what its runs need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mocli.peers.registry import Peer
from mocli.tasks.benchmark.interpreter import Interpreter
from mocli.types import Task

TASKS = (Task.INTEGRATE, Task.IMPUTE, Task.SIMULATE, Task.GENE2PEAK)


@dataclass(frozen=True)
class Asked:
    """Which models, seeds and tasks; `None` models means all that fit."""

    models: tuple[str, ...] | None
    seeds: tuple[int, ...]
    tasks: tuple[Task, ...]
    source: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class StudyOptions:
    """Studies asked for; see `studies_of`."""

    panel: tuple[int, ...] = ()
    ablate: tuple[str, ...] = ()
    fractions: tuple[float, ...] = ()
    corrupt: tuple[float, ...] = ()
    leave_one_batch_out: bool = False


@dataclass(frozen=True, eq=False)
class PeersAsked:
    """Peers with the hyper-parameters given for them, and the Python that has them.

    Attributes
    ----------
    params
        By peer, defaults and all.
    """

    peers: tuple[Peer, ...] = ()
    params: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    python: Interpreter | None = None


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is asked of a benchmark, beside what its runs need."""

    asked: Asked
    embeddings: tuple[str, ...]
    jobs: int
    devices: tuple[str, ...]
    studies: StudyOptions
    peers: PeersAsked
    gtf: Path | None = None
    truth: Path | None = None
