"""From models, seeds, tasks and studies to runs: the words of each command, and whose model it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mocli.data.files.source import parse_source
from mocli.data.links.route import link_files
from mocli.models.base import Encodes, EncodesJointly
from mocli.models.parameters import as_dict, resolve
from mocli.models.registry import load_class, traits_of
from mocli.options import Options
from mocli.tasks.benchmark.runs import ModelRun, parameters_of, safe
from mocli.tasks.prepare.select import takes_weights
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mocli.models.base import Traits
    from mocli.tasks.benchmark.options import BenchmarkOptions
    from mocli.tasks.benchmark.runs import Study
    from mocli.tasks.run.request import Request

MOST_SIMULATED = 10_000
"""Cells that a run simulates; of every label as many as it has, or the same share of it."""

ON_MODELS = frozenset({Task.SIMULATE, Task.GENE2PEAK})
"""Tasks that take the model of the integration, where there is one."""


OF_EACH_RUN = frozenset({"gene_sets", "model", "seed", "device", "threads", "checkpoint_dir", "resume"})
"""Options that differ between runs, or are no business of theirs; see `_run` and `Processes`."""


@dataclass(frozen=True)
class TaskData:
    """What runs of single tasks need to know.

    Attributes
    ----------
    direction
        Modalities to impute from and to.
    n_modalities, n_cells
        Of the data; the cells of the largest modality.
    gtf, truth
        Where genes lie, and known pairs of genes and peaks.
    """

    direction: tuple[str, str] | None
    n_modalities: int
    n_cells: int
    gtf: Path | None = None
    truth: Path | None = None


def trainings(
    request: Request,
    asked: BenchmarkOptions,
    chosen: Mapping[Task, Sequence[str]],
    studies: Sequence[Study],
    folder: Path,
    data: TaskData,
) -> list[ModelRun]:
    """Return every run, seed by seed, so that a benchmark cut short has something of every model.

    Simulations and relations take the model of the integration of the same seed and study; an
    integration of a study that keeps cells out takes the model that was trained to impute without them.
    """
    found: list[ModelRun] = []
    for study in studies:
        for seed in asked.seeds:
            of: dict[tuple[Task, str], ModelRun] = {}
            tasks = sorted(asked.tasks, key=lambda t: t is Task.INTEGRATE) if study.words else asked.tasks
            for task in tasks:
                for model in chosen[task] if task in study.tasks else ():
                    parent = None
                    if study.words and task is Task.INTEGRATE:
                        parent = of.get((Task.IMPUTE, model))
                        if parent is None:
                            continue
                    elif task in ON_MODELS:
                        parent = of.get((Task.INTEGRATE, model))
                    run = _run(request, task, model, seed, study, folder, data, parent)
                    if run is not None:
                        of[task, model] = run
            found += of.values()
    return found


def _run(
    request: Request,
    task: Task,
    model: str,
    seed: int,
    study: Study,
    folder: Path,
    data: TaskData,
    parent: ModelRun | None,
) -> ModelRun | None:
    """Return one run; None where the study changes nothing of the model."""
    traits = traits_of(model)
    changed = parameters_of(traits, study.params)
    if (study.params and not changed) or (study.links and not traits.uses_links):
        return None
    params = {**parameters_of(traits, request.train.params), **changed}
    links = [study.links[seed]] if seed in study.links else list(request.data.links)
    links = links if traits.uses_links else []
    sets = [request.data.gene_sets] if traits.uses_sets and request.data.gene_sets is not None else []
    files = [*(parse_source(text).path for text in request.data.inputs)]
    if parent is None:
        asked = request
        if not takes_weights(traits):  # an option without effect must not tell runs apart
            asked = replace(request, data=replace(request.data, weight_key=None))
        words = [task.value, *words_of(asked, links, params)]
        words += [word for path in sets for word in ("--gene-sets", path)]
        words += ["--model", model]
        files += _paths([*link_files(links), *sets])
    else:
        option = "--reference" if task is Task.INTEGRATE else "--from-model"
        plain = untrained(request)
        if task is Task.INTEGRATE:  # new cells may be trained into their places
            plain = replace(plain, train=replace(plain.train, max_steps=request.train.max_steps))
        words = [task.value, *words_of(plain, (), {}), option, str(parent.model_folder)]
    words += ["--seed", str(seed), "--no-html", *_words_of_task(task, traits, data, request, parent)]
    if task is Task.GENE2PEAK:
        files += [p for p in (data.gtf, data.truth) if p is not None]
    if parent is None:
        words += study.words
    name = f"{task}-{model}-seed{seed}" + (f"-{safe(study.name)}" if study.name else "")
    return ModelRun(
        task=task,
        model=model,
        seed=seed,
        study=study.name,
        folder=folder / name,
        words=tuple(words),
        files=tuple(files),
        params=as_dict(resolve(traits, params, request.train.preset)),
        parent=parent,
    )


def _words_of_task(
    task: Task, traits: Traits, data: TaskData, request: Request, parent: ModelRun | None
) -> list[str]:
    if task is Task.IMPUTE:
        assert data.direction is not None
        return ["--from", data.direction[0], "--to", data.direction[1], "--evaluate"]
    if task is Task.SIMULATE:
        words = ["--fold", f"{min(1.0, MOST_SIMULATED / max(data.n_cells, 1)):.6g}"]
        key = request.data.label_key
        return [*words, "--label", key] if key is not None else words
    if task is Task.GENE2PEAK:
        words = ["--method", "latent", "--gtf", str(data.gtf)]
        return words if data.truth is None else [*words, "--truth", str(data.truth)]
    # all are scored by the benchmark, on the same cells
    words = ["--metrics", "none", "--clusters", "none"]
    return [*words, "--marginal"] if parent is None and _gives_marginals(traits, data) else words


def _gives_marginals(traits: Traits, data: TaskData) -> bool:
    """Whether the model places whole cells, and could place them by one modality alone."""
    model = load_class(traits.model)
    return data.n_modalities > 1 and issubclass(model, EncodesJointly) and issubclass(model, Encodes)


def _paths(texts: Sequence[object]) -> list[Path]:
    from pathlib import Path

    return [Path(str(t)) for t in texts]


def untrained(request: Request) -> Request:
    """Return what is asked of a run that takes a model: the data, without what only training looks at."""

    def without(group: Options) -> Any:
        given = group.given("trains")
        return replace(group, **{name: declared.default for name, declared in given.items()})  # type: ignore[type-var]

    return replace(request, data=without(request.data), train=without(request.train))


def words_of(request: Request, links: Sequence[object], params: Mapping[str, object]) -> list[str]:
    """Return the options that all runs share as words of the command line."""
    data = replace(request.data, links=tuple(map(str, links)))
    train = replace(request.train, params=params)
    return [w for group in (data, train, request.run) for w in group.words(without=OF_EACH_RUN)]
