"""How much memory a run will need, told before it needs it; and how much there is.

The estimate is of the resident set at its peak on a CPU, from sizes that files tell without being
read. It is meant to be right within a factor of two.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mocli.errors import OutOfMemory
from mocli.models.base import ProjectsInput, SmoothsLinks
from mocli.models.parameters import Sized, resolve
from mocli.report import wording
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mocli.tasks.prepare.plan import Plan
    from mocli.tasks.run.options import TrainOptions
    from mocli.tasks.run.run import Run

LIBRARIES = 550e6
"""Of Python, torch and what else is loaded by the end of any run (`tests/benchmarks/memory.py`)."""

PREPARING = 1.5
"""Copies of a matrix while its transform is fitted, beside the matrix itself."""

CHOSEN = 2.0
"""How many more values chosen features have than others."""

PER_WEIGHT = 4 * 5
"""Bytes: a weight, its gradient, two running means of Adam, the best weights so far."""

PER_VALUE = 4 * 8
"""Bytes of one feature of one cell of a minibatch: values, means, what the gradient needs."""

MEASURING = 120e6
"""Of neighbours, distances and clusters of the cells that metrics look at."""

MOST_MEASURED = 2**24
"""Values of linked features that baselines lay out densely, for each modality."""

IMPUTING = 150e6
"""Of the blocks in which values are made, compressed and compared."""

MOST_COMPARED = 2_000
"""Cells whose values stand side by side while they are compared, by what was seen on real sets."""

COMPONENTS = 64
"""Dense columns that reduced features count as."""


@dataclass(frozen=True)
class Footprint:
    """What a run will hold, in bytes.

    Attributes
    ----------
    held
        Libraries and matrices, there all the time.
    stages
        What each stage needs beside them.
    """

    held: int
    stages: Mapping[str, int]

    @property
    def stage(self) -> str:
        """The stage that needs most."""
        return max(self.stages, key=lambda name: self.stages[name])

    @property
    def peak(self) -> int:
        """Bytes at the most."""
        return self.held + max(self.stages.values())

    @property
    def words(self) -> str:
        """Say how much, and when."""
        return f"about {wording.size(self.peak)} of memory will be needed, most of it while {self.stage}"


def footprint(made: Plan, params: object, task: Task) -> Footprint:
    """Estimate what a run that trains will need, from the sizes of its matrices on disk."""
    projects = params if isinstance(params, ProjectsInput) and params.n_pcs else None
    sized = params if isinstance(params, Sized) else None
    n_links: dict[str, int] = {}
    for edge in made.edges:
        for name in (edge.source, edge.target):
            n_links[name] = n_links.get(name, 0) + len(edge.source_index)
    n_given: dict[str, int] = {}  # columns of the user's own, which stand for no feature
    for links in made.matrices:
        for name in links.edge:
            n_given[name] = n_given.get(name, 0) + len(links.names)
    held, weights, width, raw, dense, linked = LIBRARIES, 0.0, 0, [0.0], [0.0], 0.0
    for c in made.choices:
        n, p = c.file.n_obs, max(c.file.n_vars, 1)
        stored = float(c.file.nbytes(c.layer.layer))
        chosen = p if c.n_top is None else min(p, c.n_top + n_links.get(c.file.name, 0))
        reduced = c.likelihood is None and (projects is not None or "lsi" in c.transform)
        raw.append(stored)
        held += 4.0 * n * COMPONENTS if reduced else stored * min(1.0, CHOSEN * chosen / p)
        seen = COMPONENTS if reduced else chosen
        width += seen
        weights += seen * (sized.weights_per_feature(seen) if sized else COMPONENTS)
        if c.file.name in n_links or c.file.name in n_given:
            s, given = n_links.get(c.file.name, 0), n_given.get(c.file.name, 0)
            held += stored * min(1.0, CHOSEN * s / p) + 4.0 * n * given
            if isinstance(params, SmoothsLinks) and params.smooth_links:
                held += 4.0 * n * n**0.5
            linked += 4.0 * min(n * (s + given), MOST_MEASURED)
        if task is Task.IMPUTE:
            dense.append(4.0 * p)
    batch = sized.batch_size if sized else 512
    stages = {
        "matrices are prepared": PREPARING * max(raw),
        "the model is trained": PER_WEIGHT * weights + PER_VALUE * batch * width,
        "metrics are computed": MEASURING + 3 * linked,
    }
    if task is Task.IMPUTE:
        stages["values are imputed"] = IMPUTING + 2 * max(dense) * min(MOST_COMPARED, width)
    return Footprint(int(held), {name: int(n) for name, n in stages.items()})


def foreseen(made: Plan, train: TrainOptions, task: Task) -> str:
    """Return what a dry run says of memory."""
    return footprint(made, resolve(made.traits, train.params, train.preset), task).words


def tell_memory(run: Run, expected: Footprint) -> None:
    """Say what a run will need before it does, and refuse it above the user's limit.

    Raises
    ------
    OutOfMemory
        More than `--max-memory`.
    """
    run.say(expected.words)
    if run.report.device is not None:
        run.report.device["expected_memory_bytes"] = expected.peak
    limit = run.options.max_memory
    if limit is not None and expected.peak > limit:
        raise OutOfMemory(
            "this run would need more memory than it may take",
            field="--max-memory",
            found=f"{expected.words}; an estimate, right within a factor of two",
            expected=f"at most {wording.size(limit)}",
            hint=HINT,
        )
    free = available_memory()
    if free is not None and expected.peak > free:
        run.warn(f"{expected.words}, and {wording.size(free)} are free: {HINT}")


HINT = "keep fewer features (--hvg, --seen-in), lower --batch-size, or ask for more memory"


def available_memory() -> int | None:
    """Return the bytes that this process can still take: of the machine, or of the job it runs in."""
    found = [n for n in (_of_machine(), *_of_groups()) if n is not None]
    return max(0, min(found)) if found else None


def resident_memory() -> int | None:
    """Return the bytes that this process holds now; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _of_machine() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        text = ""
    if (found := re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)) is not None:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _of_groups(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> Iterable[int]:
    """Yield what the limits of a job (control groups, either version) leave."""
    try:
        lines = of.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = (
                root / "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        here = base / path.lstrip("/")
        for folder in (here, *here.parents):
            left = _left(folder, *names)
            if left is not None:
                yield left
            if folder == base:
                break


def _left(folder: Path, most: str, used: str, cache: str) -> int | None:
    try:
        limit = int((folder / most).read_text(encoding="ascii"))
        now = int((folder / used).read_text(encoding="ascii"))
        kept = re.search(rf"^{cache} (\d+)$", (folder / "memory.stat").read_text("ascii"), re.MULTILINE)
    except (OSError, ValueError):  # absent, or "max"
        return None
    return limit - now + (int(kept[1]) if kept else 0)
