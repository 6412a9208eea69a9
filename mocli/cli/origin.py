"""Where the value of an option came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

CONFIG_META = "mocli.config"
DEFAULT = "default"
COMMAND_LINE = "command line"


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


def rank(origin: str) -> int:
    """Return the precedence of an origin; higher wins."""
    order = [DEFAULT, "config file", "environment", COMMAND_LINE]
    return next(i for i, start in enumerate(order) if origin.startswith(start))
