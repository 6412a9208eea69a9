"""Run commands in separate processes, each in a folder that records what it was made from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import mocli
from mocli.errors import Interrupted, Signalled, UsageError
from mocli.peers.registry import safe_path
from mocli.report.file import write_text

POLL_S = 0.05
PATIENCE_S = 60.0
"""Seconds between passing on a signal and killing processes that ignore it: time for a checkpoint."""


_FOLLOW = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.execvp(sys.argv[2], sys.argv[2:]) if os.getppid() == int(sys.argv[1]) else sys.exit(143)"
)
"""Asks Linux for a signal when the parent ends, however that ends, and becomes the program that is named."""


class Command(NamedTuple):
    """A program with its arguments, its environment, and the folder it is started in; None for this one."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path | None = None


class Job(Protocol):
    """A run in a process: of a model, or of a peer."""

    @property
    def name(self) -> str:
        """Name for the log."""

    @property
    def turn(self) -> str:
        """Seed and study: jobs of one turn may change places."""

    @property
    def work(self) -> str:
        """The work, whatever the turn: its time in one turn predicts that in the next."""

    @property
    def folder(self) -> Path:
        """Where it writes; its messages go to `stderr.txt`."""

    def begin(self) -> None:
        """Make the folder ready."""

    def process(self, device: str, threads: int) -> Command:
        """Return what to start."""


@dataclass
class Processes:
    """Runs jobs.

    `devices`: devices that processes take in turn; a device is shared only if there are more processes.
    """

    n_jobs: int
    devices: Sequence[str]
    threads: int
    say: Callable[[str], None]
    _took: dict[str, float] = field(default_factory=dict, init=False)
    _running: list[tuple[Job, str, float, subprocess.Popen[bytes]]] = field(default_factory=list, init=False)

    def run(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Run all of them and return exit codes by name; a failure stops none of the others.

        Raises `Interrupted` or `KeyboardInterrupt` after the signal was passed on and the processes have
        ended.
        """
        codes: dict[str, int] = {}
        waiting = list(jobs)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.n_jobs:
                    self._start(self._next(waiting))
                self._gather(codes, total=len(jobs))
                time.sleep(POLL_S)
        except Signalled as error:
            self._stop(error.signum)
            done = sum(code == 0 for code in codes.values())
            raise Interrupted(
                error.signum,
                f"signal {error.signum} received: {done} of {len(jobs)} runs are finished",
                hint="repeat the command: finished runs are kept, the others continue from their checkpoints",
            ) from None
        except BaseException:
            self._stop(signal.SIGTERM)
            raise
        return codes

    def _next(self, waiting: list[Job]) -> Job:
        """Take the next job: turn by turn, those that took longest in an earlier turn first."""
        first = waiting[0]
        among = [job for job in waiting if job.turn == first.turn]
        took = [self._took.get(job.work, -1.0) for job in among]
        chosen = among[took.index(max(took))] if min(took) >= 0 else first
        waiting.remove(chosen)
        return chosen

    def _start(self, job: Job) -> None:
        job.begin()
        used = [device for _, device, _, _ in self._running]
        device = min(self.devices, key=used.count)
        command = job.process(device, self.threads)
        with (job.folder / "stderr.txt").open("wb") as log:
            process = subprocess.Popen(
                following(command.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=command.environment,
                cwd=command.folder,
            )
        self._running.append((job, device, time.monotonic(), process))
        self.say(f"running: {job.name}, device {device}")

    def _gather(self, codes: dict[str, int], *, total: int) -> None:
        for entry in list(self._running):
            job, _, begun, process = entry
            if (code := process.poll()) is None:
                continue
            self._running.remove(entry)
            codes[job.name] = code
            ended = "finished" if code == 0 else f"failed with exit code {code}:"
            took = self._took[job.work] = time.monotonic() - begun
            self.say(f"{ended} {job.name} in {took:.0f} s ({len(codes)} of {total})")

    def _stop(self, signum: int) -> None:
        for _, _, _, process in self._running:
            if process.poll() is None:
                process.send_signal(signum)
        end = time.monotonic() + PATIENCE_S
        for _, _, _, process in self._running:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def following(argv: Sequence[str]) -> list[str]:
    """Return words that run a program and let it end with this process, even where that is killed."""
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _FOLLOW, str(os.getpid()), *argv]


def own_environment() -> dict[str, str]:
    """Return the environment without mocli's options, but with this installation of mocli.

    The command gives the options. Relative and empty folders are removed from the module path, so that code
    next to the data is not run.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MOCLI_")}
    path = safe_path(variables.pop("PYTHONPATH", ""))
    if path:
        variables["PYTHONPATH"] = path
    home = str(Path(mocli.__file__).resolve().parents[1])
    if home not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        variables["PYTHONPATH"] = os.pathsep.join([home, *filter(None, [path])])
    return variables


FINGERPRINT = "fingerprint.json"


def was_begun_with(folder: Path, fingerprint: Mapping[str, Any]) -> bool:
    """Say whether the folder was begun with this fingerprint."""
    try:
        begun_with = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(begun_with == fingerprint)


def begin_folder(folder: Path, fingerprint: Mapping[str, Any], results: Iterable[str]) -> None:
    """Make the folder, without files of an earlier run with other options; keep its checkpoint.

    `results`: names of files that mark a run as finished. Raises `UsageError`: the folder holds files that no
    benchmark made.
    """
    if folder.exists() and not was_begun_with(folder, fingerprint):
        # only what a benchmark made: the fingerprint says so
        if (folder / FINGERPRINT).exists():
            shutil.rmtree(folder)
        elif any(folder.iterdir()):
            raise UsageError(
                "the folder of a run holds other files",
                file=folder,
                hint="choose another output, or empty it",
            )
    folder.mkdir(parents=True, exist_ok=True)
    # a failure must not be scored by what an earlier run wrote
    for name in results:
        (folder / name).unlink(missing_ok=True)
    write_text(folder / FINGERPRINT, json.dumps(fingerprint, indent=1, sort_keys=True) + "\n")
