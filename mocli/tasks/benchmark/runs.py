"""The runs of a benchmark: their model, seed, study, folder and options."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.links.genesets import read_gene_sets
from mocli.errors import MocliError, UsageError, did_you_mean
from mocli.models.base import Decodes, EncodesJointly, Traits
from mocli.models.registry import available, load_class, params_class, traits_of
from mocli.tasks.benchmark.options import RECONSTRUCT, TASKS, BenchmarkOptions
from mocli.tasks.benchmark.processes import Command, own_environment
from mocli.tasks.prepare.select import problem_with, takes_weights
from mocli.tasks.run.request import Request, is_whole, made_from, origin_of
from mocli.types import ModalityKind, Task

if TYPE_CHECKING:
    from mocli.tasks.benchmark.ground import Ground

Identity = tuple[str, str, str, int | None, str]
"""Task, method, kind of method, seed and study."""

SUFFIXES = {Task.IMPUTE: ".h5ad", Task.GENE2PEAK: ".tsv"}
"""Suffixes of the outputs of runs that are not .h5mu."""


@dataclass(frozen=True)
class Study:
    """A change of the data or of a loss, under which models are trained again.

    Attributes:
        name: `panel=30`; empty for the benchmark itself.
        params: Hyper-parameters that it sets.
        links: Tables that replace those given; by seed, as they are drawn at random.
        cells: Files of the cells to use instead of all; by seed.
        swept: The hyper-parameters of a sweep, by their plain names.
        seen_in: Share of the cells in which features must be seen, of every modality.
        hold_out: Cells that its models do not train on, as `mocli impute --hold-out` takes it.
        tasks: Tasks that it applies to; reconstruct is among them where it has `training`, `params` or
            `seen_in`.
        training, held_out: Files of the cells that `reconstruct` trains on, and of those that it scores where
            these are not all held-out cells; by seed.
    """

    name: str = ""
    params: Mapping[str, object] = field(default_factory=dict)
    links: Mapping[int, Path] = field(default_factory=dict)
    cells: Mapping[int, Path] = field(default_factory=dict)
    swept: Mapping[str, object] = field(default_factory=dict)
    seen_in: float | None = None
    hold_out: str | None = None
    tasks: frozenset[str] = frozenset(TASKS)
    training: Mapping[int, Path] = field(default_factory=dict)
    held_out: Mapping[int, Path] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ModelRun:
    """One run of one model, in its own process and folder.

    Attributes:
        request: All its options, those of its own task included.
        parent: The run whose model this one takes; None for one that trains.
        swept: Hyper-parameters that a sweep gave it.
        aim: Its purpose, if that is not its subcommand.
    """

    task: Task
    model: str
    seed: int
    study: str
    folder: Path
    request: Request
    parent: ModelRun | None = None
    swept: Mapping[str, object] = field(default_factory=dict)
    aim: str = ""

    @property
    def purpose(self) -> str:
        """The task of the benchmark that it belongs to."""
        return self.aim or self.task.value

    @property
    def identity(self) -> Identity:
        """What its lines of the table begin with."""
        return self.purpose, self.model, "model", self.seed, self.study

    @property
    def id(self) -> str:
        """Its name in a plan."""
        return self.folder.name

    @property
    def name(self) -> str:
        """Words for the log."""
        part = " (training)" if self.aim and self.parent is None else ""
        return f"{self.purpose} {self.model} seed {self.seed}{part}" + (
            f" {self.study}" if self.study else ""
        )

    @property
    def turn(self) -> str:
        """Seed and study."""
        return f"{self.seed} {self.study}"

    @property
    def work(self) -> str:
        """Task and model."""
        return f"{self.purpose} {self.model}" + (" of another run" if self.parent is not None else "")

    @property
    def output(self) -> Path:
        """The file it writes."""
        return output_of(self.task, self.folder)

    @property
    def model_folder(self) -> Path:
        """Where a run that trains leaves its model."""
        return self.folder / "out.model"

    @property
    def command(self) -> list[str]:
        """The arguments of `mocli`: a finished run does nothing when the command is repeated."""
        return [self.task.value, *(word for group in self.request.groups for word in group.words())]

    def report(self) -> dict[str, Any] | None:
        """Return the report of this run, or of its failure; None if it left none."""
        origin = origin_of(self.task.value, self.request.groups)
        return next(
            (report for path in self._reports if (report := made_from(path, origin)) is not None), None
        )

    def finished(self) -> bool:
        """Say whether the folder holds this run, ended well and with its output."""
        if self.parent is not None and not self.parent.finished():
            return False
        return is_whole(self.report(), self.output)

    def begin(self) -> None:
        """Make the folder; if all is to be done again, without old results, which would hide a failure."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.request.output.unless_done:
            for path in self._reports:
                path.unlink(missing_ok=True)

    @property
    def _reports(self) -> list[Path]:
        return [self.folder / name for name in ("out.report.json", "out.failed.report.json")]

    def process(self, device: str, threads: int) -> Command:
        """Return the process that does it."""
        words = [*self.command, "--device", device, "--threads", str(threads), "--progress", "none"]
        return Command((sys.executable, "-P", "-m", "mocli", *words), own_environment())


def output_of(task: Task, folder: Path) -> Path:
    """Return what a run of a task writes in its folder."""
    return folder / f"out{SUFFIXES.get(task, '.h5mu')}"


def raise_failed(planned: Sequence[ModelRun], models_asked: Sequence[str]) -> None:
    """End with an error, after all is written, where a model that was asked for has no run that ended well.

    Raises `MocliError` with the kind and exit code of the first failure; where no model was named, only if
    all failed.
    """
    runs = [training for training in planned if not training.study]
    reports = {training.name: training.report() or {} for training in runs}
    ended = {training.model for training in runs if reports[training.name].get("status") == "ok"}
    failed = [model for model in dict.fromkeys(training.model for training in runs) if model not in ended]
    if not failed or (ended and not set(failed) & set(models_asked)):
        return
    errors = [reports[t.name].get("error") for t in runs if t.model in failed]
    first = next((error for error in errors if error), None) or {}
    why = first.get("message", "a run ended without a report")
    hint = f"{first['hint']}; " if first.get("hint") else ""
    error = MocliError(
        f"no run of {', '.join(failed)} ended well: {why}",
        hint=f"{hint}the table gives the reason for each run; the same command repeats failed runs",
    )
    error.exit_code, error.kind = first.get("exit_code") or 1, first.get("kind") or "bug"
    raise error


def choose_models(
    options: BenchmarkOptions, ground: Ground, *, links: bool
) -> tuple[dict[str, list[str]], list[tuple[str, str, str]]]:
    """Return the models for each task, and those left out as (task, model, reason).

    Raises `UsageError`: a model that does not exist.
    """
    for name in options.models:
        traits_of(name)
    chosen: dict[str, list[str]] = {}
    skipped = []
    kinds = [f.kind for f in ground.files]
    for task in options.tasks:
        chosen[task] = []
        for name, traits in available().items():
            if options.models and name not in options.models:
                continue
            pairing = ground.plan.relation.pairing
            needed = Task.INTEGRATE if task == RECONSTRUCT else Task(task)
            problem = problem_with(traits, task=needed, pairing=pairing, kinds=kinds, links=links)
            if problem is None and task == Task.GENE2PEAK:
                problem = _no_precision(name, kinds)
            if problem is None and task == RECONSTRUCT:
                problem = _no_reconstruction(traits)
            if problem is None:
                chosen[task].append(name)
            else:
                skipped.append((task, name, problem))
    return chosen, skipped


def _no_precision(name: str, kinds: Sequence[ModalityKind]) -> str | None:
    """Return why a model's links of genes and peaks cannot be judged; None if they can."""
    from mocli.tasks.gene2peak.cells import can_silence

    if not {ModalityKind.RNA, ModalityKind.ATAC} <= set(kinds):
        return "needs expression and accessibility"
    if not can_silence(name):
        return "has no decoder of cells' latent coordinates: it relates genes to peaks by correlation alone"
    return None


def _no_reconstruction(traits: Traits) -> str | None:
    """Return why a model cannot reconstruct cells from all their modalities; None if it can."""
    model = load_class(traits.model)
    if not issubclass(model, EncodesJointly):
        return "places a cell by each modality apart, not by all together"
    return None if issubclass(model, Decodes) else "has no decoder"


def parameters_of(traits: Traits, params_given: Mapping[str, object]) -> dict[str, object]:
    """Return the hyper-parameters among those given that the model has; `model.name` is of one model."""
    names = {f.name for f in fields(params_class(traits))}
    params = {key: value for key, value in params_given.items() if key in names}
    for key, value in params_given.items():
        model, dot, name = key.partition(".")
        if dot and model == traits.name:
            params[name] = value
    return params


def check_parameters(params: Mapping[str, object], models: Sequence[str], *, option: str = "--set") -> None:
    """Raise `UsageError` for a hyper-parameter that no model of the benchmark has."""
    names_by_model = {name: {f.name for f in fields(params_class(traits_of(name)))} for name in models}
    every = {n for names in names_by_model.values() for n in names}
    for key in params:
        model, dot, name = key.partition(".")
        if not (name in names_by_model.get(model, set()) if dot else key in every):
            raise UsageError(
                f"no model of this benchmark has the hyper-parameter '{key}'",
                field=f"{option} {key}",
                hint=did_you_mean(key, sorted(every), "hyper-parameters"),
            )


def check_sets(path: Path | None, models: Sequence[str]) -> None:
    """Read the gene sets before any run does.

    Raises:
        InputError: The file holds none.
        UsageError: No model of the benchmark takes any.
    """
    if path is not None:
        _need_one("uses gene sets", "--gene-sets", models, lambda traits: traits.uses_sets)
        read_gene_sets(path)


def check_weights(key: str | None, models: Sequence[str], files: Sequence[ModalityFile]) -> None:
    """Find the column of cells' weights before any run does.

    Raises:
        InputError: No file has it.
        UsageError: No model of the benchmark weighs cells.
    """
    if key is not None:
        _need_one("weighs cells", "--weight-key", models, takes_weights)
        find_column(files, key, option="--weight-key")


def _need_one(what: str, option: str, models: Sequence[str], can: Callable[[Traits], bool]) -> None:
    if not any(can(traits_of(name)) for name in models):
        takers = ", ".join(name for name, traits in available().items() if can(traits))
        raise UsageError(
            f"no model of this benchmark {what}",
            field=option,
            found=", ".join(models),
            hint=f"leave it out, or add to --models: {takers}",
        )


def safe(text: str) -> str:
    """Return text as part of a file's name."""
    text_safe = re.sub(r"[^\w.+-]", "-", text)
    # two texts must not share a folder
    return text_safe if text_safe == text else f"{text_safe}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
