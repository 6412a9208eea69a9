"""Keeps runs apart and results whole: locks, unfinished outputs, unchanged inputs, a memory limit.

A scheduler kills a run that outgrows its memory without a word. Ended here, while there is still memory to
do so, it leaves a checkpoint and a report.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mocli.errors import InputError, Interrupted, OutOfMemory, UsageError
from mocli.leftovers import left_beside
from mocli.report import figures
from mocli.tasks.run.paths import FILES, WEIGHTS

HINT = (
    "keep fewer features (--hvg, --seen-in), lower --batch-size, leave cells on disk (integrate --backed), "
    "or ask for more memory"
)

LIBRARIES_MAPPED = 1.2e9
"""Bytes of addresses that torch and what it is used with take, without those of CUDA."""

LARGE = 2**24
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `malloc.h`."""

PERIOD_S = 0.25
AGAIN_S = 5.0
"""Seconds between two signals: training may have received the first too late to act on it."""


class MemoryLimit:
    """Watches the resident set of this process, and interrupts the main thread if it grows too large.

    `most`: bytes; None to watch nothing. Elsewhere than on Linux, and outside the main thread, nothing is
    watched either.
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
        """Return the error as an out-of-memory error, if this limit ended the run."""
        if self.reached is None or self.most is None or not isinstance(error, Interrupted):
            return error
        return OutOfMemory(
            "the run used more memory than it may",
            field="--max-memory",
            found=f"{figures.size(self.reached)}; {error.message}",
            expected=f"at most {figures.size(self.most)}",
            hint=HINT,
        )


def return_large_blocks() -> None:
    """Have blocks of 16 MB and more returned to the system as soon as they are freed.

    Else glibc keeps blocks of up to 32 MB in its heap once one was freed, where smaller ones that stay leave
    holes: 30 to 80 MB at the peak of 50,000 cells.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            for bound in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
                mallopt(bound, LARGE)


def return_freed_memory() -> None:
    """Return freed memory to the system: glibc keeps it in scattered pieces, some 150 MB after training."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def available_memory() -> int | None:
    """Return the bytes that this process can still use, on the machine or within its job's limit."""
    limits = [n for n in (_of_machine(), _of_addresses(), *_of_groups()) if n is not None]
    return max(0, min(limits)) if limits else None


def resident_memory() -> int | None:
    """Return the bytes that this process uses now; None if the system does not say."""
    return _pages(1)


def check_addresses() -> None:
    """Refuse to start where the libraries do not fit in memory: loading them would end the process at once.

    Raises `OutOfMemory`: the limit on addresses (`ulimit -v`) leaves too few.
    """
    addresses = _of_addresses()
    if addresses is not None and addresses < LIBRARIES_MAPPED and "torch" not in sys.modules:
        raise OutOfMemory(
            "the limit on memory of this shell leaves too little to load the libraries",
            field="ulimit -v",
            found=figures.size(addresses),
            expected=f"{figures.size(LIBRARIES_MAPPED)} or more",
            hint="raise it with ulimit -v, or ask the scheduler for more",
        )


def _of_addresses() -> int | None:
    """Return what the limit on addresses (`ulimit -v`) leaves to this process."""
    try:
        import resource
    except ImportError:  # not on this system
        return None
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _pages(0)
    return None if limit == resource.RLIM_INFINITY or used is None else max(0, limit - used)


def _pages(column: int) -> int | None:
    """Return bytes of a column of `/proc/self/statm`: addresses, then what is resident."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def kept_in_memory(folder: Path, of: Path = Path("/proc/mounts")) -> bool:
    """Whether what is written into a folder takes memory, as far as the system says."""
    try:
        lines = of.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    mounts = {Path(place): kind for _, place, kind, *_ in map(str.split, lines)}
    at = folder.resolve()
    return next((mounts[p] for p in (at, *at.parents) if p in mounts), "") in ("tmpfs", "ramfs")


def _of_machine() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        text = ""
    if (line := re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)) is not None:
        return int(line[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _of_groups(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Iterable[int]:
    """Yield the bytes left by the limits of a job (control groups, either version)."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = (
                root / "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        leaf = base / path.lstrip("/")
        for folder in (leaf, *leaf.parents):
            rest = _left(folder, *names)
            if rest is not None:
                yield rest
            if folder == base:
                break


def _left(folder: Path, most: str, used: str, cache: str) -> int | None:
    try:
        limit = int((folder / most).read_text(encoding="ascii"))
        now = int((folder / used).read_text(encoding="ascii"))
        cached = re.search(rf"^{cache} (\d+)$", (folder / "memory.stat").read_text("ascii"), re.MULTILINE)
    except (OSError, ValueError):  # absent, or "max"
        return None
    return limit - now + (int(cached[1]) if cached else 0)


UNFINISHED = "unfinished.json"
"""File in the checkpoint folder that lists the outputs of a run with more work to do."""

Stamp = tuple[int, int, int]
"""Size, time of the last change in nanoseconds, and inode of a file."""


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs from writing the outputs that share a stem with this one.

    The system releases the lock when the process ends, however it ends; the file alone means nothing. Where
    the folder or the file system allows no lock, there is none.

    Raises:
        UsageError: Another run is writing them now.
    """
    path = output.with_name(f".{output.stem[:200]}.lock")
    try:
        handle = _lock(path)
    except BlockingIOError as error:
        raise UsageError(
            "another run is writing this output now",
            file=output,
            found=f"it holds a lock on {path.name}",
            hint="wait for it to end, or choose another output",
        ) from error
    try:
        yield
    finally:
        if handle is not None:
            # deleted while it is locked: who opened it meanwhile notices, and tries again
            if _is_at(handle, path):
                with suppress(OSError):
                    path.unlink()
            os.close(handle)


def _lock(path: Path) -> int | None:
    """Open a file and lock it; None where that is not possible, `BlockingIOError` where another has it."""
    try:
        import fcntl
    except ImportError:  # not on this system
        return None
    while True:
        try:
            handle = _opened(path)
        except OSError:  # the check of the folder says what is wrong with it
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise
            return None  # a file system without locks
        # a lock on a file that its holder has deleted meanwhile keeps nobody out
        if _is_at(handle, path):
            return handle
        os.close(handle)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except PermissionError:  # of another user in the same folder: to lock it, reading is enough
        return os.open(path, os.O_RDONLY)


def _is_at(handle: int, path: Path) -> bool:
    """Say whether an open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def stamp(path: Path) -> Stamp | None:
    """Return a stamp that changes when a file is written anew; None if there is no file."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns, about.st_ino


def check_unchanged(stamps: Mapping[Path, Stamp | None]) -> None:
    """Make sure that files are still those that were opened; `InputError` for one that is not."""
    for path, before in stamps.items():
        if before is not None and stamp(path) != before:
            raise InputError(
                "the input changed while the run was reading it",
                file=path,
                found=f"{stamp(path) or 'no file'} (size, time of change, inode)",
                expected=str(before),
                hint="repeat the command once the file no longer changes",
            )


def mark(folder: Path, paths: Iterable[Path]) -> None:
    """Note in the checkpoint folder that outputs are written, and that there is more to do."""
    folder.mkdir(parents=True, exist_ok=True)
    stamps = {str(p.absolute()): stamp(p / WEIGHTS if p.is_dir() else p) for p in paths}
    temporary = folder / f".{UNFINISHED}.tmp"
    temporary.write_text(json.dumps(stamps), encoding="utf-8")
    temporary.replace(folder / UNFINISHED)


def unfinished(folder: Path) -> frozenset[Path]:
    """Return the outputs of an unfinished run that are still as it left them, as absolute paths."""
    try:
        stamps = json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))
        stamp_of = {Path(p): tuple(s) for p, s in stamps.items() if s}
    except (OSError, ValueError, AttributeError, TypeError):
        return frozenset()
    return frozenset(p for p, s in stamp_of.items() if stamp(p / WEIGHTS if p.is_dir() else p) == s)


def clear_mark(folder: Path) -> None:
    """Remove the note of an unfinished run."""
    (folder / UNFINISHED).unlink(missing_ok=True)


def remove_leftovers(outputs: Sequence[Path]) -> list[Path]:
    """Delete half-written files of a run that was killed; call it only while holding the lock.

    They are recognised by their names, `.OUTPUT.<12 hexadecimal digits>.tmp`; a folder also by its
    contents.
    """
    removed = []
    for output in outputs:
        for path in left_beside(output):
            with suppress(OSError):
                if not path.is_dir():
                    path.unlink()
                elif {p.name for p in path.iterdir()} <= FILES:
                    shutil.rmtree(path)
                removed.append(path)
    return removed
