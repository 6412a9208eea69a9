"""Parameters of all commands: how help shows them, how helpers declare them, what a shell proposes for them.

No option of a subcommand is imported here: `mocli -h` does without them. Completions may neither fail nor
write: a shell asks at every press of the tab key. Input files on the line are only read for names.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from mocli.options import OptionField
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


MOST_VALUES = 200
"""Most levels of a column that are proposed."""

Complete = Callable[[str], list[str]]


def completion_of(declared: OptionField) -> Complete | None:
    """Return a function that completes values of an option; None where the shell's own (files) are best."""
    option = declared.option
    form = option.metavar

    def complete(incomplete: str) -> list[str]:
        try:
            proposals = _proposals(declared, _words(), incomplete)
            return sorted(word for word in dict.fromkeys(proposals) if word.startswith(incomplete))
        except Exception:  # noqa: BLE001 - the line that is being typed must not be disturbed
            return []

    has_words = (
        option.choices or form.startswith(("MOD", "COLUMN", "LEVEL")) or "|auto" in form or "auto|" in form
    )
    return complete if has_words or declared.name == "models" else None


def _words() -> list[str]:
    """Return the line as the shell gives it: an option without its value keeps a parser from the inputs."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return [word for word in shlex.split(line)[1:] if not word.startswith("-")]


def _proposals(declared: OptionField, inputs: Iterable[str], incomplete: str) -> Iterable[str]:
    form, choices = declared.option.metavar, declared.option.choices
    if declared.name == "models":
        from mocli.models.registry import available

        before = incomplete.rpartition(",")[0]
        before_names = set(before.split(","))
        return [f"{before}," * bool(before) + name for name in available() if name not in before_names]
    if choices or not form.startswith(("MOD", "COLUMN")):
        return choices or [word for word in form.split("|") if word.islower()]
    name, equals, _ = incomplete.partition("=")
    if form.startswith("MOD"):
        modalities = _modalities(inputs)
        if "=" not in form or not equals:
            return [m + "=" * ("=" in form) for m in modalities]
        return [f"{name}={value}" for value in _values_of(declared, modalities.get(name, {}))]
    columns = {k: v for obs in _modalities(inputs).values() for k, v in obs["obs"].items()}
    if form == "COLUMN=VALUE":
        return [f"{name}={level}" for level in columns[name]()] if equals else [f"{c}=" for c in columns]
    return columns


def _values_of(declared: OptionField, modality: dict[str, Any]) -> Iterable[str]:
    from mocli.tasks.run.options import KINDS

    if declared.name == "layer":
        return ["X", *modality.get("layers", ())]
    if declared.name == "kind":
        return KINDS
    words = declared.option.help.replace(" or ", ", ").split(", ")
    return words if declared.name in {"transform", "likelihood"} else ()


def _modalities(inputs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return by modality its layers and its columns of obs, each with a function that reads the levels."""
    import h5py

    from mocli.data.files.hdf5 import open_h5
    from mocli.data.files.source import parse_source

    by_modality: dict[str, dict[str, Any]] = {}
    for text in inputs:
        source = parse_source(text)
        if not source.path.is_file() or not h5py.is_hdf5(source.path):
            continue
        with open_h5(source.path) as file:
            groups = dict(file["mod"].items()) if "mod" in file else {source.path.stem: file}
            for name, group in groups.items():
                if source.modality in {None, name}:
                    columns = [k for k in group["obs"] if not k.startswith("_")]
                    by_modality[source.name or name] = {
                        "layers": list(group.get("layers", ())),
                        "obs": {k: _levels(source.path, group["obs"].name, k) for k in columns},
                    }
    return by_modality


def _levels(path: Path, group: str, column: str) -> Callable[[], list[str]]:
    def read() -> list[str]:
        import h5py

        from mocli.data.files.hdf5 import open_h5

        with open_h5(path) as file:
            item = file[group][column]
            levels = item["categories"] if isinstance(item, h5py.Group) else item
            return sorted({str(level) for level in levels.asstr()[:MOST_VALUES]})

    return read
