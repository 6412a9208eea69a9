"""How long a run that trains will take on a CPU, told before it begins.

From rates that were measured (`tests/benchmarks/RESULTS.md`, time foretold). It is meant to be right within a
factor of three; a training that ends by itself because nothing is gained any more takes less.
"""

from __future__ import annotations

from dataclasses import dataclass

from mocli.models.parameters import Sized
from mocli.tasks.prepare.footprint import Footprint
from mocli.tasks.prepare.plan import Plan
from mocli.tasks.run.options import RunOptions, TrainOptions
from mocli.tasks.run.run import Run
from mocli.types import Preset

MS_PER_PRODUCT = 2e-7
"""Of a weight times one cell, forwards and backwards, on one thread."""

AROUND_S = 8.0
"""Of start-up, reading, writing and drawing."""

MS_PER_CELL = 2.0
"""Of reading, encoding, metrics, neighbours and layout."""

MOST_MEASURED = 20_000
"""Cells of which metrics look at every one; more cost half as much."""


@dataclass(frozen=True)
class Duration:
    """Seconds of training at most, None for a model without steps, and of all that surrounds it."""

    steps: int
    training: float
    around: float

    @property
    def words(self) -> str:
        """Say how long, and of what."""
        whole = f"it will take about {_roughly(self.training + self.around)} on a CPU"
        if not self.steps:
            return whole
        return f"{whole}, {_roughly(self.training)} of it for {self.steps:,} training steps at most"


def _roughly(seconds: float) -> str:
    if seconds < 60:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def duration(plan: Plan, params: object, train: TrainOptions, run: RunOptions, size: Footprint) -> Duration:
    """Estimate how long a run that trains takes, from numbers of cells, features and steps."""
    cells = max(choice.file.n_obs for choice in plan.choices)
    around = AROUND_S + (min(cells, MOST_MEASURED) + max(0, cells - MOST_MEASURED) / 2) * MS_PER_CELL / 1000
    if not isinstance(params, Sized):
        return Duration(0, 0.0, around)
    steps = train.max_steps or params.steps(cells, Preset(train.preset))
    products = size.weights * params.batch_size * MS_PER_PRODUCT / (run.threads or 1)
    training = steps * (params.STEP_MS + products) / 1000
    return Duration(steps, min(training, run.max_time or training), around)


def tell_duration(run: Run, expected: Duration) -> None:
    """Say how long a run on a CPU will take; of other devices there are no rates."""
    if run.device.type == "cpu":
        run.say(expected.words)
        if run.report.device is not None:
            run.report.device["expected_seconds"] = round(expected.training + expected.around)
