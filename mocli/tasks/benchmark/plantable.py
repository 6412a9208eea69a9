"""A benchmark's runs as a table for a scheduler: a command a line, and which line waits for which."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from mocli.errors import UsageError
from mocli.report.file import write_text
from mocli.tasks.benchmark.needs import memory_of
from mocli.tasks.run.identity import files_read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mocli.data.files.modality import ModalityFile
    from mocli.tasks.benchmark.runs import ModelRun

COLUMNS = ("id", "task", "model", "seed", "study", "needs", "memory_bytes", "inputs", "output", "command")
"""`needs` is the id of the line that must have ended before, `memory_bytes` what a run that trains will hold;
both empty where there is none or it is not known."""


def write_plan(path: Path, runs: Sequence[ModelRun], files: Sequence[ModalityFile]) -> None:
    """Write a line for every run, whether it has ended or not, and make the folders that they write in.

    Raises
    ------
    UsageError
        A command has a line break or a tabulator, which a line cannot hold.
    EnvironmentProblem
        It cannot be written.
    """
    memory = {run.work: memory_of(run, files) for run in reversed(runs)}
    lines = ["\t".join(COLUMNS)]
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        needs = "" if run.parent is None else run.parent.id
        held = memory[run.work] if run.parent is None else None
        inputs = ",".join(map(str, files_read([run.request.data])))
        command = shlex.join(["mocli", *run.command])
        about = [run.id, run.purpose, run.model, run.seed, run.study, needs, held, inputs]
        cells = ["" if cell is None else str(cell) for cell in (*about, run.output, command)]
        if any(len(cell.splitlines()) > 1 or "\t" in cell for cell in cells):
            raise UsageError(
                "a plan has one line a run, and this run's words hold a line break or a tabulator",
                field="--plan",
                found=command,
                hint="rename the file, column or level",
            )
        lines.append("\t".join(cells))
    write_text(path, "\n".join(lines) + "\n")
