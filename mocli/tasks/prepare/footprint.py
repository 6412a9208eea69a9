"""How much memory a run will need, and how long training will take, estimated before it starts.

The memory is the peak of the resident set on a CPU, from sizes known without reading the files; it should be
right within a factor of two. The rates of the time on a CPU were measured (`tests/benchmarks/RESULTS.md`,
time foretold); it should be right within a factor of three, and a training that stops early takes less.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mocli.data.files.modality import ModalityFile
from mocli.data.packed import BLOCK_VALUES, BLOCKS_TO_FIT
from mocli.data.transforms.transform import find_transform
from mocli.errors import EnvironmentProblem, OutOfMemory, UsageError
from mocli.models.base import ProjectsInput, SmoothsLinks
from mocli.models.registry import Sized, available
from mocli.report import figures
from mocli.tasks.prepare.plan import Aim, Plan
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.guard import HINT, available_memory, kept_in_memory
from mocli.tasks.run.options import RunOptions, TrainOptions
from mocli.tasks.run.paths import STACKS, WEIGHTS
from mocli.tasks.run.run import Run
from mocli.types import ModalityKind, Preset, Task

LIBRARIES = 550e6
"""Bytes of Python, torch and other libraries at the end of any run (`tests/benchmarks/memory.py`)."""

PREPARING = 1.5
"""Copies of a matrix while its transform is fitted, besides the matrix itself."""

CHOSEN = 2.0
"""Chosen features have this many times as many values as others."""

PER_WEIGHT = 4 * 5
"""Bytes: a weight, its gradient, two running means of Adam, the best weights so far."""

PER_VALUE = 4 * 8
"""Bytes for one feature of one cell of a minibatch: values, means, gradients."""

MOST_FITTED = BLOCK_VALUES * BLOCKS_TO_FIT
"""Values that transforms of cells on disk are fitted to."""

PER_ROW = 450
"""Bytes of a cell in one modality beside its values: name, columns of obs, places, neighbours."""

MEASURING = 120e6
"""Bytes of neighbours, distances and clusters for the metrics."""

MOST_MEASURED = 2**24
"""Values of linked features that baselines lay out densely, for each modality."""

IMPUTING = 150e6
"""Bytes of the blocks in which values are made, compressed and compared."""

MOST_COMPARED = 2_000
"""Cells whose values are in memory at a time while they are compared, measured on real data sets."""

STACK_COORDINATES = 515
"""Of the ways of a stack together, on each of two scales, by what was written of SNARE-seq."""

MOST_STACKED = 20_000_000 * 10
"""Bytes of what all ways say of left-out cells at a time, beside what these are."""

SILENCING = 600e6
"""Bytes of slopes along the latent, changes at the panel and metacells, measured on SNARE-seq."""

MOST_DECODED = 160_000_000
"""Most decoded values that are kept while genes are silenced; if there are more, each is computed again."""

COMPONENTS = 64
"""Dense columns that reduced features count as."""


_JUDGED = {
    **dict.fromkeys(Task, "results are judged and drawn"),
    Task.IMPUTE: "values are compared",
    Task.SIMULATE: "cells are compared",
    Task.PERTURB: "perturbed cells are compared",
    Task.GENE2PEAK: "pairs are compared",
}
"""What a task does once its model is trained."""


@dataclass(frozen=True)
class Footprint:
    """The memory that a run will use, in bytes.

    Attributes:
        held: Libraries and matrices, in memory all the time.
        stages: What each stage needs besides them.
        weights: Number of weights of the networks.
        backed: Bytes in temporary files instead; 0 where matrices are in memory.
    """

    held: int
    stages: Mapping[str, int]
    weights: float = 0.0
    backed: int = 0

    @property
    def stage(self) -> str:
        """The stage that needs most."""
        return max(self.stages, key=lambda name: self.stages[name])

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        return self.held + max(self.stages.values())

    @property
    def words(self) -> str:
        """Say how much memory the run needs, and when."""
        return f"about {figures.size(self.peak)} of memory will be needed, most of it while {self.stage}"


def footprint(plan: Plan, params: object, aim: Aim, *, backed: bool = False) -> Footprint:
    """Estimate what a run that trains will need, from the sizes of its matrices on disk.

    `backed`: whether matrices stay on disk.
    """
    projects = params if isinstance(params, ProjectsInput) and params.n_pcs else None
    sized = params if isinstance(params, Sized) else None
    n_links: dict[str, int] = {}
    for edge in plan.linked.edges:
        for name in edge.edge:
            n_links[name] = n_links.get(name, 0) + len(edge.source_index)
    n_given: dict[str, int] = {}  # columns of the user's own, which stand for no feature
    for links in plan.linked.matrices:
        for name in links.edge:
            n_given[name] = n_given.get(name, 0) + len(links.names)
    held_bytes, weights, width, raw, dense, linked = LIBRARIES, 0.0, 0, [0.0], [0.0], 0.0
    packed = 0.0
    for c in plan.choices:
        n, p = c.file.n_obs, max(c.file.n_vars, 1)
        stored = float(c.file.nbytes(c.layer.layer))
        chosen = p if c.n_top is None else min(p, c.n_top + n_links.get(c.file.name, 0))
        reduced = c.likelihood is None and (projects is not None or find_transform(c.transform).reduces)
        raw.append(stored)
        kept = stored * min(1.0, CHOSEN * chosen / p)
        held_bytes += 4.0 * n * COMPONENTS if reduced else PER_ROW * n if backed else kept
        packed += stored + kept
        seen = COMPONENTS if reduced else chosen
        width += seen
        weights += seen * (sized.weights_per_feature(seen) if sized else COMPONENTS)
        if c.file.name in n_links or c.file.name in n_given:
            s, user = n_links.get(c.file.name, 0), n_given.get(c.file.name, 0)
            held_bytes += (0.0 if backed else stored * min(1.0, CHOSEN * s / p)) + 4.0 * n * user
            if isinstance(params, SmoothsLinks) and params.smooth_links:
                held_bytes += 4.0 * n * n**0.5
            linked += 4.0 * min(n * (s + user), MOST_MEASURED)
        if aim.task is Task.IMPUTE and aim.target in (None, c.file.name):
            dense.append(4.0 * p)
    batch = sized.batch_size if sized else 512
    stages = {
        "matrices are prepared": PREPARING * (min(max(raw), 8.0 * MOST_FITTED) if backed else max(raw)),
        "the model is trained": PER_WEIGHT * weights + PER_VALUE * batch * width,
        _JUDGED[aim.task]: MEASURING + 3 * linked,
    }
    for n, p in aim.stacks(plan):
        need = min(MOST_STACKED, 60 * n * p) + STACK_COORDINATES * (2 * 2 * 4 * p + 3 * 8 * n)
        stages["ways to impute are weighed"] = max(need, stages.get("ways to impute are weighed", 0))
    if aim.task is Task.IMPUTE:
        stages["values are imputed"] = IMPUTING + 2 * max(dense) * min(MOST_COMPARED, width)
    if aim.silenced:
        stages["genes are silenced"] = _silencing([c.file for c in plan.choices], max(raw))
    needed = {name: int(n) for name, n in stages.items()}
    return Footprint(int(held_bytes), needed, weights, int(packed) if backed else 0)


def footprint_of_given(files: Sequence[ModalityFile], model: Path, task: Task) -> Footprint:
    """Estimate what a run will need that uses the trained model in a folder."""
    raw = [float(f.nbytes()) for f in files] or [0.0]
    stages = {"cells are placed": PREPARING * max(raw) + MEASURING}
    if task is Task.IMPUTE:
        values = [4.0 * min(f.n_obs, MOST_COMPARED) * f.n_vars for f in files]
        stages["values are imputed"] = IMPUTING + 2 * max(values, default=0.0)
    if task is Task.GENE2PEAK:
        stages["genes are silenced"] = _silencing(files, max(raw))
    resident = (
        LIBRARIES + sum(raw) + sum(p.stat().st_size for p in (model / WEIGHTS, model / STACKS) if p.exists())
    )
    return Footprint(int(resident), {name: int(n) for name, n in stages.items()})


def choose_place(plan: Plan, params: object, aim: Aim, *, limit: float | None, tell: Tell) -> Footprint:
    """Estimate what a run will need, with its cells on disk if asked for, or if memory would not do.

    Args:
        limit: Bytes that the run may use, or None.

    Raises:
        UsageError: Cells are to stay on disk, and the model needs them in memory.
        EnvironmentProblem: The disk for temporary files is too small.
    """
    traits, held = plan.traits, footprint(plan, params, aim)
    if aim.backed and not traits.backed:
        able = ", ".join(name for name, other in available().items() if other.backed)
        raise UsageError(
            f"{traits.name} needs all cells in memory",
            field="--backed",
            hint=f"leave it out, or choose a model that reads them from a disk with -m: {able}",
        )
    exceeds = limit is not None and held.peak > limit
    if not traits.backed or not (aim.backed or (aim.backed is None and exceeds)):
        return held
    size, folder = footprint(plan, params, aim, backed=True), Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if size.backed > free:
        raise EnvironmentProblem(
            "the disk for temporary files is too small",
            file=folder,
            found=f"{figures.size(free)} free",
            expected=f"about {figures.size(size.backed)} for cells that stay on disk (--backed)",
            hint="set TMPDIR to a folder with more space, best on a local disk",
        )
    why = "" if aim.backed else f", as about {figures.size(held.peak)} of memory would be needed for them"
    tell.say(f"cells stay on disk, packed in {folder} ({figures.size(size.backed)} at most){why}")
    if kept_in_memory(folder):
        tell.warn(f"{folder} is itself kept in memory (tmpfs): set TMPDIR to a folder on a disk")
    return size


def _silencing(files: Sequence[ModalityFile], raw: float) -> float:
    peaks = max((f.n_obs * f.n_vars for f in files), default=0)
    return SILENCING + (4.0 * peaks if peaks <= MOST_DECODED else 0.0) + 4 * raw


def tell_memory(run: Tell, expected: Footprint) -> None:
    """Log how much memory a run will need, and refuse it if that is above the user's limit; not a dry run.

    Raises `OutOfMemory`: more than `--max-memory`.
    """
    run.say(expected.words)
    if not isinstance(run, Run):
        return
    if run.report.device is not None:
        run.report.device["expected_memory_bytes"] = expected.peak
    limit = run.options.max_memory
    if limit is not None and expected.peak > limit:
        raise OutOfMemory(
            "this run would need more memory than it may use",
            field="--max-memory",
            found=f"{expected.words}; an estimate, right within a factor of two",
            expected=f"at most {figures.size(limit)}",
            hint=HINT,
        )
    free = available_memory()
    if free is not None and expected.peak > free:
        run.warn(f"{expected.words}, and {figures.size(free)} are free: {HINT}")


MS_PER_PRODUCT = 2e-7
"""Seconds for one weight and one cell, forwards and backwards, on one thread."""

AROUND_S = 8.0
"""Seconds of start-up, reading, writing and drawing."""

MS_PER_CELL = 2.0
"""Seconds per cell of reading, encoding, metrics, neighbours and layout."""

S_PER_STACK, S_PER_STACKED = 0.7, 3e-7
"""Of the ways from one modality to another, and of a feature of a cell measured in both, while these are
fitted and weighed (`tests/benchmarks/stack_cost.py`)."""

S_PER_SILENCED = 1.6e-8
"""Of a value decoded while a gene is silent, from SNARE-seq: 200 genes, and all."""

BYTES_PER_VALUE = 8
"""Of a sparse matrix."""

MATCHED = 40 * 8
"""Genes that are silenced to compare with, at most."""

MOST_CELLS_MEASURED = 20_000
"""Up to this many cells, metrics use every one; further cells cost half as much."""


@dataclass(frozen=True)
class Duration:
    """Seconds of training, of reading and showing around it, and of what a task does with the model.

    Attributes:
        steps, training: Those that are usual; 0 for a model in closed form.
        most_steps, most_training: Those that training takes at most.
    """

    steps: int
    most_steps: int
    training: float
    most_training: float
    around: float
    after: float = 0.0

    @property
    def whole(self) -> float:
        """Seconds of everything."""
        return self.training + self.around + self.after

    @property
    def words(self) -> str:
        """Say how long the run and its training take."""
        parts = []
        if self.steps:
            parts.append(f"{roughly(self.training)} of it for {self.steps:,} training steps")
        if self.most_steps > self.steps:
            most = self.whole + self.most_training - self.training
            parts.append(f"at most {roughly(most)} if it takes all of {self.most_steps:,}")
        if self.after > self.around:
            parts.append(f"{roughly(self.after)} for what comes after training")
        return ", ".join([f"it will take about {roughly(self.whole)} on a CPU", *parts])


def roughly(seconds: float) -> str:
    """Return a duration in words, as exact as an estimate is."""
    if seconds < 60:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def duration(
    plan: Plan, params: object, train: TrainOptions, run: RunOptions, size: Footprint, aim: Aim
) -> Duration:
    """Estimate how long a run that trains takes, from numbers of cells, features and steps."""
    cells = max(choice.file.n_obs for choice in plan.choices)
    around = AROUND_S + seconds_around(cells)
    stacked = sum(S_PER_STACK + S_PER_STACKED * cells * features for cells, features in aim.stacks(plan))
    after = stacked + S_PER_SILENCED * _silenced_values(plan, aim)
    if not isinstance(params, Sized):
        return Duration(0, 0, 0.0, 0.0, around, after)
    preset = Preset(train.preset)
    most = train.max_steps or params.steps(cells, preset)
    steps = min(most, params.usual_steps(cells)) if preset is Preset.AUTO else most
    products = size.weights * params.batch_size * MS_PER_PRODUCT / (run.threads or 1)
    training, longest = (
        min(n * (params.STEP_MS + products) / 1000, run.max_time or math.inf) for n in (steps, most)
    )
    return Duration(steps, most, training, longest, around, after)


def seconds_around(cells: int) -> float:
    """Return seconds of reading, encoding, judging and drawing so many cells."""
    return (min(cells, MOST_CELLS_MEASURED) + max(0, cells - MOST_CELLS_MEASURED) / 2) * MS_PER_CELL / 1000


def _silenced_values(plan: Plan, aim: Aim) -> float:
    """Return how many values are decoded anew: every peak, for every cell and gene that it expresses."""
    genes = [c for c in plan.choices if c.file.kind is ModalityKind.RNA]
    peaks = max((c.file.n_vars for c in plan.choices if c.file.kind is ModalityKind.ATAC), default=0)
    if not (aim.silenced and genes):
        return 0.0
    file, layer = genes[0].file, genes[0].layer.layer
    expressed = file.nbytes(layer) / BYTES_PER_VALUE / file.n_vars
    return expressed * min(aim.silenced + MATCHED, file.n_vars) * peaks


def tell_duration(run: Run, expected: Duration) -> None:
    """Log how long a run on a CPU will take; there are no rates for other devices."""
    if run.device.type == "cpu":
        run.say(expected.words)
        run.expect(expected.whole)
