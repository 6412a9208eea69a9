"""The typer application: subcommands in workflow order, then the helpers."""

from typing import Annotated

import typer

from mocli import __version__
from mocli.cli import helpers
from mocli.cli.command import CONTEXT, EPILOG, Command, Group
from mocli.cli.links import links
from mocli.cli.output import emit
from mocli.cli.verbs import subcommands

WORKFLOW = "Commands, in the order of a workflow"
HELPERS = "Helpers"

app = typer.Typer(
    name="mocli",
    cls=Group,
    context_settings=CONTEXT,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    invoke_without_command=True,
)

for subcommand in subcommands():
    app.command(cls=Command, rich_help_panel=WORKFLOW, context_settings=CONTEXT, epilog=EPILOG)(subcommand)
for helper in (helpers.models, helpers.params, helpers.demo, helpers.doctor):
    app.command(cls=Command, rich_help_panel=HELPERS, context_settings=CONTEXT)(helper)
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
