"""The subcommands: each is a folder of `mocli.tasks` with its options and its function, both of its name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mocli.cli.command import CommandOptions, command_of
from mocli.options import Options
from mocli.tasks.run.options import DataOptions, OutputOptions, RunOptions, TrainOptions
from mocli.types import Task

SHARED: tuple[type[Options], ...] = (DataOptions, OutputOptions, TrainOptions, RunOptions, CommandOptions)
WITHOUT_INPUT = frozenset({Task.SIMULATE})


def options_of(task: str) -> type[Options]:
    """Return the class of a subcommand's own options: `ImputeOptions` of `mocli.tasks.impute.options`."""
    known = vars(import_module(f"mocli.tasks.{task}.options"))
    found: Any = next(value for name, value in known.items() if name.lower() == f"{task}options")
    return found  # type: ignore[no-any-return]


def subcommands() -> list[Callable[..., None]]:
    """Return the commands in the order of a workflow."""
    commands = []
    for task in Task:
        own = options_of(task)
        path = f"mocli.tasks.{task}.{task}:{task}"
        commands.append(command_of(path, (own, *SHARED), about=own, needs_input=task not in WITHOUT_INPUT))
    return commands
