"""How long a run that trains will take on a CPU, estimated before it begins.

The rates were measured (`tests/benchmarks/RESULTS.md`, time foretold). The estimate should be right within
a factor of three; a training that stops early takes less.
"""

from __future__ import annotations

from dataclasses import dataclass

from mocli.models.parameters import Sized
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.footprint import Footprint
from mocli.tasks.prepare.plan import Plan
from mocli.tasks.run.options import RunOptions, TrainOptions
from mocli.tasks.run.run import Run
from mocli.types import ModalityKind, Preset

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

MOST_MEASURED = 20_000
"""Up to this many cells, metrics use every one; further cells cost half as much."""


@dataclass(frozen=True)
class Duration:
    """Seconds of training at most, of reading and showing around it, and of what a task does with the model.

    `steps` is 0 for a model in closed form.
    """

    steps: int
    training: float
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
            parts.append(f"{_roughly(self.training)} of it for {self.steps:,} training steps at most")
        if self.after > self.around:
            parts.append(f"{_roughly(self.after)} for what comes after training")
        return ", ".join([f"it will take about {_roughly(self.whole)} on a CPU", *parts])


def _roughly(seconds: float) -> str:
    if seconds < 60:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def duration(
    plan: Plan, params: object, train: TrainOptions, run: RunOptions, size: Footprint, aim: Aim
) -> Duration:
    """Estimate how long a run that trains takes, from numbers of cells, features and steps."""
    cells = max(choice.file.n_obs for choice in plan.choices)
    around = AROUND_S + (min(cells, MOST_MEASURED) + max(0, cells - MOST_MEASURED) / 2) * MS_PER_CELL / 1000
    stacked = sum(S_PER_STACK + S_PER_STACKED * cells * features for cells, features in aim.stacks(plan))
    after = stacked + S_PER_SILENCED * _silenced_values(plan, aim)
    if not isinstance(params, Sized):
        return Duration(0, 0.0, around, after)
    steps = train.max_steps or params.steps(cells, Preset(train.preset))
    products = size.weights * params.batch_size * MS_PER_PRODUCT / (run.threads or 1)
    training = steps * (params.STEP_MS + products) / 1000
    return Duration(steps, min(training, run.max_time or training), around, after)


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
        if run.report.device is not None:
            run.report.device["expected_seconds"] = round(expected.whole)
