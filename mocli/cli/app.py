"""The typer application: subcommands in workflow order, then the helpers.

A subcommand is a folder of `mocli.tasks` with its options and its function, both of its name.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from mocli import __version__
from mocli.cli import helpers
from mocli.cli.command import CONTEXT, EPILOG, CommandOptions, PlainCommand, PlainGroup, command_of
from mocli.cli.links import links
from mocli.cli.output import emit
from mocli.options import Options
from mocli.tasks.run.options import DataOptions, OutputOptions, RunOptions, TrainOptions
from mocli.types import Task

SHARED: tuple[type[Options], ...] = (DataOptions, OutputOptions, TrainOptions, RunOptions, CommandOptions)
WITHOUT_INPUT = frozenset({Task.SIMULATE})


WORKFLOW = "Commands, in the order of a workflow"
HELPERS = "Helpers"


def options_of(task: str) -> type[Options]:
    """Return the class of a subcommand's own options: `ImputeOptions` of `mocli.tasks.impute.options`."""
    known = vars(import_module(f"mocli.tasks.{task}.options"))
    options: Any = next(value for name, value in known.items() if name.lower() == f"{task}options")
    return options  # type: ignore[no-any-return]


def subcommands() -> list[Callable[..., None]]:
    """Return the commands in the order of a workflow."""
    commands = []
    for task in Task:
        own = options_of(task)
        path = f"mocli.tasks.{task}.{task}:{task}"
        commands.append(command_of(path, (own, *SHARED), about=own, needs_input=task not in WITHOUT_INPUT))
    return commands


app = typer.Typer(
    name="mocli",
    cls=PlainGroup,
    context_settings=CONTEXT,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    invoke_without_command=True,
)

for subcommand in subcommands():
    app.command(cls=PlainCommand, rich_help_panel=WORKFLOW, context_settings=CONTEXT, epilog=EPILOG)(
        subcommand
    )
for helper in (helpers.models, helpers.params, helpers.demo, helpers.doctor):
    app.command(cls=PlainCommand, rich_help_panel=HELPERS, context_settings=CONTEXT)(helper)
app.add_typer(links, name="links", rich_help_panel=HELPERS)


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        emit(__version__)
        raise typer.Exit


@app.callback()
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
