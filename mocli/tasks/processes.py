"""Run commands of mocli in processes of their own, some at a time, each on a device of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import mocli
from mocli.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mocli.tasks.campaign import Training

POLL_S = 0.05
PATIENCE_S = 60.0
"""Between a signal passed on and the end of processes that do not heed it: time for a checkpoint."""


@dataclass
class Processes:
    """Runs trainings.

    Attributes
    ----------
    n_jobs
        Processes at a time.
    devices
        Given out to them in turn; a device has another process only where there are more processes.
    """

    n_jobs: int
    devices: Sequence[str]
    threads: int
    say: Callable[[str], None]
    _took: dict[tuple[str, str], float] = field(default_factory=dict, init=False)
    _running: list[tuple[Training, str, float, subprocess.Popen[bytes]]] = field(
        default_factory=list, init=False
    )

    def run(self, trainings: Sequence[Training]) -> dict[str, int]:
        """Run all of them and return exit codes by name; a failure stops none of the others.

        Raises
        ------
        Interrupted, KeyboardInterrupt
            After the signal was passed on and the processes have ended.
        """
        codes: dict[str, int] = {}
        waiting = list(trainings)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.n_jobs:
                    self._start(self._next(waiting))
                self._gather(codes, total=len(trainings))
                time.sleep(POLL_S)
        except Interrupted as error:
            self._stop(error.signum)
            done = sum(code == 0 for code in codes.values())
            raise Interrupted(
                error.signum,
                f"signal {error.signum} received: {done} of {len(trainings)} runs are finished",
                hint="repeat the command: finished runs are kept, the others go on from their checkpoint",
            ) from None
        except BaseException:
            self._stop(signal.SIGTERM)
            raise
        return codes

    def _next(self, waiting: list[Training]) -> Training:
        """Take the next: seed by seed, and what took longest with an earlier seed first, to end together."""
        first = waiting[0]
        among = [t for t in waiting if (t.seed, t.study) == (first.seed, first.study)]
        took = [self._took.get((t.task, t.model), -1.0) for t in among]
        chosen = among[took.index(max(took))] if min(took) >= 0 else first
        waiting.remove(chosen)
        return chosen

    def _start(self, training: Training) -> None:
        training.begin()
        used = [device for _, device, _, _ in self._running]
        device = min(self.devices, key=used.count)
        words = [*training.command, "--device", device, "--threads", str(self.threads), "--progress", "none"]
        if training.output.exists():
            words.append("--force")
        with (training.folder / "stderr.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mocli", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
            )
        self._running.append((training, device, time.monotonic(), process))
        self.say(f"started {training.name} on {device}")

    def _gather(self, codes: dict[str, int], *, total: int) -> None:
        for entry in list(self._running):
            training, _, begun, process = entry
            if (code := process.poll()) is None:
                continue
            self._running.remove(entry)
            codes[training.name] = code
            ended = "finished" if code == 0 else f"failed with exit code {code}:"
            took = self._took[training.task, training.model] = time.monotonic() - begun
            self.say(f"{ended} {training.name} in {took:.0f} s ({len(codes)} of {total})")

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


def _environment() -> dict[str, str]:
    """Return the environment without options of mocli, which the command gives, but with this very mocli."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOCLI_")}
    home = str(Path(mocli.__file__).resolve().parents[1])
    if home not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        kept["PYTHONPATH"] = os.pathsep.join([home, *filter(None, [kept.get("PYTHONPATH")])])
    return kept
