"""From models, seeds, tasks and studies to runs: the words of each command, and whose model it takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.models.base import Encodes, EncodesJointly
from mocli.models.parameters import as_dict, resolve
from mocli.models.registry import load_class, traits_of
from mocli.tasks.benchmark.runs import Training, parameters_of, safe
from mocli.tasks.prepare.select import takes_weights
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mocli.models.base import Traits
    from mocli.tasks.benchmark.options import Asked
    from mocli.tasks.benchmark.runs import Study
    from mocli.tasks.run.request import Request

MOST_SIMULATED = 10_000
"""Cells that a run simulates; of every label as many as it has, or the same share of it."""

ON_MODELS = frozenset({Task.SIMULATE, Task.GENE2PEAK})
"""Tasks that take the model of the integration, where there is one."""


@dataclass(frozen=True)
class Places:
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
    asked: Asked,
    chosen: Mapping[Task, Sequence[str]],
    studies: Sequence[Study],
    folder: Path,
    places: Places,
) -> list[Training]:
    """Return every run, seed by seed, so that a benchmark cut short has something of every model.

    Simulations and relations take the model of the integration of the same seed and study; an
    integration of a study that keeps cells out takes the model that was trained to impute without them.
    """
    found: list[Training] = []
    for study in studies:
        for seed in asked.seeds:
            of: dict[tuple[Task, str], Training] = {}
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
                    run = _run(request, task, model, seed, study, folder, places, parent)
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
    places: Places,
    parent: Training | None,
) -> Training | None:
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
    words += ["--seed", str(seed), "--no-html", *_words_of_task(task, traits, places, request, parent)]
    if task is Task.GENE2PEAK:
        files += [p for p in (places.gtf, places.truth) if p is not None]
    if parent is None:
        words += study.words
    name = f"{task}-{model}-seed{seed}" + (f"-{safe(study.name)}" if study.name else "")
    return Training(
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
    task: Task, traits: Traits, places: Places, request: Request, parent: Training | None
) -> list[str]:
    if task is Task.IMPUTE:
        assert places.direction is not None
        return ["--from", places.direction[0], "--to", places.direction[1], "--evaluate"]
    if task is Task.SIMULATE:
        words = ["--fold", f"{min(1.0, MOST_SIMULATED / max(places.n_cells, 1)):.6g}"]
        key = request.data.label_key
        return [*words, "--label", key] if key is not None else words
    if task is Task.GENE2PEAK:
        words = ["--method", "latent", "--gtf", str(places.gtf)]
        return words if places.truth is None else [*words, "--truth", str(places.truth)]
    # all are scored by the benchmark, on the same cells
    words = ["--no-metrics"]
    return [*words, "--marginal"] if parent is None and _gives_marginals(traits, places) else words


def _gives_marginals(traits: Traits, places: Places) -> bool:
    """Whether the model places whole cells, and could place them by one modality alone."""
    model = load_class(traits.model)
    return places.n_modalities > 1 and issubclass(model, EncodesJointly) and issubclass(model, Encodes)


def _paths(texts: Sequence[object]) -> list[Path]:
    from pathlib import Path

    return [Path(str(t)) for t in texts]


def untrained(request: Request) -> Request:
    """Return what is asked of a run that takes a model: the data, without what only training looks at."""
    data = replace(request.data, links=(), gene_sets=None, transform={}, likelihood={}, hvg={}, seen_in={})
    return replace(
        request,
        data=replace(data, covariate_keys=(), continuous_keys=(), weight_key=None),
        train=replace(request.train, preset="auto", max_steps=None, params={}),
    )


def words_of(request: Request, links: Sequence[object], params: Mapping[str, object]) -> list[str]:
    """Return the options that all runs share as words of the command line."""
    data, train, run = request.data, request.train, request.run
    words = [str(text) for text in data.inputs]
    for link in links:
        words += ["--links", str(link)]
    plain: dict[str, object] = {
        "--pairing": data.pairing,
        "--var-key": data.var_key,
        "--batch-key": data.batch_key,
        "--weight-key": data.weight_key,
        "--label-key": data.label_key,
        "--pair-key": data.pair_key,
        "--preset": train.preset,
        "--max-steps": train.max_steps,
        "--max-time": None if run.max_time is None else f"{run.max_time:g}s",
        "--max-memory": None if run.max_memory is None else f"{run.max_memory:.0f}",
        "--checkpoint-every": f"{run.checkpoint_every:g}s",
    }
    for option, value in plain.items():
        if value is not None:
            words += [option, str(value)]
    for option, values in (("--covariate", data.covariate_keys), ("--continuous", data.continuous_keys)):
        for value in values:
            words += [option, value]
    mappings: dict[str, Mapping[str, object]] = {
        "--kind": data.kind,
        "--layer": data.layer,
        "--transform": data.transform,
        "--likelihood": data.likelihood,
        "--hvg": data.hvg,
        "--seen-in": data.seen_in,
        "--set": params,
    }
    for option, mapping in mappings.items():
        for key, value in mapping.items():
            words += [option, f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    for option, given in (("--obs-prefix", data.obs_prefix), ("--deterministic", run.deterministic)):
        if given:
            words.append(option)
    return words
