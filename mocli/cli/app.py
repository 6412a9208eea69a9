"""The typer application: subcommands in workflow order, then the helpers.

A subcommand is a folder of `mocli.tasks` with its options and its function, both of its name. The docstring
of the folder is its help, whose first sentence stands in the list of all.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated

import typer

from mocli import __version__
from mocli.cli import helpers
from mocli.cli.links import links
from mocli.cli.output import emit
from mocli.cli.parameters import CONTEXT, EPILOG, PlainCommand, PlainGroup
from mocli.types import Task

WORKFLOW = "Commands, in the order of a workflow"
HELPERS = "Helpers"
WITHOUT_INPUT = frozenset({Task.SIMULATE})


def subcommand(task: Task) -> Callable[..., None]:
    """Return the command of a subcommand, with all its options."""
    from mocli.cli.command import SHARED, command_of, options_of

    path, groups = f"mocli.tasks.{task}.{task}:{task}", (options_of(task), *SHARED)
    return command_of(path, groups, about=_about(task), needs_input=task not in WITHOUT_INPUT)


def _about(task: Task) -> str:
    """Return the help of a subcommand; its options are not imported for it."""
    return (import_module(f"mocli.tasks.{task}").__doc__ or "").strip()


def _named_only(task: Task) -> Callable[..., None]:
    """Return a command that is only listed: those with options take time to make."""

    def command() -> None: ...

    command.__name__, command.__doc__ = task.value, _about(task)
    return command


def build(only: str | None = None) -> typer.Typer:
    """Make the application; with `only`, no other subcommand than this has its options."""
    app = typer.Typer(
        name="mocli",
        cls=PlainGroup,
        context_settings=CONTEXT,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        invoke_without_command=True,
        callback=mocli,
    )
    for task in Task:
        add = app.command(cls=PlainCommand, rich_help_panel=WORKFLOW, context_settings=CONTEXT, epilog=EPILOG)
        add(subcommand(task) if only in {None, task} else _named_only(task))
    for helper in (helpers.models, helpers.params, helpers.demo, helpers.doctor, helpers.export):
        app.command(cls=PlainCommand, rich_help_panel=HELPERS, context_settings=CONTEXT)(helper)
    app.add_typer(links, name="links", rich_help_panel=HELPERS)
    return app


def needed(argv: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return the word that chooses a command, for `build`; None if a shell asks for completions."""
    if "_MOCLI_COMPLETE" in environment:
        return None
    return next((word for word in argv if not word.startswith("-")), "")


def __getattr__(name: str) -> typer.Typer:
    """Make the whole application, `app`, when it is asked for."""
    if name == "app":
        return build()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        emit(__version__)
        raise typer.Exit


def mocli(
    ctx: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            show_envvar=False,
            help="Print the version",
            metavar="",
        ),
    ] = False,
) -> None:
    """Single-cell multi-omics from the command line."""
    if ctx.invoked_subcommand is None:
        emit(ctx.get_help())
