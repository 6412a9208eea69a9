"""End a run that outgrows its memory, while there is still room to say so.

A scheduler kills such a run without a word. Ended here it leaves a checkpoint and a report.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Self

from mocli.errors import Interrupted, OutOfMemory
from mocli.report import wording
from mocli.tasks.prepare.footprint import HINT, resident_memory

if TYPE_CHECKING:
    from types import TracebackType

PERIOD_S = 0.25
AGAIN_S = 5.0
"""Between two signals: training may have heard the first in its last step, and heeded it no more."""


class MemoryLimit:
    """Watches the resident set of this process, and interrupts the main thread where it is too large.

    Parameters
    ----------
    most
        Bytes; None to watch nothing. Elsewhere than on Linux, and outside the main thread, nothing
        is watched either.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self.reached: int | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        at_main = threading.current_thread() is threading.main_thread()
        if self.most is not None and at_main and resident_memory() is not None:
            self._thread = threading.Thread(target=self._watch, name="memory limit", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def watches(self) -> bool:
        """Whether the resident set is looked at."""
        return self._thread is not None

    def _watch(self) -> None:
        main, wait = threading.main_thread().ident, PERIOD_S
        while not self._done.wait(wait):
            now, wait = resident_memory(), PERIOD_S
            if now is not None and self.most is not None and now > self.most:
                self.reached = max(now, self.reached or 0)
                if main is not None:
                    # as a scheduler would: training writes its checkpoint first
                    signal.pthread_kill(main, signal.SIGTERM)
                wait = AGAIN_S

    def explain(self, error: BaseException) -> BaseException:
        """Return the error as one of memory, where this limit is what ended the run."""
        if self.reached is None or self.most is None or not isinstance(error, Interrupted):
            return error
        return OutOfMemory(
            "the run took more memory than it may",
            field="--max-memory",
            found=f"{wording.size(self.reached)}; {error.message}",
            expected=f"at most {wording.size(self.most)}",
            hint=HINT,
        )
