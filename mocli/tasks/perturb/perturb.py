"""`mocli perturb`: features raised or lowered in cells, and where that takes the cells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mocli.tasks.perturb.cells import choose_cells, doubt_of_batches, modality_to_perturb
from mocli.tasks.perturb.options import PerturbOptions
from mocli.tasks.prepare.plan import open_modalities
from mocli.tasks.run.frame import Tell, Verb, perform
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import foresee_training
from mocli.types import Task


@subcommand(PerturbOptions)
def perturb(request: Request, asked: PerturbOptions, *, dry_run: bool, command: Sequence[str]) -> Result:
    """Change features of cells, encode the cells again, and say where they went; `mocli perturb`.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    verb = Verb(
        task="perturb",
        suffixes=(".tsv",),
        beside=_beside(asked),
        foresee=partial(_foresee, request, asked),
        work=partial(_work, request, asked),
        trains=asked.from_model is None,
    )
    return perform(verb, request, dry_run=dry_run, command=command)


def _beside(asked: PerturbOptions) -> tuple[str, ...]:
    """Suffixes of what is written beside the output, which is the first table asked for."""
    found = [".effects.tsv"] if asked.screens and asked.predicts else []
    return (*found, *([".predicted.h5mu"] if asked.write_predicted else []))


def _foresee(request: Request, asked: PerturbOptions, tell: Tell) -> None:
    files = open_modalities(request.data)
    if asked.from_model is not None:
        from mocli.tasks.trained.obtain import foresee_given

        foresee_given(tell, request, asked.from_model, Task.PERTURB, files)
        return
    foresee_training(request, Task.PERTURB, tell, files)
    name = modality_to_perturb({f.name: f.kind for f in files}, asked.source_modality, "the inputs")
    file = next(f for f in files if f.name == name)
    chosen = choose_cells(file, asked.source, asked.target, group_key=asked.group_key, truth=asked.truth)
    tell.say(f"perturbs {name} of {len(chosen.source):,} cells")
    if doubt := doubt_of_batches(file, request.data.batch_key, chosen):
        tell.warn(doubt)


def _work(request: Request, asked: PerturbOptions, run: Run) -> None:
    from mocli.tasks.perturb.work import begin, perturb_subject, place_subject
    from mocli.tasks.perturb.write import deliver

    subject = begin(run, request, asked)
    with run.timed("encode"):
        placed = place_subject(run, request, asked, subject)
    with run.timed("perturb"):
        findings = perturb_subject(run, request, asked, subject, placed)
    with run.timed("write"):
        deliver(run, request, asked, subject, placed, findings)
