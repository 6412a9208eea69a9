"""What a training will do, found out beforehand and without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mocli.data.files.modality import ModalityFile
from mocli.errors import UsageError
from mocli.models.base import Traits
from mocli.models.registry import as_dict, available, resolve
from mocli.tasks.prepare.footprint import choose_place, duration
from mocli.tasks.prepare.plan import Aim, Plan, make_plan
from mocli.tasks.prepare.select import problem_with
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.paths import read_description
from mocli.tasks.run.request import Request
from mocli.types import Task


def plan_training(
    request: Request, task: Task, say: Callable[[str], None], files: Sequence[ModalityFile] | None = None
) -> Plan:
    """Decide what a training will do, and make sure that it can start from where it is asked to.

    `files`: the modalities where they are open already, perhaps with some cells only.
    """
    plan = make_plan(request.data, request.train, task, say, files=files, compared=request.compared)
    if plan.traits.solves:
        plan = _solvable(plan, request, task)
    check_kind(request.train.init_from, plan.traits)
    return plan


def _solvable(plan: Plan, request: Request, task: Task) -> Plan:
    """Refuse what a closed form forbids, and warn of an option that does not change it."""
    options, name = request.train, plan.traits.name
    for option, value in (("--init-from", options.init_from), ("--freeze", ", ".join(options.freeze))):
        if value:
            kinds = [file.kind for file in plan.files]
            able = [
                other
                for other, traits in available().items()
                if not traits.solves
                and problem_with(
                    traits,
                    task=task,
                    pairing=plan.relation.pairing,
                    kinds=kinds,
                    links=bool(request.data.links),
                )
                is None
            ]
            raise UsageError(
                f"{name} finds its weights in closed form, from these cells alone",
                field=option,
                found=str(value),
                hint=f"leave {option} out" + (f", or choose with -m: {', '.join(able)}" if able else ""),
            )
    if options.max_steps is None:
        return plan
    warning = f"--max-steps changes nothing: {name} finds its weights in closed form"
    return replace(plan, warnings=(*plan.warnings, warning))


def foresee_training(
    request: Request, aim: Aim, tell: Tell, files: Sequence[ModalityFile] | None = None
) -> Plan:
    """Log what a training will do and need, warnings last; for dry runs."""
    plan = plan_training(request, aim.task, tell.say, files)
    params = resolve(plan.traits, request.train.params, request.train.preset)
    tell.say(_settings(plan.traits.name, params))
    size = choose_place(plan, params, aim, limit=request.run.max_memory, tell=tell)
    tell.say(size.words)
    if not request.run.device.startswith("cuda"):  # there are no rates for it
        tell.say(duration(plan, params, request.train, request.run, size, aim).words)
    for warning in plan.warnings:
        tell.warn(warning)
    return plan


def _settings(model: str, params: Any) -> str:
    """Say which hyper-parameters are not the defaults, and where all are listed."""
    usual = as_dict(type(params)())
    changed = [f"{key}={value}" for key, value in as_dict(params).items() if value != usual[key]]
    listed = f"mocli params {model} lists them"
    if not changed:
        return f"hyper-parameters: the defaults; {listed}"
    return f"hyper-parameters: {', '.join(changed)}; the others have their defaults ({listed})"


def check_kind(folder: Path | None, traits: Traits) -> None:
    """Make sure, before the work, that a saved model has the kind of the one to be trained.

    Raises `UsageError` or `InputError`: it has another kind, or there is no model.
    """
    if folder is None:
        return
    kind = read_description(folder)["model"]
    if kind != traits.name:
        raise UsageError(
            f"a model of {traits.name} cannot start from one of {kind}",
            field="--init-from",
            file=folder,
            found=str(kind),
            expected=traits.name,
            hint=f"train {kind} with -m {kind}, or name a saved model of {traits.name}",
        )
