"""`mocli perturb`: features raised or lowered in cells, and how the cells move in the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mocli.tasks.perturb.options import PerturbOptions
from mocli.tasks.perturb.subject import among_inputs, in_model
from mocli.tasks.prepare.plan import Aim, open_modalities
from mocli.tasks.run.frame import Tell, Verb, perform
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import foresee_training
from mocli.types import Task


@subcommand(PerturbOptions)
def perturb(request: Request, options: PerturbOptions, *, dry_run: bool, command: Sequence[str]) -> Result:
    """Change features of cells, encode the cells again, and measure how they move; `mocli perturb`.

    Raises:
        MocliError: Every error a user can mend; `exit_code` says of which sort.
    """
    verb = Verb(
        task="perturb",
        suffixes=(".tsv",),
        beside=_beside(options),
        foresee=partial(_foresee, request, options),
        work=partial(_work, request, options),
        trains=options.from_model is None,
    )
    return perform(verb, request, dry_run=dry_run, command=command)


def _beside(options: PerturbOptions) -> tuple[str, ...]:
    """Return the suffixes of files written besides the output, which is the first table asked for."""
    suffixes = [".effects.tsv"] if options.screens and options.predicts else []
    return (*suffixes, *([".predicted.h5mu"] if options.write_predicted else []))


def _foresee(request: Request, options: PerturbOptions, tell: Tell) -> None:
    files = open_modalities(request.data)
    if options.from_model is not None:
        from mocli.tasks.infer.align import align
        from mocli.tasks.trained.train import foresee_given

        saved = foresee_given(tell, request, options.from_model, Task.PERTURB, files)
        name, file, chosen = in_model(saved, options, files)
        align(saved, name, file, layers=request.data.layer, warn=tell.warn)
    else:
        foresee_training(request, Aim(Task.PERTURB), tell, files)
        file, chosen = among_inputs(request, options, files, tell)
    tell.say(f"perturbs {file.name} of {len(chosen.source):,} cells")


def _work(request: Request, options: PerturbOptions, run: Run) -> None:
    from mocli.tasks.perturb.work import begin, perturb_subject, place_subject
    from mocli.tasks.perturb.write import deliver

    subject = begin(run, request, options)
    with run.timed("encode"):
        placed = place_subject(run, request, options, subject)
    with run.timed("perturb"):
        findings = perturb_subject(run, request, options, subject, placed)
    with run.timed("write"):
        deliver(run, request, options, subject, placed, findings)
