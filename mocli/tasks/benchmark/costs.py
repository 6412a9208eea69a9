"""Memory and time that a benchmark needs, estimated before any run starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mocli.data.files.modality import ModalityFile
from mocli.errors import MocliError
from mocli.log import logger
from mocli.models.parameters import resolve
from mocli.models.registry import traits_of
from mocli.report import wording
from mocli.tasks.benchmark.runs import ModelRun
from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.footprint import AROUND_S, duration, footprint, roughly, seconds_around
from mocli.tasks.prepare.plan import make_plan

CONTROLS = 7
"""Controls of a benchmark, about, each judged as a model is."""
S_PER_SCORED = 2.5e-3
"""Of a cell, up to 20,000, while one method is judged by all metrics and drawn (ECCITE-seq, SNARE-seq)."""


@dataclass(frozen=True)
class Cost:
    """What runs need: bytes of the largest, how many go on at a time, and seconds of everything.

    `memory` is None where no run trains, or nothing is known of any.
    """

    memory: int | None
    at_once: int
    seconds: float

    @property
    def words(self) -> list[str]:
        """Say it, a line each."""
        several = f"; {self.at_once} go on at a time" if self.at_once > 1 else ""
        needs = (
            []
            if self.memory is None
            else [f"each run will need up to about {wording.size(self.memory)} of memory of its own{several}"]
        )
        return [*needs, f"it will take about {roughly(self.seconds)} on a CPU, judging included"]


def cost_of(run: ModelRun, files: Sequence[ModalityFile]) -> tuple[int, float] | None:
    """Return bytes and seconds of a run that trains, without its study; None if they are not known."""
    request, traits = run.request, traits_of(run.model)
    data, train = request.data, request.train
    try:
        plan = make_plan(data, train, run.task, logger.debug, files=files, traits=traits)
        params, aim = resolve(traits, train.params, train.preset), aim_of(run)
        size = footprint(plan, params, aim)
        return size.peak, duration(plan, params, train, request.run, size, aim).whole
    except MocliError as error:
        # the run itself will say so
        logger.debug("the cost of %s is not known: %s", run.name, error.message)
        return None


def aim_of(run: ModelRun) -> Aim:
    """Return what the model of a run is trained for."""
    own = run.request.own
    if isinstance(own, IntegrateOptions):
        return Aim(run.task, stacked=own.ways)
    return Aim(run.task, own.target if isinstance(own, ImputeOptions) else None)


def cost_of_all(runs: Sequence[ModelRun], files: Sequence[ModalityFile], jobs: int) -> Cost:
    """Return what the runs that are still to do need, and the judging after them; peers are not known."""
    todo = [run for run in runs if not run.finished()]
    known = {run.work: cost_of(run, files) for run in reversed(todo) if run.parent is None}
    cells = max((f.n_obs for f in files), default=0)
    seconds = [
        found[1] if (found := known.get(run.work)) is not None else AROUND_S + seconds_around(cells)
        for run in todo
    ]
    at_once = max(1, min(jobs, len(todo)))
    trained = max(sum(seconds) / at_once, max(seconds, default=0.0))
    judged = CONTROLS + len({(run.model, run.seed, run.study) for run in runs})
    memory = max((found[0] for found in known.values() if found is not None), default=None)
    return Cost(memory, min(jobs, len(runs)), trained + judged * min(cells, 20_000) * S_PER_SCORED)
