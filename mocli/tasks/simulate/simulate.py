"""`mocli simulate`: new cells of chosen types, matched across the modalities of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mocli.data.files.modality import ModalityFile
from mocli.errors import UsageError
from mocli.tasks.prepare.plan import Aim, make_plan, open_modalities
from mocli.tasks.run.frame import Tell, Verb, perform
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.tasks.simulate.options import SimulateOptions
from mocli.tasks.trained.foresee import foresee_training
from mocli.types import ModalityKind, Task, ValueKind, takes_counts


@subcommand(SimulateOptions)
def simulate(request: Request, options: SimulateOptions, *, dry_run: bool, command: Sequence[str]) -> Result:
    """Simulate cells; the shell's `mocli simulate`.

    Raises:
        MocliError: Every error a user can mend; `exit_code` says of which sort.
    """
    if options.from_model is None and not request.data.inputs:
        raise UsageError(
            "a simulation needs a trained model, or input files to train one on",
            field="--from-model",
            found="neither a model nor an input",
            hint="add --from-model OUT.model, or name the files to train on",
        )
    verb = Verb(
        task="simulate",
        suffixes=(".h5mu", ".h5ad"),
        foresee=partial(_foresee, request, options),
        work=partial(_work, request, options),
        trains=options.from_model is None,
    )
    return perform(verb, request, dry_run=dry_run, command=command)


def _foresee(request: Request, options: SimulateOptions, tell: Tell) -> None:
    files = open_modalities(request.data) if request.data.inputs else []
    if options.from_model is None:
        request = proteins_as_counts(request, files)
        foresee_training(request, Aim(Task.SIMULATE), tell, files)
        return
    from mocli.tasks.simulate.groups import component_shares, settle, tell_groups
    from mocli.tasks.trained.train import foresee_given

    saved = foresee_given(tell, request, options.from_model, Task.SIMULATE, files)
    tell_groups(settle(saved, options, component_shares(saved)), tell.say, tell.warn)


def _work(request: Request, options: SimulateOptions, run: Run) -> None:
    from mocli.tasks.simulate.work import Simulated, place_cells
    from mocli.tasks.simulate.write import deliver
    from mocli.tasks.trained.record import describe_given
    from mocli.tasks.trained.train import obtain

    files = open_modalities(request.data) if request.data.inputs else []
    if options.from_model is None:
        request = proteins_as_counts(request, files)
    obtained = obtain(run, request, options.from_model, Aim(Task.SIMULATE), files)
    saved = obtained.saved
    saved.model.module.to(run.device)
    with run.timed("place"):
        seed, device = run.options.seed, run.device
        plan, cells = place_cells(saved, options, seed=seed, device=device, say=run.say, warn=run.warn)
    with run.timed("write"):
        if obtained.trained is None:
            describe_given(run, files, saved, f"the model of {options.from_model}")
        deliver(run, request, Simulated(saved, files, options, plan, cells))


def proteins_as_counts(request: Request, files: Sequence[ModalityFile]) -> Request:
    """Ask for counts of proteins if there are counts and the model has a likelihood for them.

    Values on the scale of a transform are always told from real ones, because they are not counts.
    """
    plan = make_plan(request.data, request.train, Task.SIMULATE, lambda _: None, files=files)
    likelihood = dict(request.data.likelihood)
    for choice in plan.choices:
        name, offered = choice.file.name, plan.traits.likelihoods.get(choice.file.kind, ())
        is_settled = name in likelihood or name in request.data.transform
        counts = choice.file.kind is ModalityKind.PROT and choice.layer.values is ValueKind.COUNTS
        if counts and not is_settled and not takes_counts(choice.likelihood) and "nb" in offered:
            likelihood[name] = "nb"
    return replace(request, data=replace(request.data, likelihood=likelihood))
