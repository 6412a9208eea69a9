"""From option groups to a typer command: one flat signature, one `Settings` out."""

from __future__ import annotations

import inspect
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from mocli.cli.config import load_config
from mocli.cli.settings import Settings
from mocli.cli.stdout import emit
from mocli.cli.values import Pairs

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT = {"help_option_names": ["-h", "--help"]}
EPILOG = "Every option can also be given as MOCLI_NAME in the environment or as name: in a --config file."


def with_options(*groups: type) -> Callable[[Callable[[Settings], None]], Callable[..., None]]:
    """Give a command the options of `groups`; the function receives the resolved settings.

    `--print-config` ends here: the function is not called.
    """
    pairs = {
        name: mark
        for group in groups
        for name, hint in get_type_hints(group, include_extras=True).items()
        for mark in get_args(hint)
        if isinstance(mark, Pairs)
    }

    def decorate(function: Callable[[Settings], None]) -> Callable[..., None]:
        def command(ctx: typer.Context, **raw: Any) -> None:
            settings = Settings.resolve(ctx, raw, pairs)
            if raw.get("print_config"):
                emit(settings.to_yaml())
            else:
                function(settings)

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
        for group in groups:
            hints = get_type_hints(group, include_extras=True)
            for f in fields(group):
                hint = _loading(hints[f.name], frozenset(pairs)) if f.name == "config" else hints[f.name]
                parameters.append(inspect.Parameter(f.name, keyword, default=f.default, annotation=hint))
        # typer reads both
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__module__ = function.__module__
        return command

    return decorate


def _loading(hint: Any, pairs: frozenset[str]) -> Any:
    """Let `--config` fill the defaults of this command before any other option is read."""
    kind, info, *_ = get_args(hint)

    def load(ctx: typer.Context, value: Path | None) -> Path | None:
        if value is not None:
            load_config(ctx, value, pairs)
        return value

    info = copy(info)
    info.callback = load
    return Annotated[kind, info]
