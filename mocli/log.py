"""Logs and progress on stderr and in `OUT.log`; stdout is never touched.

From Python nothing is configured: warnings appear as Python shows them and
progress is silent. The command line calls `setup`, whose handler also carries
the progress mode, so that no other state exists. Progress reaches the log file
as plain lines whatever the screen shows.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat, TypeAlias

from mocli.errors import EnvironmentProblem, printable

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger("mocli")

Terms: TypeAlias = "Mapping[str, SupportsFloat]"
LINE_EVERY = 60.0  # seconds
LINES_PER_PHASE = 20
REDRAW_EVERY = 0.25  # seconds


class TextFormatter(logging.Formatter):
    """`2025-01-31 12:00:00 message`, the level named from warnings up."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text; a continued message keeps its own lines."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{stamp} {level}{record.getMessage()}"
        return printable(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, message, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of valid JSON."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(_finite(entry), default=str)


def _finite(value: Any) -> Any:
    """Replace what JSON cannot hold (nan, inf) by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return {k: _finite(v) for k, v in value.items()} if isinstance(value, dict) else value


def _formatter(fmt: str) -> logging.Formatter:
    return JsonFormatter() if fmt == "json" else TextFormatter()


class _ScreenHandler(logging.Handler):
    """Write to whatever `sys.stderr` is now (a live bar and tests replace it)."""

    def __init__(self, fmt: str, progress_mode: str) -> None:
        super().__init__()
        self.fmt = fmt
        self.progress_mode = progress_mode
        self.former_showwarning = warnings.showwarning
        self.setFormatter(_formatter(fmt))

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep progress lines from the screen unless they are its kind of progress."""
        return not getattr(record, "progress", False) or self.progress_mode == "plain"

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a closed pipe must not end the run."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, RUF100
        """Do nothing: there is no stream left to report to."""


class _RelayHandler(logging.Handler):
    """Pass records on to the parent's handlers as if the level had not been lowered."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over; without any handler Python's last resort prints warnings."""
        (logger.parent or logging.root).callHandlers(record)


def setup(level: int | str = "info", fmt: str = "text", progress_mode: str = "auto") -> None:
    """Configure logging for the command line; calling it again replaces the former set-up.

    Args:
        level: `debug`, `info`, `warning`, `error`, or a number of `logging`.
        fmt: `text` or `json`.
        progress_mode: `auto` (a bar on a terminal, else plain lines), `bar`, `plain`, `none`. A bar needs a
            terminal and text: without them it becomes plain lines.
    """
    teardown()
    number = logging.getLevelNamesMapping()[level.upper()] if isinstance(level, str) else level
    mode = progress_mode
    if mode in {"auto", "bar"}:
        mode = "bar" if fmt == "text" and is_terminal() else "plain"
    handler = _ScreenHandler(fmt, "none" if number > logging.INFO else mode)
    handler.setLevel(number)
    logger.addHandler(handler)
    logger.setLevel(number)
    logger.propagate = False
    warnings.showwarning = _log_warning


def teardown() -> None:
    """Undo `setup`: back to the silence of a library."""
    screen = _screen()
    if screen is not None:
        logger.removeHandler(screen)
        warnings.showwarning = screen.former_showwarning
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def _log_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Log Python's warnings; deprecation notices of libraries do not concern users."""
    notice = issubclass(category, (FutureWarning, DeprecationWarning, PendingDeprecationWarning))
    logger.log(logging.DEBUG if notice else logging.WARNING, "%s: %s", category.__name__, message)


def configured_format() -> str | None:
    """Return the format `setup` chose, or None where it was not called."""
    screen = _screen()
    return None if screen is None else screen.fmt


def json_line(level: str, message: str, fields: Mapping[str, Any]) -> str:
    """Return one line in the format of the JSON log."""
    record = _record(message, logging.getLevelNamesMapping()[level.upper()])
    record.fields = dict(fields)
    return JsonFormatter().format(record)


def is_terminal() -> bool:
    """Say whether stderr is a terminal that understands cursor movement."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}


def _screen() -> _ScreenHandler | None:
    return next((h for h in logger.handlers if isinstance(h, _ScreenHandler)), None)


@contextmanager
def open_log(
    path: str | Path, *, command: Sequence[str] | None = None, append: bool = False
) -> Iterator[None]:
    """Copy everything logged to a file, whose first lines are the version and the command.

    The file holds at least the informative level, whatever the screen shows; an
    exception that passes through is recorded in it.

    Raises `EnvironmentProblem` if the file cannot be written.
    """
    from mocli import __version__

    screen = _screen()
    try:
        file = logging.FileHandler(path, mode="a" if append else "w", encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(
            "the log file cannot be written", file=path, found=error.strerror, hint="choose another -o"
        ) from error
    file.setFormatter(_formatter(screen.fmt if screen else "text"))
    file.handle(_record(f"mocli {__version__}"))
    if command:
        file.handle(_record(f"command: {shlex.join(map(str, command))}"))
    old_level, old_propagate = logger.level, logger.propagate
    relay = None
    if screen is None:
        relay = _RelayHandler(logger.getEffectiveLevel())
        logger.addHandler(relay)
        logger.propagate = False
    logger.addHandler(file)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield
    except BaseException as error:
        file.handle(_record(str(error) or type(error).__name__, logging.ERROR))
        raise
    finally:
        logger.setLevel(old_level)
        logger.removeHandler(file)
        file.close()
        if relay is not None:
            logger.removeHandler(relay)
            logger.propagate = old_propagate


def _record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("mocli", level, "", 0, message, None, None)


class Progress(Protocol):
    """Receives the progress of a loop."""

    def update(self, step: int, terms: Terms | Callable[[], Terms] | None = None) -> None:
        """Report that `step` steps are done; `terms` are read only when something is shown."""
        ...


class _Reporter:
    """Lines into the log at every twentieth and every minute; optionally a bar."""

    def __init__(self, total: int, description: str, *, start: int, bar: _Bar | None) -> None:
        self.total, self.description, self.bar = total, description, bar
        self.start = self.step = start
        self.began = self.last_line = self.last_draw = time.monotonic()
        self.stride = max(1, math.ceil(total / LINES_PER_PHASE))
        self.next_step = (start // self.stride + 1) * self.stride
        self.said = start
        self.terms: Terms | Callable[[], Terms] | None = None

    def update(self, step: int, terms: Terms | Callable[[], Terms] | None = None) -> None:
        now = time.monotonic()
        self.step, self.terms = step, terms
        if step >= self.next_step or now - self.last_line >= LINE_EVERY:
            self.line(now)
        if self.bar is not None and now - self.last_draw >= REDRAW_EVERY:
            self.last_draw = now
            self.bar.draw(step, _short(self.values()))

    def values(self) -> dict[str, float]:
        terms = self.terms() if callable(self.terms) else self.terms
        return {name: float(value) for name, value in (terms or {}).items()}

    def line(self, now: float) -> None:
        self.next_step = (self.step // self.stride + 1) * self.stride
        self.last_line, self.said = now, self.step
        values, elapsed = self.values(), now - self.began
        done = self.step - self.start
        eta = elapsed / done * (self.total - self.step) if done > 0 else math.nan
        share = 100 * self.step / self.total if self.total else 100.0
        parts = [
            f"{self.description}: step {self.step:,}/{self.total:,} ({share:.0f} %)",
            _short(values),
            f"elapsed {short_time(elapsed)}",
            f"ETA {short_time(eta)}" if done > 0 else "",
        ]
        fields = {
            "phase": self.description, "step": self.step, "total": self.total,
            "terms": values, "elapsed_s": round(elapsed, 3), "eta_s": round(eta, 3),
        }  # fmt: skip
        message = "  ".join(part for part in parts if part)
        logger.info("%s", message, extra={"progress": True, "fields": fields})

    def finish(self) -> None:
        if self.step > self.said:
            self.line(time.monotonic())


class _Bar:
    """A rich bar on a terminal."""

    def __init__(self, total: int, description: str, *, start: int, console: Console | None = None) -> None:
        from rich import progress as rich
        from rich.console import Console as RichConsole

        self.rich = rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(bar_width=24),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[terms]}"),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            console=console or RichConsole(stderr=True),
            redirect_stdout=False,
            transient=True,
        )
        self.task = self.rich.add_task(description, total=total, completed=start, terms="")

    def draw(self, step: int, terms: str) -> None:
        self.rich.update(self.task, completed=step, terms=printable(terms))


@contextmanager
def progress(total: int, description: str, *, mode: str | None = None, start: int = 0) -> Iterator[Progress]:
    """Report on `total` steps, of which `start` were done before (a resumed run).

    `mode`: `bar`, or anything else for lines in the log; None takes what `setup` chose.
    """
    screen = _screen()
    chosen = mode or (screen.progress_mode if screen else "none")
    bar = _Bar(total, description, start=start) if chosen == "bar" and is_terminal() else None
    reporter = _Reporter(total, description, start=start, bar=bar)
    if bar is None:
        yield reporter
    else:
        with bar.rich:
            yield reporter
    reporter.finish()


def _short(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def short_time(seconds: float) -> str:
    """Return `3h50m`, `2m05s` or `12s`; `?` where unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
