"""From declared options to a typer command: one flat signature, completions, one call of the subcommand."""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from mocli import log
from mocli.cli.output import emit
from mocli.cli.parameters import COMMAND, checked, completion_of, spelled
from mocli.cli.settings import Settings, load_config
from mocli.errors import UsageError, did_you_mean, nearest
from mocli.models.registry import load_class
from mocli.options import OptionField, Options, declared_by, declared_in, gone_from, option
from mocli.parsing import names
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


def command_of(task: str, groups: Sequence[type[Options]], about: str, **how: Any) -> Callable[..., None]:
    """Make the command of a subcommand that has the options of `groups`.

    `--print-config` prints them and ends, `--dry-run` prints the plan and `--report -` the report of the
    function `task` (`package.module:function`, imported only then) to stdout.

    Args:
        about: The help text.
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
    command.__name__, command.__doc__ = task.rpartition(":")[2], about
    return command


def by_panel(declared_options: dict[str, OptionField], first: str) -> dict[str, OptionField]:
    """Return options in the order of the help: panels of the subcommand alone come first."""

    def place(name: str) -> int:
        panel = declared_options[name].option.panel
        return 2 + PANELS.index(panel) if panel in PANELS else int(panel != first)

    return {name: declared_options[name] for name in sorted(declared_options, key=place)}


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
    metavar, help = spelled(option.metavar, option.help)
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
