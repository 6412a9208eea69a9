"""A trained model, loaded from a given folder or trained now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mocli.data.files.modality import ModalityFile
from mocli.errors import UsageError
from mocli.models.registry import available, traits_of
from mocli.tasks.prepare.aim import Aim
from mocli.tasks.prepare.footprint import footprint_of_given, tell_memory
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.saved import SavedModel, load_model
from mocli.tasks.trained.train import Trained, train_model
from mocli.types import Task


@dataclass(frozen=True, eq=False)
class Obtained:
    """A model with everything needed to use it.

    `trained`: the training, if it was in this run.
    """

    saved: SavedModel
    trained: Trained | None = None


def obtain(
    run: Run, request: Request, from_model: Path | None, aim: Aim, files: Sequence[ModalityFile]
) -> Obtained:
    """Load the model of a folder, or train one on the files where no folder is given.

    Raises `InputError` or `UsageError`: the folder holds no model, or one that cannot do the task; the files
    cannot be trained on.
    """
    if from_model is not None:
        return Obtained(load_given(run, request, from_model, aim.task, files))
    trained = train_model(run, request, aim, files)
    saved = load_model(run.paths.model)
    run.add_output(run.paths.model, "the trained model")
    return Obtained(saved, trained)


def load_given(
    tell: Tell, request: Request, from_model: Path, task: Task, files: Sequence[ModalityFile]
) -> SavedModel:
    """Load a model that is trained already, and say which options have no effect on it."""
    saved = load_model(from_model)
    tell.say(f"model: {saved.description['model']} from {from_model}")
    for note in (note for f in files for note in f.notes):
        tell.say(note)
    check_task(saved.description["model"], task)
    tell_memory(tell, footprint_of_given(files, from_model, task))
    request.tell_unused(tell.warn)
    return saved


def foresee_given(
    tell: Tell, request: Request, from_model: Path, task: Task, files: Sequence[ModalityFile]
) -> SavedModel:
    """Log what is given; a dry run opens all that the run opens, including a model's weights."""
    for f in files:
        tell.say(f.summary)
    return load_given(tell, request, from_model, task, files)


def check_task(model: str, task: Task) -> None:
    """Raise `UsageError` where a model cannot do a task; the message names those that can."""
    if task not in traits_of(model).tasks:
        able = [name for name, traits in available().items() if task in traits.tasks]
        raise UsageError(
            f"{model} cannot {task}", field="--from-model", hint="these models can: " + ", ".join(able)
        )
