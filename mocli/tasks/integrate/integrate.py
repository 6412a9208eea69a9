"""`mocli integrate`: give the cells of all modalities coordinates in one latent space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mocli.models.registry import load_class
from mocli.tasks.integrate.labels import column_for, read_labels, tell_replaced
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.prepare.plan import Aim, open_modalities
from mocli.tasks.run.frame import Tell, Verb, perform
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.tasks.trained.foresee import foresee_training
from mocli.types import Task


@subcommand(IntegrateOptions)
def integrate(
    request: Request, options: IntegrateOptions, *, dry_run: bool, command: Sequence[str]
) -> Result:
    """Integrate modalities into one latent; the shell's `mocli integrate`.

    Returns:
        Result: The latent itself lies in the output: `obsm["X_<model>"]` of every modality and of the whole;
            with a model that has spaces for covariates, `obsm["X_<model>_<covariate>"]` as well.

    Raises:
        MocliError: Every error a user can mend; `exit_code` says of which sort.
    """
    verb = Verb(
        task="integrate",
        suffixes=(".h5mu", ".h5ad"),
        beside=(".matches.tsv",) if options.matches else (),
        foresee=partial(_foresee if options.reference is None else _foresee_query, request, options),
        work=partial(_work, request, options),
    )
    return perform(verb, request, dry_run=dry_run, command=command)


def _work(request: Request, options: IntegrateOptions, run: Run) -> None:
    if options.reference is None:
        from mocli.tasks.integrate.work import integrate_cells

        integrate_cells(run, request, options)
    else:
        from mocli.tasks.integrate.reference import map_query

        map_query(run, request, options, options.reference)


def _foresee(request: Request, options: IntegrateOptions, tell: Tell) -> None:
    options.check_model(request.train.model)
    plan = foresee_training(request, Aim(Task.INTEGRATE, backed=options.backed, stacked=options.ways), tell)
    if options.sample or options.marginal:
        # a model's class, and torch with it, is loaded only where something depends on it
        options.check(load_class(plan.traits.model), plan.traits.name)
    for labels in read_labels(plan.files, options.transfer):
        tell.say(labels.summary)
    if options.clusters is not None:
        key = request.output.key_added or f"X_{plan.traits.name}"
        tell_replaced(plan.files, column_for(key), tell.warn)


def _foresee_query(request: Request, options: IntegrateOptions, tell: Tell) -> None:
    from mocli.tasks.infer.query import check_labels, match_query
    from mocli.tasks.trained.saved import load_model

    assert options.reference is not None
    saved = load_model(options.reference)
    options.check(type(saved.model), saved.description["model"])
    tell.say(f"reference: {saved.description['model']} from {options.reference}")
    query = match_query(saved, open_modalities(request.data), request.data, say=tell.say, warn=tell.warn)
    check_labels(saved, options.transfer.columns)
    if options.clusters is not None:
        key = request.output.key_added or f"X_{saved.description['model']}"
        tell_replaced(query.files, column_for(key), tell.warn)
