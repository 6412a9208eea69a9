"""Parameters of all commands: how help shows them, how helpers declare them, where a value came from.

No option of a subcommand is imported here: `mocli -h` does without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from mocli.parsing import Parser

CONTEXT = {"help_option_names": ["-h", "--help"]}
EPILOG = "Every option can also be given as MOCLI_NAME in the environment or as name: in a --config file."
COMMAND = "Command"
MOST_FORM = 24  # letters of an option's form that have room in a terminal of 80
CONFIG_META = "mocli.config"
DEFAULT = "default"
COMMAND_LINE = "command line"


class PlainCommand(TyperCommand):
    """A command whose help names no types of Python."""

    def get_params(self, ctx: Any) -> Any:
        """Return all parameters; those without a value have no type."""
        params = super().get_params(ctx)
        for param in params if ctx.resilient_parsing else ():
            param.hidden = False  # type: ignore[attr-defined] # a shell completes all of them
        return _untyped(params)


class PlainGroup(TyperGroup):
    """A group of commands whose help names no types of Python."""

    def get_params(self, ctx: Any) -> Any:
        """Return all parameters; those without a value have no type."""
        return _untyped(super().get_params(ctx))


def _untyped(params: Sequence[Any]) -> Sequence[Any]:
    for param in params:
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None
        elif param.metavar is None:
            param.metavar = ""
        if param.name == "help" and any(p.name == "help_all" for p in params):
            param.rich_help_panel = COMMAND
    return params


def usage(words: str, help: str, **more: Any) -> Any:
    """Return an option of a helper by how it is used, such as `--output -o FILE`; no variable sets it."""
    names = [word for word in words.split() if word.startswith("-")]
    metavar, help = spelled(" ".join(words.split()[len(names) :]), help)
    return typer.Option(*names, metavar=metavar, help=help, show_envvar=False, **more)


def spelled(form: str, help: str) -> tuple[str, str]:
    """Return form and help of an option as shown: many words are listed in the help.

    A narrow terminal would break them in the middle of one.
    """
    key, equals, words = form.rpartition("=")
    if len(form) <= MOST_FORM or "|" not in words:
        return form, help
    return f"{key}{equals}WORD", f"{help}; one of {', '.join(words.split('|'))}"


def origin_of(ctx: typer.Context, param: Any) -> str:
    """Return `command line`, `environment MOCLI_X`, `config file F` or `default`."""
    source = ctx.get_parameter_source(str(param.name))
    name = "DEFAULT" if source is None else source.name
    if name == "ENVIRONMENT":
        return f"environment {param.envvar}"
    if name == "DEFAULT_MAP":
        return config_origin(ctx)
    return COMMAND_LINE if name == "COMMANDLINE" else DEFAULT


def config_origin(ctx: typer.Context) -> str:
    """Name the config file in use."""
    config = ctx.meta.get(CONFIG_META)
    return f"config file {config.path}" if config is not None else "config file"


Callback = Callable[[typer.Context, typer.CallbackParam, Any], Any]


def checked(read: Parser) -> Callback:
    """Read a value early, so that an error names its origin; a config keeps it as written."""

    def check(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
        long, origin = next(opt for opt in param.opts if opt.startswith("--")), origin_of(ctx, param)
        if value is not None:
            read(value, long if origin == COMMAND_LINE else f"{long} ({origin})")
        return value

    return check
