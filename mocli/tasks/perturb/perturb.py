"""`mocli perturb`: features raised or lowered in cells, and where that takes the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.tasks.perturb.options import PerturbOptions
from mocli.tasks.prepare.footprint import foreseen
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.paths import Paths
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence


@subcommand(PerturbOptions)
def perturb(request: Request, asked: PerturbOptions, *, dry_run: bool, command: Sequence[str]) -> Result:
    """Change features of cells, encode the cells again, and say where they went; `mocli perturb`.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    paths = Paths.of(request.output, request.run, suffixes=(".tsv",), beside=_beside(asked))
    read = [parse_source(text).path for text in request.data.inputs] + link_files(request.data.links)
    paths.refuse_inputs(read)
    if dry_run:
        return _dry_run(request, asked, paths)
    return _run(request, asked, paths, command)


def _beside(asked: PerturbOptions) -> tuple[str, ...]:
    """Suffixes of what is written beside the output, which is the first table asked for."""
    found = [".effects.tsv"] if asked.screens and asked.predicts else []
    return (*found, *([".predicted.h5mu"] if asked.write_predicted else []))


def _dry_run(request: Request, asked: PerturbOptions, paths: Paths) -> Result:
    from mocli.tasks.perturb.chosencells import check_cells, modality_among
    from mocli.tasks.trained.foresee import plan_training

    lines: list[str] = []
    paths.check(force=request.output.force)
    files = open_modalities(request.data)
    if asked.from_model is None:
        made = plan_training(request, Task.PERTURB, lines.append, files)
        lines.append(foreseen(made, request.train, Task.PERTURB))
        lines.extend(f"warning: {w}" for w in made.warnings)
        name = modality_among({f.name: f.kind for f in files}, asked.source_modality, "the inputs")
        file = next(f for f in files if f.name == name)
        chosen = check_cells(file, asked)
        lines.append(f"perturbs {name} of {len(chosen.source):,} cells")
    else:
        lines.extend(f"{f.name}: {f.n_obs:,} cells x {f.n_vars:,} {f.kind} features" for f in files)
        lines.append(f"model: {asked.from_model}")
    written = paths.results(trained=asked.from_model is None)
    lines.extend(f"would write {path}" for path in written)
    return Result(paths.output, {}, lines, written)


def _run(request: Request, asked: PerturbOptions, paths: Paths, command: Sequence[str]) -> Result:
    with Run("perturb", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
        from mocli.tasks.perturb.work import PerturbationRun
        from mocli.tasks.perturb.write import deliver

        work = PerturbationRun.begin(run, request, asked)
        with run.timed("encode"):
            work.encode()
        with run.timed("perturb"):
            work.perturb()
        with run.timed("write"):
            deliver(work)
    return Result(paths.output, run.report.as_dict(), [], paths.results(trained=asked.from_model is None))
