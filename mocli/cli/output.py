"""What a command writes besides its files: requested data on stdout, one message of failure on stderr.

typer carries its own copy of click, so that its errors have no importable name;
they are recognised by their attributes (`format_message`, `exit_code`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from mocli import __version__
from mocli.cli.parameters import COMMAND_LINE, DEFAULT, origin_of
from mocli.errors import MocliError, UsageError, did_you_mean, printable, recognise


def emit(text: str, *, data: bool = False) -> None:
    """Write text; if the reader stops (`| head`), the command ends quietly.

    Control characters are shown, not sent; those of `data` only where a person reads it.

    Raises `typer.Exit` with code 0 if the reader has stopped.
    """
    if not data or sys.stdout.isatty():
        text = printable(text)
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        raise typer.Exit(0) from None


def silence() -> None:
    """Send what is still buffered to nowhere, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return `header` and `rows` with two blanks between columns; nothing is cut or wrapped."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(padded)


def fail(error: BaseException, argv: Sequence[str]) -> int:
    """Print an error, as text or as one JSON line, and return its exit code."""
    recognised = as_known(error)
    if recognised is None:
        _print_bug(error, json=_wants_json(argv))
        return MocliError.exit_code
    if _wants_json(argv):
        names = ("file", "field", "found", "expected", "hint")
        details = {name: getattr(recognised, name) for name in names if getattr(recognised, name) is not None}
        _print_json(
            recognised.message, {"kind": recognised.kind, "exit_code": recognised.exit_code, **details}
        )
    else:
        _say(f"mocli: {'' if recognised.kind == 'interrupted' else 'error: '}{recognised}")
    return recognised.exit_code


def as_known(error: BaseException) -> MocliError | None:
    """Return the error as one of ours if a user can fix it; None for a bug."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _usage(error)
    return recognise(error)


def _usage(error: Any) -> UsageError:
    """Translate an error of typer's parser; add the nearest names and where a bad value came from."""
    ctx = error.ctx
    message = str(error.format_message()).strip()
    path = ctx.command_path if ctx is not None else "mocli"
    hint = f"`{path} -h` lists what there is"
    field = None
    param = getattr(error, "param", None)
    if (
        param is not None
        and ctx is not None
        and (origin := origin_of(ctx, param)) not in {COMMAND_LINE, DEFAULT}
    ):
        field = f"{' / '.join(param.opts)} ({origin})"
    wrong = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and ctx is not None:
        names = [
            opt for p in ctx.command.params for opt in (*p.opts, *p.secondary_opts) if opt.startswith("--")
        ]
        message = f"no such option: {wrong}"
        gone = getattr(ctx.command.callback, "gone", {})
        hint = gone.get(str(wrong)) or f"{did_you_mean(str(wrong), names, 'options')} ({hint})"
    return UsageError(message, field=field, hint=hint)


def _print_bug(error: BaseException, *, json: bool) -> None:
    import traceback

    trace = "".join(traceback.format_exception(error)).rstrip()
    notice = f"this is a bug in mocli {__version__}; please report it with the lines above and the command"
    if json:
        fields = {"kind": "bug", "exit_code": 1, "traceback": trace, "hint": notice}
        _print_json(f"{type(error).__name__}: {error}", fields)
    else:
        _say(f"{trace}\nmocli: error: {notice}")


def _print_json(message: str, fields: dict[str, Any]) -> None:
    from mocli import log

    _say(log.json_line("error", message, fields))


def _say(text: str) -> None:
    try:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _wants_json(argv: Sequence[str]) -> bool:
    """Say whether errors are to be JSON, also for a command line that was never understood."""
    from mocli import log

    if (chosen := log.configured_format()) is not None:
        return chosen == "json"
    pairs = zip(argv, [*argv[1:], ""], strict=False)
    formats = [v for k, v in pairs if k == "--log-format"] + [
        a.partition("=")[2] for a in argv if a.startswith("--log-format=")
    ]
    return (formats[-1] if formats else os.environ.get("MOCLI_LOG_FORMAT", "text")) == "json"
