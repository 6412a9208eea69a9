"""`mocli simulate`: new cells of chosen types, matched across the modalities of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.errors import UsageError
from mocli.tasks.prepare.footprint import foreseen
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.paths import Paths
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.tasks.simulate.options import SimulateOptions
from mocli.tasks.trained.foresee import plan_training
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence


@subcommand(SimulateOptions)
def simulate(request: Request, asked: SimulateOptions, *, dry_run: bool, command: Sequence[str]) -> Result:
    """Simulate cells; the shell's `mocli simulate`.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    paths = Paths.of(request.output, request.run, suffixes=(".h5mu",))
    sources = [parse_source(text).path for text in request.data.inputs]
    paths.refuse_inputs([*sources, *link_files(request.data.links)])
    if asked.from_model is None and not sources:
        raise UsageError(
            "cells are simulated by a trained model, or by one trained now on input files",
            field="--from-model",
            found="neither a model nor an input",
            hint="add --from-model OUT.model, or name the files to train on",
        )
    if dry_run:
        return _dry_run(request, asked, paths)
    return _run(request, asked, paths, command)


def _dry_run(request: Request, asked: SimulateOptions, paths: Paths) -> Result:
    lines: list[str] = []
    paths.check(force=request.output.force)
    files = open_modalities(request.data) if request.data.inputs else []
    if asked.from_model is None:
        made = plan_training(request, Task.SIMULATE, lines.append, files)
        lines.append(foreseen(made, request.train, Task.SIMULATE))
        lines.extend(f"warning: {w}" for w in made.warnings)
    else:
        from mocli.tasks.simulate.groups import component_shares, settle
        from mocli.tasks.trained.saved import load_model

        saved = load_model(asked.from_model)
        lines.append(f"model: {saved.description['model']} from {asked.from_model}")
        lines.extend(group.words for group in settle(saved, asked, component_shares(saved)).groups)
    trains = asked.from_model is None
    written = paths.results(trained=trains)
    lines.extend(f"would write {path}" for path in written)
    return Result(paths.output, {}, lines, written)


def _run(request: Request, asked: SimulateOptions, paths: Paths, command: Sequence[str]) -> Result:
    with Run("simulate", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a refusal needs neither
        from mocli.tasks.simulate.work import Simulation
        from mocli.tasks.simulate.write import deliver

        work = Simulation.begin(run, request, asked)
        with run.timed("place"):
            work.place()
        with run.timed("write"):
            deliver(work)
    return Result(paths.output, run.report.as_dict(), [], paths.results(trained=asked.from_model is None))
