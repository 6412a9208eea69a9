"""The runs for all models, seeds, tasks and studies: their options, memory and time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mocli.data.files.modality import ModalityFile
from mocli.errors import MocliError, UsageError
from mocli.log import logger
from mocli.models.base import Encodes, EncodesJointly, Traits
from mocli.models.registry import load_class, resolve, traits_of
from mocli.options import Options
from mocli.report import figures
from mocli.report.file import write_text
from mocli.tasks.benchmark.ground import HELD_OUT, TRAINING
from mocli.tasks.benchmark.options import RECONSTRUCT, BenchmarkOptions
from mocli.tasks.benchmark.runs import ModelRun, Study, output_of, parameters_of, safe
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.impute.holdout import HoldOut
from mocli.tasks.impute.options import ImputeOptions
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.prepare.footprint import AROUND_S, duration, footprint, roughly, seconds_around
from mocli.tasks.prepare.plan import Aim, make_plan
from mocli.tasks.prepare.select import takes_weights
from mocli.tasks.run.options import OutputOptions
from mocli.tasks.run.request import Request, files_read
from mocli.tasks.simulate.options import SimulateOptions
from mocli.types import Task

CONTROLS = 7
"""Controls of a benchmark, about, each judged as a model is."""
S_PER_SCORED = 1.2e-3
"""Of a cell, up to 20,000, while one method is judged by all metrics and drawn (ECCITE-seq, SNARE-seq)."""


@dataclass(frozen=True)
class Cost:
    """What runs need: bytes of the largest, how many go on at a time, and seconds of everything.

    `memory` is None where no run trains, or nothing is known of any.
    """

    memory: int | None
    at_once: int
    seconds: float

    @property
    def words(self) -> list[str]:
        """Say it, a line each."""
        several = f"; {self.at_once} go on at a time" if self.at_once > 1 else ""
        needs = (
            []
            if self.memory is None
            else [f"each run will need up to about {figures.size(self.memory)} of memory of its own{several}"]
        )
        return [*needs, f"it will take about {roughly(self.seconds)} on a CPU, judging included"]


def cost_of(run: ModelRun, files: Sequence[ModalityFile]) -> tuple[int, float] | None:
    """Return bytes and seconds of a run that trains, without its study; None if they are not known."""
    request, traits = run.request, traits_of(run.model)
    data, train = request.data, request.train
    try:
        plan = make_plan(data, train, run.task, logger.debug, files=files, traits=traits)
        params, aim = resolve(traits, train.params, train.preset), aim_of(run)
        size = footprint(plan, params, aim)
        return size.peak, duration(plan, params, train, request.run, size, aim).whole
    except MocliError as error:
        # the run itself will say so
        logger.debug("the cost of %s is not known: %s", run.name, error.message)
        return None


def aim_of(run: ModelRun) -> Aim:
    """Return what the model of a run is trained for."""
    options = run.request.own
    if isinstance(options, IntegrateOptions):
        return Aim(run.task, stacked=options.ways)
    return Aim(run.task, options.target if isinstance(options, ImputeOptions) else None)


def cost_of_all(runs: Sequence[ModelRun], files: Sequence[ModalityFile], jobs: int) -> Cost:
    """Return what the runs that are still to do need, and the judging after them; peers are not known."""
    todo = [run for run in runs if not run.finished()]
    costs = {run.work: cost_of(run, files) for run in reversed(todo) if run.parent is None}
    cells = max((f.n_obs for f in files), default=0)
    seconds = [
        cost[1] if (cost := costs.get(run.work)) is not None else AROUND_S + seconds_around(cells)
        for run in todo
    ]
    at_once = max(1, min(jobs, len(todo)))
    trained = max(sum(seconds) / at_once, max(seconds, default=0.0))
    judged = CONTROLS + len({(run.model, run.seed, run.study) for run in runs})
    memory = max((cost[0] for cost in costs.values() if cost is not None), default=None)
    return Cost(memory, min(jobs, len(runs)), trained + judged * min(cells, 20_000) * S_PER_SCORED)


MOST_SIMULATED = 10_000
"""Most cells that a run simulates: as many of each label as there are, or the same share of each."""

OF_EACH_RUN = frozenset({"gene_sets", "model", "seed", "device", "threads", "checkpoint_dir", "resume"})
"""Options that differ between runs, or do not concern them."""

ON_MODELS = frozenset({Task.SIMULATE, Task.GENE2PEAK})
"""Tasks that take the model of the integration, where there is one."""


@dataclass(frozen=True)
class TaskData:
    """Data that runs of single tasks need.

    Attributes:
        direction: Modalities to impute from and to.
        modalities, n_cells: Of the data: their names, and the cells of the largest.
        gtf, truth: The gene table, and known pairs of genes and peaks.
        training, held_out: Files of the cells to train on and to reconstruct, by seed.
    """

    direction: tuple[str, str] | None
    modalities: Sequence[str]
    n_cells: int
    gtf: Path | None = None
    truth: Path | None = None
    training: Mapping[int, Path] = field(default_factory=dict)
    held_out: Mapping[int, Path] = field(default_factory=dict)


def trainings(
    request: Request,
    options: BenchmarkOptions,
    chosen: Mapping[str, Sequence[str]],
    studies: Sequence[Study],
    folder: Path,
    data: TaskData,
) -> list[ModelRun]:
    """Return every run, seed by seed, so that a benchmark cut short has something of every model.

    Simulations and relations take the model of the integration of the same seed and study; an
    integration of a study that keeps cells out takes the model that was trained to impute without them.
    """
    runs: list[ModelRun] = []
    for study in studies:
        for seed in options.seeds:
            run_of: dict[tuple[Task, str], ModelRun] = {}
            tasks = [Task(t) for t in options.tasks if t != RECONSTRUCT]
            if study.hold_out:
                tasks.sort(key=lambda t: t is Task.INTEGRATE)
            for task in tasks:
                for model in chosen[task] if task in study.tasks else ():
                    parent = None
                    if study.hold_out and task is Task.INTEGRATE:
                        parent = run_of.get((Task.IMPUTE, model))
                        if parent is None:
                            continue
                    elif task in ON_MODELS:
                        parent = run_of.get((Task.INTEGRATE, model))
                    run = _run(request, task, model, seed, study, folder, data, parent)
                    if run is not None:
                        run_of[task, model] = run
            runs += run_of.values()
            for model in chosen.get(RECONSTRUCT, ()) if _reconstructs(study) else ():
                runs += _reconstruction(request, model, seed, study, folder, data)
    return runs


def _reconstructs(study: Study) -> bool:
    """Whether the cells that `reconstruct` holds out can be scored under a study."""
    return not study.name or bool(study.training or study.params or study.seen_in)


def _reconstruction(
    request: Request, model: str, seed: int, study: Study, folder: Path, data: TaskData
) -> Iterator[ModelRun]:
    """Yield the integration of the cells to train on, and that of the held-out cells."""
    parent = None
    cells = {TRAINING: study.training or data.training, HELD_OUT: study.held_out or data.held_out}
    for part, files in cells.items():
        of_part = replace(study, name=f"{part} {study.name}".strip(), cells=files)
        run = _run(request, Task.INTEGRATE, model, seed, of_part, folder, data, parent)
        if run is None:  # a sweep of another model's hyper-parameter
            return
        parent = replace(run, study=study.name, aim=RECONSTRUCT)
        yield parent


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
    data_of_study = replace(request.data, only_cells=study.cells.get(seed, request.data.only_cells))
    if parent is None and study.seen_in is not None:
        data_of_study = replace(data_of_study, seen_in=dict.fromkeys(data.modalities, study.seen_in))
    if parent is None:
        links = (str(study.links[seed]),) if seed in study.links else request.data.links
        data_of_run = replace(
            data_of_study,
            links=links if traits.uses_links else (),
            # an option without effect must not tell runs apart
            gene_sets=request.data.gene_sets if traits.uses_sets else None,
            weight_key=request.data.weight_key if takes_weights(traits) else None,
        )
        params = {**parameters_of(traits, request.train.params), **changed}
        train = replace(request.train, model=model, params=params)
        resolve(traits, params, train.preset)  # a value that it does not take is found before any run
    else:
        plain = untrained(replace(request, data=data_of_study))
        data_of_run, train = plain.data, plain.train
        if task is Task.INTEGRATE:  # new cells may be trained into their coordinates
            train = replace(train, max_steps=request.train.max_steps)
    folder = folder / (f"{task}-{model}-seed{seed}" + (f"-{safe(study.name)}" if study.name else ""))
    fresh = request.run.resume == "never"
    run = replace(request.run, seed=seed, checkpoint_dir=None)
    output = OutputOptions(output_of(task, folder), html=False, force=True, unless_done=not fresh)
    options = _options_of_task(task, traits, data, request, study, parent)
    return ModelRun(
        task,
        model,
        seed,
        study.name,
        folder,
        Request(data_of_run, train, run, output, options),
        parent,
        study.swept,
    )


def _options_of_task(
    task: Task, traits: Traits, data: TaskData, request: Request, study: Study, parent: ModelRun | None
) -> Options:
    model = None if parent is None else parent.model_folder
    if task is Task.IMPUTE:
        assert data.direction is not None
        source, target = data.direction
        options = ImputeOptions(source, target, evaluate=True)
        return options if study.hold_out is None else replace(options, hold_out=HoldOut.parse(study.hold_out))
    if task is Task.SIMULATE:
        fold = float(f"{min(1.0, MOST_SIMULATED / max(data.n_cells, 1)):.6g}")
        key = request.data.label_key
        return SimulateOptions(model, label=() if key is None else (key,), fold=fold)
    if task is Task.GENE2PEAK:
        return Gene2PeakOptions(from_model=model, method="latent", gtf=data.gtf, truth=data.truth)
    # all are scored by the benchmark, on the same cells
    marginal = parent is None and _gives_marginals(traits, data)
    # imputations train models of their own, without the cells that are held out
    return IntegrateOptions(model, metrics="none", clusters=None, marginal=marginal, ways=parent is not None)


def _gives_marginals(traits: Traits, data: TaskData) -> bool:
    """Say whether the model places whole cells, and could place them by one modality alone."""
    model = load_class(traits.model)
    return len(data.modalities) > 1 and issubclass(model, EncodesJointly) and issubclass(model, Encodes)


def untrained(request: Request) -> Request:
    """Return the options of a run that takes a model: those of the data, without options of training."""

    def without(group: Options) -> Any:
        of_training = group.given("trains")
        return replace(group, **{name: declared.default for name, declared in of_training.items()})  # type: ignore[type-var]

    return replace(request, data=without(request.data), train=without(request.train))


def words_of(request: Request, links: Sequence[object], params: Mapping[str, object]) -> list[str]:
    """Return the options that a peer's data depend on, as arguments of the command line."""
    data = replace(request.data, links=tuple(map(str, links)))
    train = replace(request.train, params=params)
    return [w for group in (data, train, request.run) for w in group.words(without=OF_EACH_RUN)]


COLUMNS = ("id", "task", "model", "seed", "study", "needs", "memory_bytes", "inputs", "output", "command")
"""`needs` is the id of the line that must have ended before, `memory_bytes` the memory of a run that trains.

Both are empty if there is none, or it is not known.
"""


def write_plan(path: Path, runs: Sequence[ModelRun], files: Sequence[ModalityFile]) -> None:
    """Write a line for every run, whether it has ended or not, and make the folders that they write in.

    Raises:
        UsageError: A command has a line break or a tab, which a line cannot hold.
        EnvironmentProblem: It cannot be written.
    """
    costs = {run.work: cost_of(run, files) for run in reversed(runs) if run.parent is None}
    lines = ["\t".join(COLUMNS)]
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        needs = "" if run.parent is None else run.parent.id
        cost = costs[run.work] if run.parent is None else None
        bytes_held = None if cost is None else cost[0]
        inputs = ",".join(map(str, files_read([run.request.data])))
        command = shlex.join(["mocli", *run.command])
        about = [run.id, run.purpose, run.model, run.seed, run.study, needs, bytes_held, inputs]
        cells = ["" if cell is None else str(cell) for cell in (*about, run.output, command)]
        if any(len(cell.splitlines()) > 1 or "\t" in cell for cell in cells):
            raise UsageError(
                "a plan has one line for each run, but this run's command holds a line break or a tab",
                field="--plan",
                found=command,
                hint="rename the file, column or level",
            )
        lines.append("\t".join(cells))
    write_text(path, "\n".join(lines) + "\n")
