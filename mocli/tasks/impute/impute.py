"""`mocli impute`: expected values of one modality for cells measured in another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.impute.survey import survey
from mocli.tasks.infer.translation import columns_of
from mocli.tasks.prepare.plan import Aim, open_modalities
from mocli.tasks.run.frame import Foresight, Verb, perform
from mocli.tasks.run.paths import STACKS
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import foresee_training
from mocli.types import Task


@subcommand(ImputeOptions)
def impute(request: Request, options: ImputeOptions, *, dry_run: bool, command: Sequence[str]) -> Result:
    """Impute one modality from another; the shell's `mocli impute`.

    Raises:
        MocliError: Every error a user can mend; `exit_code` says of which sort.
    """
    verb = Verb(
        task="impute",
        suffixes=(".h5mu", ".h5ad"),
        foresee=partial(_foresee, request, options),
        work=partial(_work, request, options),
        beside=() if options.compare_groups is None else (".groups.tsv",),
        trains=options.from_model is None,
        calibrates=options.from_model is None and not options.denoises,
    )
    return perform(verb, request, dry_run=dry_run, command=command)


def _foresee(request: Request, options: ImputeOptions, tell: Foresight) -> None:
    trains = options.from_model is None
    surveyed = survey(
        request, options, Task.IMPUTE, open_modalities(request.data), Foresight() if trains else tell
    )
    source, target = surveyed.direction.source, surveyed.direction.target
    tell.say(f"denoises {target}" if source == target else f"imputes {target} from {source}")
    if trains:
        for name, out in surveyed.held_out.items():
            if out.any():
                tell.say(f"holds {int(out.sum()):,} cells of {name} out of training")
        aim = Aim(Task.IMPUTE, target)
        if aim.stacks(foresee_training(request, aim, tell, surveyed.files)) and source != target:
            tell.parts.append(STACKS)
        return
    for f in surveyed.files:
        tell.say(f.summary)
    from mocli.tasks.impute.work import foresee_in_model

    foresee_in_model(tell, request, options, surveyed.direction)


def _work(request: Request, options: ImputeOptions, run: Run) -> None:
    # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
    from mocli.tasks.impute.check import check
    from mocli.tasks.impute.denoise import Denoised
    from mocli.tasks.impute.work import Imputation, check_asked, obtain_model, translate
    from mocli.tasks.impute.write import deliver

    surveyed = survey(request, options, Task.IMPUTE, open_modalities(request.data), run)
    saved, trained = obtain_model(run, request, Task.IMPUTE, surveyed, coverage=options.coverage)
    with run.timed("encode"):
        target = surveyed.direction.target
        check_asked(options, saved, target)
        translation, why = translate(run, request, options, surveyed, saved)
        columns = columns_of(options.features, translation.names, target)
        denoised = Denoised.of(translation) if translation.source == target else None
        work = Imputation(options, surveyed, translation, trained, columns, why, denoised)
    with run.timed("evaluate"):
        checked = check(run, request, work)
    with run.timed("write"):
        deliver(run, request.data, request.output, work, checked)
