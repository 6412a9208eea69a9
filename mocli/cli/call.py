"""One call of a task function with the settings of a subcommand."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mocli import log
from mocli.cli.options import CommandOptions
from mocli.cli.stdout import emit
from mocli.errors import UsageError, did_you_mean, nearest
from mocli.models.registry import load_class

if TYPE_CHECKING:
    import typer

    from mocli.cli.settings import Settings


def call(task: str, settings: Settings, *, needs_input: bool = True) -> None:
    """Set up logging and run a task (`package.module:function`, imported only now).

    `--dry-run` prints the task's plan and `--report -` its report, to stdout.
    """
    own = settings.of(CommandOptions)
    log.setup(_level(own.verbose - own.quiet), own.log_format, own.progress)
    _warn_of_unknown_variables(settings.ctx)
    arguments = settings.task_arguments()
    inputs = arguments.pop("inputs")
    _require(inputs if needs_input else ["none"], arguments["output"], settings.ctx)
    arguments |= {"dry_run": own.dry_run, "command": command_line(settings.ctx)}
    function = load_class(task)
    if arguments["report"] == "-" and not own.dry_run:
        _run_to_stdout(function, inputs, arguments)
        return
    result = function(inputs, **arguments)
    if own.dry_run:
        emit("\n".join(result.plan))


def command_line(ctx: typer.Context) -> list[str]:
    """Return the command as it was typed, whatever path the program has."""
    given = (ctx.find_root().obj or {}).get("argv")
    return ["mocli", *(sys.argv[1:] if given is None else given)]


def _level(loudness: int) -> str:
    return "debug" if loudness > 0 else ("info", "warning", "error")[min(-loudness, 2)]


def _require(inputs: list[str], output: Path | None, ctx: typer.Context) -> None:
    usage = f"{ctx.command_path} INPUT... -o FILE; `{ctx.command_path} -h` explains"
    if not inputs:
        raise UsageError("no input file was given", field="INPUT", hint=usage)
    if output is None:
        raise UsageError("no output file was given", field="--output", hint=usage)


def _run_to_stdout(function: Any, inputs: list[str], arguments: dict[str, Any]) -> None:
    """Run, then copy the report to stdout; the task writes one on failure too."""
    with tempfile.TemporaryDirectory(prefix="mocli-") as folder:
        path = Path(folder) / "report.json"
        try:
            function(inputs, **{**arguments, "report": path})
        finally:
            if path.exists():
                emit(path.read_text(encoding="utf-8"))


def _warn_of_unknown_variables(ctx: typer.Context) -> None:
    commands = getattr(ctx.find_root().command, "commands", {ctx.command.name: ctx.command})
    params = [param for command in commands.values() for param in command.params]
    known = {str(param.envvar) for param in params if getattr(param, "envvar", None)}
    for name in sorted(os.environ):
        if name.startswith("MOCLI_") and name not in known and nearest(name, known):
            log.logger.warning("%s is set but no option has that name; %s", name, did_you_mean(name, known))
