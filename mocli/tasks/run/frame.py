"""`perform`: the frame around every subcommand, the same for a dry run and for the run itself."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from mocli.errors import Interrupted
from mocli.log import logger
from mocli.tasks.run.guard import unfinished
from mocli.tasks.run.paths import Paths, command_line
from mocli.tasks.run.request import Request, Result, files_read, is_whole, made_from, origin_of
from mocli.tasks.run.run import Launch, Run

PATIENCE_S = 30.0
"""Seconds between two lines about progress."""


class Tell(Protocol):
    """Receives lines for people: a `Run`, or a `Foresight`."""

    def say(self, message: str) -> None:
        """Report a fact."""

    def warn(self, message: str) -> None:
        """Report something to check."""


@dataclass(frozen=True)
class Foresight:
    """The lines of a dry run, and files that it would add to the model's folder."""

    lines: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        """Add a line."""
        self.lines.append(message)

    def warn(self, message: str) -> None:
        """Add a warning."""
        self.lines.append(f"warning: {message}")


def progress(say: Callable[[str], None], doing: str, what: str) -> Callable[[int, int], None]:
    """Return a function that logs progress every half minute, with the time that the rest will take."""
    start = time.monotonic()
    last_said = [start]

    def tell(done: int, n: int) -> None:
        now = time.monotonic()
        if now - last_said[0] > PATIENCE_S and done < n:
            last_said[0] = now
            say(f"{doing}: {done:,} of {n:,} {what}  ETA {(now - start) * (n - done) / max(done, 1):.0f}s")

    return tell


@dataclass(frozen=True)
class Verb:
    """What a subcommand does, besides the work common to all.

    Attributes:
        suffixes: Possible suffixes of the output; `beside` are those of files that only this subcommand
            writes next to it.
        foresee: Reports what the run would do, and raises errors that can be known beforehand. It needs no
            torch.
        work: Does the work. It imports torch and scikit-learn, which a dry run and a refusal do not need.
        trains, calibrates: Whether a model's folder is written, and the calibration of its predictions in it.
    """

    task: str
    suffixes: tuple[str, ...]
    foresee: Callable[[Foresight], None]
    work: Callable[[Run], None]
    beside: tuple[str, ...] = ()
    trains: bool = True
    calibrates: bool = False


def perform(verb: Verb, request: Request, *, dry_run: bool, command: Sequence[str] | None) -> Result:
    """Check what would be read and written, then do the work, or report what it would be.

    `command`: the command as typed, for log and report; None for that of this process. Raises `MocliError`:
    whatever the checks and the work raise; the run has then reported it.
    """
    paths = Paths.of(request.output, request.run, suffixes=verb.suffixes, beside=verb.beside)
    reads = files_read(request.groups)
    paths.refuse_inputs(reads)
    files = paths.results(trained=verb.trains, calibrated=verb.calibrates)
    origin = None
    if request.output.unless_done and paths.report is not None:
        origin = origin_of(verb.task, request.groups)
        done = made_from(paths.report, origin)
        if done is not None and is_whole(done, paths.output):
            sentence = f"{paths.output} exists already, made with these options from these files"
            logger.info("%s", sentence)
            return Result(paths.output, done, [sentence], files)
    if dry_run:
        ours = unfinished(paths.checkpoints) if request.run.resume != "never" else frozenset()
        paths.check(force=request.output.force, trained=verb.trains, ours=ours)
        foresight = Foresight()
        verb.foresee(foresight)
        if request.run.device.startswith("cuda"):
            # it may be asked where jobs are sent from, and needs no torch
            foresight.warn("--device cuda is not looked for: `mocli doctor` says what is there where it runs")
        files += [paths.model / part for part in foresight.parts]
        return Result(paths.output, {}, [*foresight.lines, *(f"would write {f}" for f in files)], files)
    words = command_line() if command is None else command
    with _place(paths, request, verb) as written:
        run = Run(verb.task, written, output=request.output, options=request.run, command=words)
        run.trains, run.reads = verb.trains, reads
        run.report.made_from = origin or origin_of(verb.task, request.groups)
        with run:
            verb.work(run)
    # whether cells suffice for intervals and ways to impute is known only now
    files += [p for p in paths.model_parts if p not in files] if verb.trains else []
    return Result(paths.output, run.report.as_dict(), [], files)


@contextmanager
def _place(paths: Paths, request: Request, verb: Verb) -> Iterator[Paths]:
    """Return where this process writes: all but the first of torchrun's into a folder that is deleted.

    These end where training does, and say nothing: the first one tells the same.
    """
    if Launch.here().rank == 0:
        yield paths
        return
    from mocli.train.ranks import Following

    for handler in logger.handlers:
        handler.setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="mocli-") as folder, suppress(Following, Interrupted):
        output = replace(request.output, output=Path(folder) / paths.output.name, report=None)
        run = replace(request.run, checkpoint_dir=paths.checkpoints)
        yield Paths.of(output, run, suffixes=verb.suffixes, beside=verb.beside)
