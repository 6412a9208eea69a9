"""A benchmark's runs as a table for a scheduler: one command a line, and which line waits for which."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from mocli.errors import MocliError, UsageError
from mocli.log import logger
from mocli.models.parameters import resolve
from mocli.models.registry import traits_of
from mocli.report import wording
from mocli.report.file import write_text
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.footprint import footprint
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.run.identity import files_read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.benchmark.runs import ModelRun

COLUMNS = ("id", "task", "model", "seed", "study", "needs", "memory_bytes", "inputs", "output", "command")
"""`needs` is the id of the line that must have ended before, `memory_bytes` the memory of a run that trains.

Both are empty if there is none, or it is not known.
"""


def write_plan(path: Path, runs: Sequence[ModelRun], files: Sequence[ModalityFile]) -> None:
    """Write a line for every run, whether it has ended or not, and make the folders that they write in.

    Raises
    ------
    UsageError
        A command has a line break or a tab, which a line cannot hold.
    EnvironmentProblem
        It cannot be written.
    """
    memory = {run.work: memory_of(run, files) for run in reversed(runs)}
    lines = ["\t".join(COLUMNS)]
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        needs = "" if run.parent is None else run.parent.id
        bytes_held = memory[run.work] if run.parent is None else None
        inputs = ",".join(map(str, files_read([run.request.data])))
        command = shlex.join(["mocli", *run.command])
        about = [run.id, run.purpose, run.model, run.seed, run.study, needs, bytes_held, inputs]
        cells = ["" if cell is None else str(cell) for cell in (*about, run.output, command)]
        if any(len(cell.splitlines()) > 1 or "\t" in cell for cell in cells):
            raise UsageError(
                "a plan has one line for each run, but this run's command holds a line break or a tab",
                field="--plan",
                found=command,
                hint="rename the file, column or level",
            )
        lines.append("\t".join(cells))
    write_text(path, "\n".join(lines) + "\n")


def memory_of(run: ModelRun, files: Sequence[ModalityFile]) -> int | None:
    """Return the memory of a run that trains, in bytes, without its study; None if it is not known."""
    data, train = run.request.data, run.request.train
    traits = traits_of(run.model)
    try:
        plan = make_plan(data, train, run.task, logger.debug, files=files, traits=traits)
        return footprint(plan, resolve(traits, train.params, train.preset), Aim(run.task)).peak
    except MocliError as error:
        # the run itself will say so
        logger.debug("the memory of %s is not known: %s", run.name, error.message)
        return None


def memory_of_runs(runs: Sequence[ModelRun], files: Sequence[ModalityFile], jobs: int) -> str:
    """Say how much the largest run will need, and how many go on at a time; empty where that is not known."""
    first = {run.work: run for run in reversed(runs) if run.parent is None and not run.finished()}
    needs = [n for run in first.values() if (n := memory_of(run, files)) is not None]
    if not needs:
        return ""
    at_once = min(jobs, len(runs))
    several = f"; {at_once} go on at a time" if at_once > 1 else ""
    return f"each run will need up to about {wording.size(max(needs))} of memory of its own{several}"
