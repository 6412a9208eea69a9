"""From declared options to a typer command: one flat signature, completions, one call of the subcommand.

Completions may neither fail nor write: a shell asks at every press of the tab key. Input files on the line
are only read for names.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from mocli import log
from mocli.cli.output import emit
from mocli.cli.settings import Settings, load_config, origin_of
from mocli.errors import UsageError, did_you_mean, nearest
from mocli.models.registry import available, load_class
from mocli.options import OptionField, Options, declared_by, declared_in, gone_from, option
from mocli.parsing import Parser, names
from mocli.tasks.run.options import (
    DATA,
    INPUT,
    OUTPUT,
    RUN,
    TRAINING,
    DataOptions,
    OutputOptions,
    RunOptions,
    TrainOptions,
)
from mocli.types import Task

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


CONTEXT = {"help_option_names": ["-h", "--help"]}
EPILOG = "Every option can also be given as MOCLI_NAME in the environment or as name: in a --config file."

COMMAND = "Command"
MOST_FORM = 24  # letters of an option's form that have room in a terminal of 80
PANELS = (INPUT, OUTPUT, DATA, TRAINING, RUN, COMMAND)


@dataclass(frozen=True)
class CommandOptions(Options):
    """Configuration, dry run, logs: nothing that changes a result."""

    PANEL: ClassVar = COMMAND

    config: Path | None = option(
        "--config -c FILE",
        "YAML with long option names as keys; paths are relative to the working directory",
        more={"is_eager": True},
    )
    print_config: bool = option(
        "--print-config",
        "Print the resolved configuration with its origins; run nothing",
        default=False,
        marks="advanced",
    )
    dry_run: bool = option("--dry-run -n", "Check everything and report what would be done", default=False)
    verbose: int = option(
        "--verbose -v", "Log more", default=0, marks="advanced", more={"count": True, "show_default": False}
    )
    quiet: int = option(
        "--quiet -q",
        "Log warnings only; -qq: errors only",
        default=0,
        marks="advanced",
        more={"count": True, "show_default": False},
    )
    log_format: str = option(
        "--log-format",
        "Format of stderr and OUT.log",
        default="text",
        marks="advanced",
        choices=("text", "json"),
    )
    progress: str = option(
        "--progress",
        "auto: a bar on a terminal, else a line now and then",
        default="auto",
        marks="advanced",
        choices=("auto", "bar", "plain", "none"),
    )


SHARED: tuple[type[Options], ...] = (DataOptions, OutputOptions, TrainOptions, RunOptions, CommandOptions)


def options_of(task: str) -> type[Options]:
    """Return the class of a subcommand's own options: `ImputeOptions` of `mocli.tasks.impute.options`."""
    names = vars(import_module(f"mocli.tasks.{task}.options"))
    return next(value for name, value in names.items() if name.lower() == f"{task}options")


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


def command_of(task: str, groups: Sequence[type[Options]], about: type, **how: Any) -> Callable[..., None]:
    """Make the command of a subcommand that has the options of `groups`.

    `--print-config` prints them and ends, `--dry-run` prints the plan and `--report -` the report of the
    function `task` (`package.module:function`, imported only then) to stdout.

    Args:
        about: Its docstring is the help text.
        how: Passed on to `run`.
    """
    declared_options = by_panel(declared_by(groups), groups[0].PANEL)

    def command(ctx: typer.Context, **raw: Any) -> None:
        raw.pop("help_all")
        settings = Settings.resolve(ctx, raw, declared_options)
        if raw["print_config"]:
            emit(settings.to_yaml())
        else:
            run(task, settings, **how)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    for name, declared in declared_options.items():
        default = None if declared.default is MISSING else _as_written(declared)
        parameters.append(
            inspect.Parameter(name, keyword, default=default, annotation=_typer(declared, declared_options))
        )
    parameters.append(inspect.Parameter("help_all", keyword, default=False, annotation=HelpAll))
    command.gone = gone_from(groups)  # type: ignore[attr-defined]
    # typer reads both
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__, command.__doc__ = task.rpartition(":")[2], about.__doc__
    return command


def by_panel(declared_options: dict[str, OptionField], first: str) -> dict[str, OptionField]:
    """Return options in the order of the help: panels of the subcommand alone come first."""

    def place(name: str) -> int:
        panel = declared_options[name].option.panel
        return 2 + PANELS.index(panel) if panel in PANELS else int(panel != first)

    return {name: declared_options[name] for name in sorted(declared_options, key=place)}


def usage(words: str, help: str, **more: Any) -> Any:
    """Return an option of a helper by how it is used, such as `--output -o FILE`; no variable sets it."""
    names = [word for word in words.split() if word.startswith("-")]
    metavar, help = _spelled(" ".join(words.split()[len(names) :]), help)
    return typer.Option(*names, metavar=metavar, help=help, show_envvar=False, **more)


def _spelled(form: str, help: str) -> tuple[str, str]:
    """Return form and help of an option as shown: many words are listed in the help.

    A narrow terminal would break them in the middle of one.
    """
    key, equals, words = form.rpartition("=")
    if len(form) <= MOST_FORM or "|" not in words:
        return form, help
    return f"{key}{equals}WORD", f"{help}; one of {', '.join(words.split('|'))}"


def _show_all(ctx: typer.Context, value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        for param in ctx.command.params:
            param.hidden = False  # type: ignore[attr-defined]
        emit(ctx.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        help="Show this message with all options",
        is_eager=True,
        callback=_show_all,
        show_envvar=False,
        rich_help_panel=COMMAND,
    ),
]


def _as_written(declared: OptionField) -> Any:
    """Return the default as the command line has it."""
    default = declared.default
    if declared.is_mapping or declared.is_repeatable or default == ():
        return None
    return default


def variable(declared: OptionField) -> str:
    """Return the environment variable that sets an option: `MOCLI_` and its long name."""
    return "MOCLI_" + declared.long.removeprefix("--").replace("-", "_").upper()


def _typer(declared: OptionField, declared_options: dict[str, OptionField]) -> Any:
    """Return the annotation that typer reads."""
    option = declared.option
    if not option.names:
        about: Any = typer.Argument(metavar=option.metavar, help=option.help, show_default=False)
        return Annotated[declared.cli | None, about]
    # a file of names is read when the command runs
    parses = callable(option.parse) and option.parse is not names
    single = not (declared.is_mapping or declared.is_repeatable)
    reads = single and (option.choices or option.least is not None or parses)
    check = (
        _loads(declared_options) if declared.name == "config" else checked(declared.read) if reads else None
    )
    metavar, help = _spelled(option.metavar, option.help)
    settings: dict[str, Any] = {
        "help": help,
        "rich_help_panel": option.panel,
        "metavar": metavar,
        "callback": check,
        "min": option.least,
        "envvar": variable(declared),
        "show_envvar": False,
        "hidden": "advanced" in option.marks,
        "show_default": option.shown or True,
        "autocompletion": completion_of(declared),
        **option.more,
    }
    optional = _as_written(declared) is None or declared.default is MISSING
    kind = declared.cli | None if optional else declared.cli
    return Annotated[kind, typer.Option(*option.names, **settings)]


Callback = Callable[[typer.Context, typer.CallbackParam, Any], Any]


def checked(read: Parser) -> Callback:
    """Read a value early, so that an error names its origin; a config keeps it as written."""

    def check(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
        long, origin = next(opt for opt in param.opts if opt.startswith("--")), origin_of(ctx, param)
        if value is not None:
            read(value, long if origin == "command line" else f"{long} ({origin})")
        return value

    return check


def _loads(declared_options: dict[str, OptionField]) -> Callable[[typer.Context, Path | None], Path | None]:
    """Let `--config` fill the defaults of this command before any other option is read."""

    def load(ctx: typer.Context, value: Path | None) -> Path | None:
        if value is not None:
            load_config(ctx, value, declared_options)
        return value

    return load


def run(task: str, settings: Settings, *, needs_input: bool = True) -> None:
    """Set up logging and run a task."""
    values = settings.values
    log.setup(_level(values["verbose"] - values["quiet"]), values["log_format"], values["progress"])
    _warn_of_unknown_variables(settings.declared)
    commands = declared_in(CommandOptions)
    arguments = {name: value for name, value in values.items() if name not in commands}
    for name, value in arguments.items():
        if settings.declared[name].is_repeatable:
            arguments[name] = list(value or ())
    inputs = arguments.pop("inputs")
    _require(inputs if needs_input else ["none"], arguments["output"], settings.ctx)
    arguments |= {"dry_run": values["dry_run"], "command": command_line(settings.ctx)}
    function = load_class(task)
    if arguments["report"] == "-" and not values["dry_run"]:
        _run_to_stdout(function, inputs, arguments)
        return
    result = function(inputs, **arguments)
    if values["dry_run"]:
        emit("\n".join(result.plan))


def command_line(ctx: typer.Context) -> list[str]:
    """Return the command as it was typed, without the program's path."""
    arguments = (ctx.find_root().obj or {}).get("argv")
    return ["mocli", *(sys.argv[1:] if arguments is None else arguments)]


def _level(loudness: int) -> str:
    return "debug" if loudness > 0 else ("info", "warning", "error")[min(-loudness, 2)]


def _require(inputs: Sequence[str], output: Path | None, ctx: typer.Context) -> None:
    usage = f"{ctx.command_path} INPUT... -o FILE; `{ctx.command_path} -h` explains"
    if not inputs:
        raise UsageError("no input file was given", field="INPUT", hint=usage)
    if output is None:
        raise UsageError("no output file was given", field="--output", hint=usage)


def _run_to_stdout(function: Any, inputs: Sequence[str], arguments: dict[str, Any]) -> None:
    """Run, then copy the report to stdout; the task also writes one on failure."""
    with tempfile.TemporaryDirectory(prefix="mocli-") as folder:
        path = Path(folder) / "report.json"
        try:
            function(inputs, **{**arguments, "report": path})
        finally:
            if path.exists():
                emit(path.read_text(encoding="utf-8"), data=True)


def _warn_of_unknown_variables(declared_options: Mapping[str, OptionField]) -> None:
    set_here = {name for name in os.environ if name.startswith("MOCLI_")} - {
        *map(variable, declared_options.values())
    }
    if not set_here:
        return
    everywhere = (declared_by((options_of(task), *SHARED)) for task in Task)
    variables = {variable(declared) for options in everywhere for declared in options.values()}
    for name in sorted(set_here - variables):
        if nearest(name, variables):
            log.logger.warning(
                "%s is set but no option has that name; %s", name, did_you_mean(name, variables)
            )
