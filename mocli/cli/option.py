"""One option of the command line: its environment variable and what all options share."""

from typing import Any

import typer

from mocli.cli.values import Callback


def variable(name: str) -> str:
    """Return the environment variable that sets an option: `MOCLI_` and its long name."""
    return "MOCLI_" + name.split("/")[0].removeprefix("--").replace("-", "_").upper()


def option(
    *names: str,
    panel: str,
    help: str,
    metavar: str = "",
    check: Callback | None = None,
    least: int | None = None,
    **more: Any,
) -> Any:
    """Return an option with the settings common to all."""
    return typer.Option(
        *names,
        help=help,
        rich_help_panel=panel,
        metavar=metavar,
        callback=check,
        min=least,
        envvar=variable(names[0]),
        show_envvar=False,
        **more,
    )
