"""How much memory a benchmark will need: its runs, in processes of their own, and the process that scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mocli.errors import MocliError
from mocli.log import logger
from mocli.models.parameters import resolve
from mocli.models.registry import traits_of
from mocli.report import wording
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.footprint import MEASURING, Footprint, footprint
from mocli.tasks.prepare.plan import make_plan
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.benchmark.ground import Ground
    from mocli.tasks.benchmark.runs import ModelRun


def memory_of(run: ModelRun, files: Sequence[ModalityFile]) -> int | None:
    """Return the bytes that a run that trains will hold, without its study; None where that is not known."""
    data, train = run.request.data, run.request.train
    traits = traits_of(run.model)
    try:
        made = make_plan(data, train, run.task, logger.debug, files=files, traits=traits)
        return footprint(made, resolve(traits, train.params, train.preset), Aim(run.task)).peak
    except MocliError as error:
        # the run itself will say so
        logger.debug("the memory of %s is not known: %s", run.name, error.message)
        return None


def of_runs(runs: Sequence[ModelRun], files: Sequence[ModalityFile], jobs: int) -> str:
    """Say how much the largest run will need, and how many go on at a time; empty where that is not known."""
    first = {run.work: run for run in reversed(runs) if run.parent is None and not run.finished()}
    needs = [n for run in first.values() if (n := memory_of(run, files)) is not None]
    if not needs:
        return ""
    at_once = min(jobs, len(runs))
    several = f"; {at_once} go on at a time" if at_once > 1 else ""
    return f"each run will need up to about {wording.size(max(needs))} of memory of its own{several}"


def of_scoring(ground: Ground) -> Footprint:
    """Estimate what this process will hold while it scores the sampled cells."""
    whole = footprint(ground.made, None, Aim(Task.BENCHMARK))
    kept = whole.stages["metrics are computed"]
    return Footprint(whole.held, {"methods are scored": max(kept, int(MEASURING))})
