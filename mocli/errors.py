"""Every error a user can meet, and the exit code it ends with.

MocliError                1  a bug, unless a subclass says otherwise
├── UsageError            2  an option, a config key, an output that exists
├── InputError            3  the data: unreadable, wrong layer, no links matched
├── EnvironmentProblem    4  device absent, extra missing, output not writable
├── NumericalError        5  loss not finite, model collapsed
├── OutOfMemory         137  host or device memory
└── Interrupted     128 + n  signal n, after a checkpoint (130, 138, 143)
"""

import errno
import os
import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

# what moves a cursor, changes colours, rings, or turns the direction of text; and halves of characters
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text with its control characters shown, not sent: an escape as the four characters that name it.

    Everything that mocli prints or logs goes through here; tabs and ends of lines stay.
    """
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


class MocliError(Exception):
    """Base of all errors; carries what a person needs to mend the problem.

    Args:
        message: One sentence: what is wrong.
        file: The file concerned, as the user named it.
        field: The place inside it (`obs['cell_type']`, `layers['counts']`, line 12).
        found, expected: What was there and what was expected, three examples at most.
        hint: How to mend it.
    """

    exit_code = 1
    kind = "bug"

    def __init__(
        self,
        message: str,
        *,
        file: object | None = None,
        field: str | None = None,
        found: object | None = None,
        expected: object | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = None if file is None else str(file)
        self.field = field
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message]
        for name in ("file", "field", "found", "expected", "hint"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"  {name + ':':<10}{value}")
        return "\n".join(parts)


class UsageError(MocliError):
    """An invalid option, config key or combination."""

    exit_code = 2
    kind = "usage"


class InputError(MocliError):
    """The data do not fit the request."""

    exit_code = 3
    kind = "input"


class EnvironmentProblem(MocliError):
    """The machine lacks something: a device, a package, a writable folder."""

    exit_code = 4
    kind = "environment"


class NumericalError(MocliError):
    """Training diverged; `term` names the first loss that was not finite."""

    exit_code = 5
    kind = "numerical"

    def __init__(self, message: str, *, term: str, step: int, hint: str | None = None) -> None:
        super().__init__(message, field=f"loss term '{term}'", found=f"not finite at step {step}", hint=hint)
        self.term = term
        self.step = step


class OutOfMemory(MocliError):
    """Host or device memory ran out."""

    exit_code = 137
    kind = "memory"


ENDING = ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGXCPU", "SIGINT")
"""Signals that end a run with a checkpoint: from a scheduler, a closed terminal, a limit of CPU time."""


class Interrupted(MocliError):
    """A signal ended the run after its checkpoint was written."""

    kind = "interrupted"

    def __init__(self, signum: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.signum = signum
        self.exit_code = 128 + signum


class Signalled(KeyboardInterrupt):
    """A signal came while libraries were at work; those that catch every `Exception` let it pass.

    `Interrupted` takes its place where the run ends.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"signal {signum}")
        self.signum = signum


ENVIRONMENTAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE})


def recognise(error: BaseException) -> MocliError | None:
    """Return the exception as one of these errors if a user can fix it; None for a bug.

    Besides our own errors: memory of host or device, disks, permissions, missing packages.
    """
    if isinstance(error, MocliError):
        return error
    if (memory := _out_of_memory(error)) is not None:
        return memory
    if isinstance(error, OSError) and error.errno in ENVIRONMENTAL:
        return EnvironmentProblem(os.strerror(error.errno or 0), file=error.filename)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("mocli"):
        package = str(error.name).split(".")[0]
        return EnvironmentProblem(f"the package '{package}' is missing", hint=f"pip install {package}")
    return None


def _out_of_memory(error: BaseException) -> OutOfMemory | None:
    """Recognise memory errors of Python, numpy and torch, by name so that torch stays unloaded."""
    text = str(error)
    device = type(error).__name__ == "OutOfMemoryError" or "backend out of memory" in text
    host = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in text
    )
    if not (device or host):
        return None
    return OutOfMemory(
        f"out of memory on the {'device' if device else 'host'}",
        found=text.splitlines()[0] if text else None,
        hint="lower --batch-size, keep fewer features (--hvg), or ask for more memory",
    )


NEARLY = 0.85
"""A name is offered as another spelling only if it is at least this much as alike as the most alike one."""


def nearest(name: str, among: "Iterable[str]", n: int = 3) -> list[str]:
    """Names most like `name`, compared without regard to case, best first; none far behind the best."""
    by_folded: dict[str, str] = {}
    for candidate in among:
        by_folded.setdefault(candidate.casefold(), candidate)
    folded = name.casefold()
    close = get_close_matches(folded, by_folded, n=n, cutoff=0.6)
    alike = [SequenceMatcher(None, k, folded).ratio() for k in close]
    return [by_folded[k] for k, ratio in zip(close, alike, strict=True) if ratio >= NEARLY * alike[0]]


def did_you_mean(name: str, among: "Iterable[str]", what: str = "choices") -> str:
    """Return a hint: the nearest names, or the first few of all."""
    among = list(among)
    close = nearest(name, among)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return f"{what}: {some(among, 8)}" if among else f"there are no {what}"


def some(names: "Iterable[object]", most: int) -> str:
    """Return the first names, separated by commas; `...` stands for the others."""
    names = list(names)
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")
