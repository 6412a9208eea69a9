"""Choose the model: the one named, or the one whose traits fit the data best."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from mocli.errors import UsageError
from mocli.models.base import Traits
from mocli.models.registry import available, params_class, traits_of
from mocli.tasks.run.options import BEST, UNNAMED, DataOptions, TrainOptions
from mocli.tasks.run.paths import read_description
from mocli.types import ModalityKind, Pairing, Task


@dataclass(frozen=True)
class Demands:
    """Requests for a training that not every model can meet.

    Attributes:
        params: Names of hyper-parameters that are set.
        steps: Whether an option bounds steps, starts from weights or freezes some.
        sets: Whether there are sets of genes.
        weights_of: The model whose weights training starts from.
    """

    params: Collection[str] = ()
    steps: bool = False
    sets: bool = False
    weights_of: str | None = None

    @classmethod
    def by(cls, data: DataOptions, train: TrainOptions) -> Demands:
        """Return the requests in the options; `InputError` if there is no model to start from."""
        start = None
        if train.init_from is not None and train.model in UNNAMED:
            start = str(read_description(train.init_from)["model"])
        return cls(train.params, train.bounds_steps, data.gene_sets is not None, start)

    def is_known_by(self, traits: Traits) -> bool:
        """Say whether a model can be trained in this way."""
        return (
            not (self.steps and traits.solves)
            and not (self.sets and not traits.uses_sets)
            and self.weights_of in (None, traits.name)
            and {*self.params} <= _names(traits)
        )


def choose_model(
    requested: str,
    *,
    task: Task,
    pairing: Pairing,
    kinds: Sequence[ModalityKind],
    links: bool,
    demands: Demands = Demands(),
) -> tuple[Traits, str]:
    """Return the model's traits and why it was chosen.

    `auto` takes the first in rank that meets all requests for the training.

    Raises `UsageError` if the model cannot do the task or does not take such data; the message names the
    models that do.
    """
    problems = {
        name: problem_with(traits, task=task, pairing=pairing, kinds=kinds, links=links)
        for name, traits in available().items()
    }
    fitting = [name for name, problem in problems.items() if problem is None]
    if requested == BEST and task is not Task.INTEGRATE:
        raise UsageError(
            f"--model {BEST} compares integrations, but this command is to {task}",
            field="--model",
            hint="leave it out, or integrate with it and then use --from-model",
        )
    if requested not in UNNAMED:
        traits = traits_of(requested)
        if problems[requested] is not None:
            raise UsageError(
                f"{requested} {problems[requested]}",
                field="--model",
                hint="these models can: " + ", ".join(fitting) if fitting else _what_would_help(problems),
            )
        return traits, "as asked"
    if not fitting:
        reasons = "; ".join(f"{name} {problem}" for name, problem in problems.items())
        raise UsageError(
            "no model fits these data", field="--model", found=reasons, hint=_what_would_help(problems)
        )
    able = candidates(task=task, pairing=pairing, kinds=kinds, links=links)
    ranked = [traits for traits in able if demands.is_known_by(traits)] or able
    models = available()
    leading = [models[name] for name in fitting if task in models[name].leads]
    best = [*leading, *ranked, *(models[name] for name in fitting)][0]
    cells = "cells of one modality" if len(kinds) == 1 else f"{pairing} cells"
    cells += " with links" if links and best.uses_links else ""
    why = cells if task is Task.INTEGRATE else f"{task} of {cells}"
    if requested == BEST and len(ranked) > 1:
        why += f"; {', '.join(t.name for t in ranked)} are compared first, and the best is chosen"
    return best, f"recommended for {why}" if leading or ranked else f"a model that takes {why}"


def candidates(
    *, task: Task, pairing: Pairing, kinds: Sequence[ModalityKind], links: bool, demands: Demands = Demands()
) -> list[Traits]:
    """Return the models that can do the task and meet the requests, in their order of rank for such cells."""
    able = [
        traits
        for traits in available().values()
        if pairing in traits.rank
        and problem_with(traits, task=task, pairing=pairing, kinds=kinds, links=links) is None
        and demands.is_known_by(traits)
    ]
    return sorted(able, key=lambda traits: traits.rank[pairing])


def _names(traits: Traits) -> set[str]:
    return {field.name for field in fields(params_class(traits))}


def problem_with(
    traits: Traits, *, task: Task, pairing: Pairing, kinds: Sequence[ModalityKind], links: bool
) -> str | None:
    """Return None if the model can do the task with such data, else why not, as the end of a sentence."""
    if task not in traits.tasks:
        return f"cannot {task}"
    if len(kinds) < traits.min_modalities:
        return f"needs at least {traits.min_modalities} modalities, got {len(kinds)}"
    if pairing not in traits.pairings:
        takes = " or ".join(sorted(traits.pairings))
        return f"takes {takes} cells, these are {pairing}"
    for kind in kinds:
        if kind not in traits.expects:
            return f"does not take {kind} data"
    if traits.max_modalities is not None and len(kinds) > traits.max_modalities:
        return f"takes at most {traits.max_modalities} modalities, got {len(kinds)}"
    joined = traits.links_replace_pairs and (len(kinds) < 2 or pairing is not Pairing.UNPAIRED)
    if traits.needs_links and not links and not joined:
        return "needs a feature-link table (--links)"
    return None


def _what_would_help(problems: dict[str, str | None]) -> str:
    if any(problem and "got 1" in problem for problem in problems.values()):
        return "give the other modality as well: a second file, or an h5mu that holds both"
    if any(problem and "--links" in problem for problem in problems.values()):
        return "give a feature-link table with --links: mocli links build makes one"
    return "`mocli models` shows which model takes which data"


def takes_weights(traits: Traits) -> bool:
    """Whether a model has discriminators that weigh cells."""
    return bool(traits.params) and any(f.name == "critic_weights" for f in fields(params_class(traits)))
