"""`Run`: everything around a task - paths, log, signals, seed, device, timing, the report."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mocli import __version__
from mocli.data.files.inputs import sha256
from mocli.errors import ENDING, Interrupted, MocliError, Signalled
from mocli.log import logger, open_log
from mocli.models.registry import as_dict
from mocli.report.figures import size
from mocli.report.file import Report
from mocli.tasks.run.guard import (
    MemoryLimit,
    Stamp,
    available_memory,
    check_addresses,
    check_unchanged,
    clear_mark,
    locked,
    mark,
    remove_leftovers,
    return_large_blocks,
    stamp,
    unfinished,
)
from mocli.tasks.run.options import OutputOptions, RunOptions
from mocli.tasks.run.paths import Paths
from mocli.types import FloatArray

if TYPE_CHECKING:
    import torch

    from mocli.train.ranks import Ranks

VERSIONED = ("torch", "numpy", "scipy", "pandas", "anndata", "mudata", "h5py", "scikit-learn")


@dataclass(frozen=True)
class Launch:
    """Where `torchrun` has put this process: its number and that of all, in the run and on this machine."""

    rank: int = 0
    world: int = 1
    of_machine: int = 0
    on_machine: int = 1

    @classmethod
    def here(cls) -> Launch:
        """Read the variables that torchrun sets; without them the process is alone."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(*(int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))


class Run:
    """Context of one task: once entered, it has a log and a device; once left, a report is on disk.

    Raises `UsageError` or `EnvironmentProblem`: on entry, if outputs exist or cannot be written, or the
    device is missing.
    """

    def __init__(
        self, task: str, paths: Paths, *, output: OutputOptions, options: RunOptions, command: Sequence[str]
    ) -> None:
        self.paths, self.output, self.options = paths, output, options
        self.report = Report(command=list(command), task=task, seed=options.seed, versions=versions())
        self.device: torch.device
        self.ranks: Ranks
        self._threads: int | None = None
        self._stack = ExitStack()
        self._started = time.monotonic()
        self._limit = MemoryLimit(options.max_memory)
        self.trains = True
        self.reads: Sequence[Path] = ()
        self._stamps: dict[Path, Stamp | None] = {}
        self._ours: set[Path] = set()
        self._complete = self._closing = False
        self._within: list[float] = []

    def __enter__(self) -> Self:
        with self._reported():
            check_addresses()
        return_large_blocks()
        # imported here: a dry run must not pay for torch
        from mocli.train.checkpoint import FILE as CHECKPOINT
        from mocli.train.device import choose_device, choose_threads, describe, torch_settings
        from mocli.train.ranks import join

        options = self.options
        with self._reported():
            self._stack.enter_context(locked(self.paths.output))
            resuming = options.resume != "never" and self.paths.checkpoints.exists()
            self._ours = set(unfinished(self.paths.checkpoints)) if resuming else set()
            self.paths.check(force=self.output.force, trained=self.trains, ours=self._ours)
            kept = [self.paths.model, self.paths.checkpoints / CHECKPOINT]
            remove_leftovers([*self.paths.results(calibrated=True), *kept])
            self._stamps = {path: stamp(path) for path in self.reads}
            # a forced run that fails must not take the log of the results that stay
            append = resuming or self.paths.output.exists()
            self._stack.enter_context(open_log(self.paths.log, command=self.report.command, append=append))
            self._stack.enter_context(self._signals_raise())
            launch = Launch.here()
            self.device = choose_device(options.device, of_machine=launch.of_machine)
            threads = self._threads = choose_threads(options.threads, shared_by=launch.on_machine)
            self.ranks = join(self.device, launch.world)
            self._stack.enter_context(torch_settings(threads=threads, deterministic=options.deterministic))
            device = describe(self.device, requested=options.device, threads=threads)
        self.report.device = device
        self.say(
            f"device: {device['used']} ({device['name']}), {threads} threads, "
            f"{_free_memory()} of memory free; seed {options.seed}"
        )
        if launch.world > 1:
            self.say(f"{launch.world} processes share every minibatch; this is the first, which writes")
            self.report.device["processes"] = launch.world
        self._limit.__enter__()
        if options.max_memory is not None and not self._limit.watches:
            self.warn(
                "--max-memory: memory use can only be watched on Linux, in the main thread; here only the "
                "estimate is checked"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.__exit__(kind, error, trace)
        self._closing = True
        explained = None if error is None else self._limit.explain(_ending(error))
        self.report.timing["total_s"] = round(time.monotonic() - self._started, 3)
        if self.report.device is not None:
            from mocli.train.device import gpu_peak_memory, peak_memory

            self.report.device["peak_memory_bytes"] = peak_memory()
            self.report.device["gpu_peak_memory_bytes"] = gpu_peak_memory(self.device)
        try:
            if explained is not None:
                self._fail(explained)
                self._tell_of_continuing(explained)
            elif self.paths.report is not None:
                self.report.write(self.paths.report)
                self.say(f"wrote {self.paths.report}: the report in JSON")
                if self.paths.multiqc is not None:
                    self.report.write_multiqc(self.paths.multiqc)
                    self.say(f"wrote {self.paths.multiqc}: its leading figures, for MultiQC")
            if explained is None:
                self.say(f"wrote {self.paths.log}: these lines")
            if self._complete:
                from mocli.train.checkpoint import Checkpoints

                clear_mark(self.paths.checkpoints)
                if self.trains:
                    Checkpoints(self.paths.checkpoints, fingerprint={}, resume="never").remove()
                else:
                    # the checkpoint of another run stays
                    with suppress(OSError):
                        self.paths.checkpoints.rmdir()
        finally:
            self._stack.__exit__(kind, error, trace)
        if explained is not None and explained is not error:
            raise explained from error

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            explained = _ending(error)
            self._fail(explained)
            self._stack.__exit__(type(error), error, error.__traceback__)
            if explained is not error:
                raise explained from error
            raise

    def _fail(self, error: BaseException) -> None:
        self.report.fail(error)
        replaced = self.paths.output.absolute() in self._ours
        target = self.paths.failure_report(replaced=replaced, trained=self.trains)
        try:
            if target is not None:
                self.report.write(target)
            if target is not None and target == self.paths.report and self.paths.multiqc is not None:
                self.report.write_multiqc(self.paths.multiqc)
        except MocliError as second:
            # the first error is the one to be told
            logger.debug("the report of the failure could not be written: %s", second)

    def _tell_of_continuing(self, error: BaseException) -> None:
        from mocli.train.checkpoint import FILE as CHECKPOINT

        trained = self.trains and (self.paths.checkpoints / CHECKPOINT).exists()
        if isinstance(error, Signalled) and trained and self.options.resume != "never":
            self.say("what was trained is kept: repeat the command to continue")

    @contextmanager
    def _signals_raise(self) -> Iterator[None]:
        """Outside the training loop a signal ends the run at once, with a report; not once all is written."""

        def receive(signum: int, _frame: object) -> None:
            if not self._closing:
                raise Signalled(signum)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (getattr(signal, n) for n in ENDING if hasattr(signal, n))}
        # with nohup, and where the host program has said so, a signal is to be ignored, or is the host's
        taken = {
            s: signal.signal(s, receive)
            for s, handler in before.items()
            if handler is signal.default_int_handler or (s != signal.SIGINT and handler != signal.SIG_IGN)
        }
        try:
            yield
        finally:
            for signum, handler in taken.items():
                signal.signal(signum, handler)

    def say(self, message: str) -> None:
        """Log a line."""
        logger.info("%s", message)

    def warn(self, message: str) -> None:
        """Log a warning and keep it for the report."""
        self.report.warnings.append(message)
        logger.warning("%s", message)

    def expect(self, seconds: float) -> None:
        """Put into the report how long the run was expected to take."""
        if self.report.device is not None:
            self.report.device["expected_seconds"] = round(seconds)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a stage to the report, without those of stages within it."""
        begun = time.monotonic()
        self._within.append(0.0)
        try:
            if name == "write":
                self.check_inputs()
            yield
        finally:
            took, key = time.monotonic() - begun, f"{name}_s"
            alone = took - self._within.pop()
            if self._within:
                self._within[-1] += took
            self.report.timing[key] = round(self.report.timing.get(key, 0) + alone, 3)
            self._restore_threads()

    def _restore_threads(self) -> None:
        """Set threads again: libraries change them for the whole process, or were loaded with their own."""
        if self._threads is not None:
            from mocli.train.device import set_threads

            set_threads(self._threads)

    def add_output(self, path: Path, what: str, *, first: bool = False) -> None:
        """Put a written file, or a folder with its files, into the report; again if it has changed.

        The run is named after the first.
        """
        if path.is_dir():
            files = {p.name: sha256(p) for p in sorted(path.iterdir())}
            size = sum(p.stat().st_size for p in path.iterdir())
            record: dict[str, Any] = {"path": str(path), "what": what, "bytes": size, "files": files}
        else:
            record = {"path": str(path), "what": what, "bytes": path.stat().st_size, "sha256": sha256(path)}
        others = [entry for entry in self.report.outputs if entry["path"] != str(path)]
        self.report.outputs = [record, *others] if first else [*others, record]
        self.keep(path)

    def keep(self, *paths: Path) -> None:
        """Note that outputs are written: the same command may continue from here, and replace them."""
        self._ours.update(path.absolute() for path in paths)
        mark(self.paths.checkpoints, self._ours)

    def check_inputs(self) -> None:
        """Make sure, before writing, that the inputs are still those that were opened."""
        check_unchanged(self._stamps)

    def provenance(self, model: str, params: object) -> dict[str, object]:
        """Return how a file was made, for `uns['mocli']`; empty with `--no-provenance`."""
        if not self.output.provenance:
            return {}
        report = self.report
        facts: dict[str, object] = {
            "version": __version__,
            "command": np.array(report.command, dtype=object),
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "model": model,
            "params": json.dumps(as_dict(params), sort_keys=True),
            "seed": self.options.seed,
            "device": str(self.device),
            "inputs": json.dumps([{"path": r["path"], "sha256": r["sha256"]} for r in report.inputs]),
            "links": json.dumps([{"path": r["path"], "sha256": r["sha256"]} for r in report.links]),
            "versions": json.dumps(report.versions, sort_keys=True),
        }
        return {"mocli": facts}

    def finish(self, pictures: Callable[[], Mapping[str, Any]] = dict) -> None:
        """Write the HTML report, and log what was written.

        The JSON report follows when the run is left, so that `ok` in it means that everything is written;
        then checkpoints are removed.

        `pictures`: returns what `mocli.report.html.render` draws besides the report; called only if there is
        one to be written.
        """
        from mocli.report import html
        from mocli.report.drawing import keeping

        if self.paths.html is not None:
            self.say("drawing the report")
            with (
                self.timed("draw"),
                keeping() if self.paths.figures is not None else nullcontext() as figures,
            ):
                html.write(self.paths.html, html.render(self.report, **pictures()))
            if figures is not None and self.paths.figures is not None and self.output.figures is not None:
                figures.write(self.paths.figures, self.output.figures)
                self.add_output(self.paths.figures, "the pictures of the report")
            self.add_output(self.paths.html, "the HTML report")
        self._complete = True
        for record in self.report.outputs:
            self.say(f"wrote {record['path']}: {record['what']}")


def _ending(error: BaseException) -> BaseException:
    """Return how a run ends by a signal, in words; any other error as it is."""
    if not isinstance(error, Signalled) or error.signum == signal.SIGINT:
        return error
    message = f"signal {error.signum} received outside training"
    return Interrupted(error.signum, message, hint="repeat the command")


def versions() -> dict[str, str]:
    """Versions of mocli, Python and the packages that shape the numbers."""
    versions = {"mocli": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def digest(latent: Mapping[str, FloatArray]) -> str:
    """SHA-256 of the latents' bytes, modality by modality in order."""
    h = hashlib.sha256()
    for name, z in latent.items():
        h.update(name.encode())
        h.update(z.astype("<f4").tobytes())
    return h.hexdigest()


def _free_memory() -> str:
    free = available_memory()
    return "an unknown amount" if free is None else size(free)
