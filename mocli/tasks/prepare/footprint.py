"""How much memory a run will need, told before it needs it.

The estimate is of the resident set at its peak on a CPU, from sizes that files tell without being
read. It is meant to be right within a factor of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mocli.data.transforms.transform import find_transform
from mocli.errors import OutOfMemory
from mocli.models.base import ProjectsInput, SmoothsLinks
from mocli.models.parameters import Sized
from mocli.report import wording
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.plan import Plan
from mocli.tasks.run.memory import HINT, available_memory
from mocli.tasks.run.run import Run
from mocli.types import Task

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

SILENCING = 600e6
"""Of slopes along the latent, changes at the panel and metacells, by what was seen on SNARE-seq."""

MOST_DECODED = 160_000_000
"""Decoded values that are kept while genes fall silent; of more, each is made again."""

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
    weights
        Of the networks, as a number.
    """

    held: int
    stages: Mapping[str, int]
    weights: float = 0.0

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


def footprint(plan: Plan, params: object, aim: Aim) -> Footprint:
    """Estimate what a run that trains will need, from the sizes of its matrices on disk."""
    projects = params if isinstance(params, ProjectsInput) and params.n_pcs else None
    sized = params if isinstance(params, Sized) else None
    n_links: dict[str, int] = {}
    for edge in plan.edges:
        for name in (edge.source, edge.target):
            n_links[name] = n_links.get(name, 0) + len(edge.source_index)
    n_given: dict[str, int] = {}  # columns of the user's own, which stand for no feature
    for links in plan.matrices:
        for name in links.edge:
            n_given[name] = n_given.get(name, 0) + len(links.names)
    held, weights, width, raw, dense, linked = LIBRARIES, 0.0, 0, [0.0], [0.0], 0.0
    for c in plan.choices:
        n, p = c.file.n_obs, max(c.file.n_vars, 1)
        stored = float(c.file.nbytes(c.layer.layer))
        chosen = p if c.n_top is None else min(p, c.n_top + n_links.get(c.file.name, 0))
        reduced = c.likelihood is None and (projects is not None or find_transform(c.transform).reduces)
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
        if aim.task is Task.IMPUTE and aim.target in (None, c.file.name):
            dense.append(4.0 * p)
    batch = sized.batch_size if sized else 512
    stages = {
        "matrices are prepared": PREPARING * max(raw),
        "the model is trained": PER_WEIGHT * weights + PER_VALUE * batch * width,
        "metrics are computed": MEASURING + 3 * linked,
    }
    if aim.task is Task.IMPUTE:
        stages["values are imputed"] = IMPUTING + 2 * max(dense) * min(MOST_COMPARED, width)
    if aim.silenced:
        peaks = max((c.file.n_obs * c.file.n_vars for c in plan.choices), default=0)
        decoded = 4.0 * peaks if peaks <= MOST_DECODED else 0.0
        stages["genes are silenced"] = SILENCING + decoded + 4 * max(raw)
    return Footprint(int(held), {name: int(n) for name, n in stages.items()}, weights)


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
