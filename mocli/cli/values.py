"""Values of options: choices, devices, durations, KEY=VALUE pairs; each error names the nearest choice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from mocli.cli.durations import parse_duration
from mocli.cli.origin import origin_of
from mocli.cli.sizes import parse_size
from mocli.errors import UsageError, did_you_mean
from mocli.models.registry import traits_of

Callback = Callable[[typer.Context, typer.CallbackParam, Any], Any]


def option_name(param: typer.CallbackParam) -> str:
    """Return the long name of an option, or the plain name of an argument."""
    return next((opt for opt in param.opts if opt.startswith("--")), str(param.name))


def _where(ctx: typer.Context, param: typer.CallbackParam) -> str:
    name, origin = option_name(param), origin_of(ctx, param)
    return name if origin == "command line" else f"{name} ({origin})"


def choice(*choices: str) -> Callback:
    """Accept one of `choices` only."""

    def check(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise UsageError(
                f"'{value}' is no value of {option_name(param)}",
                field=_where(ctx, param),
                expected=", ".join(choices),
                hint=did_you_mean(value, choices),
            )
        return value

    return check


def device(ctx: typer.Context, param: typer.CallbackParam, value: str) -> str:
    """Accept `auto`, `cpu`, `cuda`, `cuda:N`, `mps`; whether it exists is for the run to find."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        choices = ["auto", "cpu", "cuda", "cuda:0", "mps"]
        raise UsageError(
            f"'{value}' is no device",
            field=_where(ctx, param),
            expected="auto, cpu, cuda, cuda:N or mps",
            hint=did_you_mean(value, choices),
        )
    return value


def model(ctx: typer.Context, param: typer.CallbackParam, value: str) -> str:
    """Accept `auto` or a model of the registry."""
    if value != "auto":
        traits_of(value)
    return value


def positive(ctx: typer.Context, param: typer.CallbackParam, value: float | None) -> float | None:
    """Accept a finite number above zero."""
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(
            f"{option_name(param)} must be above zero", field=_where(ctx, param), found=str(value)
        )
    return value


def duration(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    """Check a duration; the text stays as written, for `--print-config`."""
    if value is not None:
        parse_duration(value, _where(ctx, param))
    return value


def size(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    """Check an amount of memory; the text stays as written, for `--print-config`."""
    if value is not None:
        parse_size(str(value), _where(ctx, param))
    return value


@dataclass(frozen=True)
class Pairs:
    """Marks a repeatable option of the form KEY=VALUE; several layers merge key by key.

    Attributes
    ----------
    form
        How to write it, for messages: `MOD=LAYER`.
    parse
        From text (or a value of the config file) and the option's name to the value.
    """

    form: str
    parse: Callable[[Any, str], Any]

    def read(self, items: Sequence[str], option: str) -> dict[str, Any]:
        """Return the mapping that `KEY=VALUE` items spell; a later key replaces an earlier one."""
        found: dict[str, Any] = {}
        for item in items:
            key, equals, value = item.partition("=")
            if not (key.strip() and equals and value.strip()):
                raise UsageError(
                    f"{option} takes {self.form}", field=option, found=repr(item), expected=self.form
                )
            found[key.strip()] = self.parse(value.strip(), option)
        return found


def text(value: Any, option: str) -> str:
    """Take a value as text."""
    if isinstance(value, (bool, dict, list)) or value is None:
        raise UsageError(
            f"{option} takes text", field=option, found=repr(value), hint="put the value in quotes"
        )
    return str(value)


def count(value: Any, option: str) -> int:
    """Take a value as a whole number above zero."""
    if not isinstance(value, bool) and re.fullmatch(r"\+?\d+", str(value)) and int(value) > 0:
        return int(value)
    raise UsageError(f"{option} takes a whole number above zero", field=option, found=repr(value))


def share_or_count(value: Any, option: str) -> float:
    """Take a value as a share above zero and below one, or as a whole number from one on."""
    found = scalar(value, option)
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        if 0 < found < 1:
            return float(found)
        if found >= 1 and found == found // 1:
            return int(found)
    raise UsageError(
        f"{option} takes a share of the cells or a number of them",
        field=option,
        found=repr(value),
        expected="a number below one such as 0.01, or a whole one such as 10",
    )


def among(*choices: str) -> Callable[[Any, str], str]:
    """Take one of `choices`."""

    def parse(value: Any, option: str) -> str:
        if value not in choices:
            raise UsageError(
                f"'{value}' is no value of {option}",
                field=option,
                expected=", ".join(choices),
                hint=did_you_mean(str(value), choices),
            )
        return str(value)

    return parse


def scalar(value: Any, option: str) -> Any:
    """Take a number, true, false, null or a JSON list as what it is; anything else as text.

    `1e-3` is a number here, though YAML 1.1 reads it as text.
    """
    if not isinstance(value, str):
        return value
    words: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
    if value.lower() in words:
        return words[value.lower()]
    if re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        return float(value)
    if value[:1] in '[{"':
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
