"""Timing in CPU seconds, side by side, and what the machine did meanwhile."""

import ctypes
import json
import os
import platform
import resource
import time
from pathlib import Path

import numpy as np

BOOTSTRAPS = 10_000


def one_thread():
    """Must come before torch and numpy's BLAS are first used."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


def alternate(contenders, *, rounds, seed=0):
    """CPU seconds of each contender in each round, and the user's share of them without the system's.

    The order within a round is random. `contenders` maps a name to (function, calls per round); a
    round's figure is the mean of its calls.
    """
    rng = np.random.default_rng(seed)
    for function, _ in contenders.values():
        function()
    seconds, user = ({name: [] for name in contenders} for _ in range(2))
    for _ in range(rounds):
        for name in rng.permutation(list(contenders)):
            function, calls = contenders[name]
            begun, begun_user = time.process_time(), _user_time()
            for _ in range(calls):
                function()
            seconds[name].append((time.process_time() - begun) / calls)
            user[name].append((_user_time() - begun_user) / calls)
    return seconds, user


def _user_time():
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def ratio(slow, fast, *, seed=0):
    """Ratio of medians, with a 95 % interval from resampling the rounds."""
    slow, fast = np.asarray(slow), np.asarray(fast)
    drawn = np.random.default_rng(seed).integers(len(slow), size=(BOOTSTRAPS, len(slow)))
    ratios = np.median(slow[drawn], axis=1) / np.median(fast[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {
        "ratio": round(float(np.median(slow) / np.median(fast)), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
    }


def machine():
    """What a reader must know about the machine, without its name."""
    found = {"cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()}
    if hasattr(os, "getloadavg"):
        found["load"] = [round(x, 2) for x in os.getloadavg()]
    return found


def status_mb(field, pid="self"):
    """`VmRSS` or `VmHWM` of a process in MB (10^6 bytes); Linux only."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


def show(title, rows, columns):
    """Print a table."""
    print(f"\n{title}")
    cells = [[str(c) for c in columns]] + [[str(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def emit(name, figures):
    """Print one JSON line."""
    print("\n" + json.dumps({"benchmark": name, **figures, "machine": machine()}, sort_keys=True))


def forget_peak():
    """Start `VmHWM` of this process anew; Linux only."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def return_freed_memory():
    """Give freed memory back to the system, so that what comes next cannot hide in it; glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
