"""The runs of a benchmark: which model, seed and study, in which folder, by which command."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from mocli import __version__
from mocli.data.files.obs import find_column
from mocli.data.links.genesets import read_gene_sets
from mocli.errors import MocliError, UsageError, did_you_mean
from mocli.models.parameters import params_class
from mocli.models.registry import available, traits_of
from mocli.options import declared_in
from mocli.tasks.benchmark.options import TASKS, BenchmarkOptions
from mocli.tasks.benchmark.processes import (
    Command,
    begin_folder,
    hash_of,
    own_environment,
    was_begun_with,
)
from mocli.tasks.prepare.select import problem_with, takes_weights
from mocli.tasks.run.options import RunOptions
from mocli.types import ModalityKind, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mocli.data.files.modality import ModalityFile
    from mocli.models.base import Traits
    from mocli.tasks.benchmark.ground import Ground

SUFFIXES = {Task.IMPUTE: ".h5ad", Task.GENE2PEAK: ".tsv"}
"""Of what runs write, where it is not .h5mu."""
VOLATILE = frozenset(d.long for d in declared_in(RunOptions).values() if "volatile" in d.option.marks)
"""Options that do not change what a finished run says."""


@dataclass(frozen=True)
class Study:
    """A change of the data or of a loss, under which models are trained again.

    Attributes
    ----------
    name
        `panel=30`; empty for the benchmark itself.
    params
        Hyper-parameters that it sets.
    links
        Tables that replace those given; by seed, as they are drawn at random.
    words
        Options that it adds.
    tasks
        Tasks that it says something of.
    """

    name: str = ""
    params: Mapping[str, object] = field(default_factory=dict)
    links: Mapping[int, Path] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    tasks: frozenset[Task] = frozenset(TASKS)


@dataclass(frozen=True, eq=False)
class ModelRun:
    """One run of one model in a process and a folder of its own.

    Attributes
    ----------
    parent
        The run whose model this one takes; None for one that trains.
    """

    task: Task
    model: str
    seed: int
    study: str
    folder: Path
    words: tuple[str, ...]
    files: tuple[Path, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    parent: ModelRun | None = None

    @property
    def name(self) -> str:
        """Words for the log."""
        return f"{self.task} {self.model} seed {self.seed}" + (f" {self.study}" if self.study else "")

    @property
    def turn(self) -> str:
        """Seed and study."""
        return f"{self.seed} {self.study}"

    @property
    def work(self) -> str:
        """Task and model."""
        return f"{self.task} {self.model}"

    @property
    def output(self) -> Path:
        """What it writes."""
        return self.folder / f"out{SUFFIXES.get(self.task, '.h5mu')}"

    @property
    def model_folder(self) -> Path:
        """Where a run that trains leaves its model."""
        return self.folder / "out.model"

    @property
    def command(self) -> list[str]:
        """The words after `mocli`, less device and threads."""
        return [*self.words, "--output", str(self.output)]

    def fingerprint(self) -> dict[str, Any]:
        """Return what must be the same for a finished run to be this one."""
        kept, words = [], iter(self.words)
        for word in words:
            if word in VOLATILE:
                next(words)
            else:
                kept.append(word)
        taken = () if self.parent is None else sorted(self.parent.model_folder.glob("*"))
        hashes = {str(path): hash_of(path) for path in (*self.files, *taken)}
        # defaults as well: a later mocli may have others
        params = json.loads(json.dumps(dict(self.params)))
        return {"words": kept, "files": hashes, "params": params, "seed": self.seed, "mocli": __version__}

    def report(self) -> dict[str, Any] | None:
        """Return the report of the run, or of its failure; None where it left none."""
        for name in ("out.report.json", "out.failed.report.json"):
            try:
                found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            return found
        return None

    def finished(self) -> bool:
        """Whether the folder holds a run with this fingerprint that ended well, output and all."""
        if self.parent is not None and not self.parent.finished():
            return False
        report = self.report()
        if report is None or report["status"] != "ok" or not was_begun_with(self.folder, self.fingerprint()):
            return False
        read = {one["sha256"] for one in report["inputs"]}
        mine = report["seed"] == self.seed and report["tool"]["version"] == __version__
        written = next((o for o in report["outputs"] if o["path"] == str(self.output)), None)
        return (
            mine
            and read <= set(self.fingerprint()["files"].values())
            and written is not None
            and self.output.exists()
            and self.output.stat().st_size == written["bytes"]
        )

    def begin(self) -> None:
        """Make the folder, without what an earlier run of other words left in it; keep its checkpoint."""
        results = ("out.report.json", "out.failed.report.json", self.output.name)
        begin_folder(self.folder, self.fingerprint(), results)

    def process(self, device: str, threads: int) -> Command:
        """Return the process that does it."""
        words = [*self.command, "--device", device, "--threads", str(threads), "--progress", "none"]
        if self.output.exists():
            words.append("--force")
        return Command((sys.executable, "-P", "-m", "mocli", *words), own_environment())


def raise_failed(planned: Sequence[ModelRun], asked: Sequence[str]) -> None:
    """End with an error, after all is written, where a model that was asked for has no run that ended well.

    Raises
    ------
    MocliError
        With the kind and exit code of the first failure; where no model was named, only if all failed.
    """
    runs = [training for training in planned if not training.study]
    reports = {training.name: training.report() or {} for training in runs}
    ended = {training.model for training in runs if reports[training.name].get("status") == "ok"}
    failed = [model for model in dict.fromkeys(training.model for training in runs) if model not in ended]
    if not failed or (ended and not set(failed) & set(asked)):
        return
    errors = [reports[t.name].get("error") for t in runs if t.model in failed]
    first = next((error for error in errors if error), None) or {}
    why = first.get("message", "a run ended without a report")
    hint = f"{first['hint']}; " if first.get("hint") else ""
    error = MocliError(
        f"no run of {', '.join(failed)} ended well: {why}",
        hint=f"{hint}the table says why of each run, the same command runs again what failed",
    )
    error.exit_code, error.kind = first.get("exit_code") or 1, first.get("kind") or "bug"
    raise error


def choose_models(
    asked: BenchmarkOptions, ground: Ground, *, links: bool
) -> tuple[dict[Task, list[str]], list[tuple[Task, str, str]]]:
    """Return the models for each task, and those left out as (task, model, reason).

    Raises
    ------
    UsageError
        A model that does not exist.
    """
    for name in asked.models:
        traits_of(name)
    chosen: dict[Task, list[str]] = {}
    skipped = []
    kinds = [f.kind for f in ground.files]
    for task in asked.tasks:
        chosen[task] = []
        for name, traits in available().items():
            if asked.models and name not in asked.models:
                continue
            pairing = ground.made.relation.pairing
            problem = problem_with(traits, task=task, pairing=pairing, kinds=kinds, links=links)
            if problem is None and task is Task.GENE2PEAK:
                problem = _no_precision(name, kinds)
            if problem is None:
                chosen[task].append(name)
            else:
                skipped.append((task, name, problem))
    return chosen, skipped


def _no_precision(name: str, kinds: Sequence[ModalityKind]) -> str | None:
    """Return why a model's links of genes and peaks cannot be judged; None where they can."""
    from mocli.tasks.gene2peak.cells import can_silence

    if not {ModalityKind.RNA, ModalityKind.ATAC} <= set(kinds):
        return "needs expression and accessibility"
    if not can_silence(name):
        return "has no decoder of cells' places: it relates genes to peaks by correlation alone"
    return None


def parameters_of(traits: Traits, given: Mapping[str, object]) -> dict[str, object]:
    """Return the hyper-parameters among those given that the model has; `model.name` is of one model."""
    own = {f.name for f in fields(params_class(traits))}
    found = {key: value for key, value in given.items() if key in own}
    for key, value in given.items():
        model, dot, name = key.partition(".")
        if dot and model == traits.name:
            found[name] = value
    return found


def check_parameters(given: Mapping[str, object], models: Sequence[str]) -> None:
    """Raise `UsageError` for a hyper-parameter that no model of the benchmark has."""
    known = {name: {f.name for f in fields(params_class(traits_of(name)))} for name in models}
    every = {n for names in known.values() for n in names}
    for key in given:
        model, dot, name = key.partition(".")
        if not (name in known.get(model, set()) if dot else key in every):
            raise UsageError(
                f"no model of this benchmark has the hyper-parameter '{key}'",
                field=f"--set {key}",
                hint=did_you_mean(key, sorted(every), "hyper-parameters"),
            )


def check_sets(path: str | None, models: Sequence[str]) -> None:
    """Read the sets of genes before any run does.

    Raises
    ------
    InputError
        The file holds none.
    UsageError
        No model of the benchmark takes any.
    """
    if path is None:
        return
    if not any(traits_of(name).uses_sets for name in models):
        takers = ", ".join(name for name, traits in available().items() if traits.uses_sets)
        raise UsageError(
            "no model of this benchmark uses gene sets",
            field="--gene-sets",
            found=", ".join(models),
            hint=f"leave it out, or add to --models: {takers}",
        )
    read_gene_sets(path)


def check_weights(key: str | None, models: Sequence[str], files: Sequence[ModalityFile]) -> None:
    """Find the column of cells' weights before any run does.

    Raises
    ------
    InputError
        No file has it.
    UsageError
        No model of the benchmark weighs cells.
    """
    if key is None:
        return
    if not any(takes_weights(traits_of(name)) for name in models):
        takers = ", ".join(name for name, traits in available().items() if takes_weights(traits))
        raise UsageError(
            "no model of this benchmark weighs cells",
            field="--weight-key",
            found=", ".join(models),
            hint=f"leave it out, or add to --models: {takers}",
        )
    find_column(files, key, option="--weight-key")


def safe(text: str) -> str:
    """Return text as part of a file's name."""
    found = re.sub(r"[^\w.+-]", "-", text)
    # two texts must not share a folder
    return found if found == text else f"{found}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
