"""Choose the device and the number of threads; say what was chosen."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from mocli.errors import EnvironmentProblem, UsageError, did_you_mean


def choose_device(requested: str, *, of_machine: int = 0) -> torch.device:
    """Return the device asked for; `auto` is CUDA if it works, else the CPU.

    `of_machine`: number of this process among those on this machine: each takes a CUDA device of its own.
    Raises `EnvironmentProblem`: the device named is not available; there is no silent fallback.
    """
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    if requested == "cuda" and of_machine:
        requested = f"cuda:{of_machine}"
    kind, _, index = requested.partition(":")
    if kind not in {"cpu", "cuda"} or (index and not index.isdigit()):
        choices = ["auto", "cpu", "cuda", "cuda:0"]
        raise UsageError(
            f"'{requested}' is not a device",
            field="--device",
            hint=did_you_mean(requested, choices, "devices"),
        )
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            built = torch.version.cuda or "no CUDA (a CPU build)"
            raise EnvironmentProblem(
                f"the device '{requested}' is not available",
                field="--device",
                found=f"{count} CUDA device{'' if count == 1 else 's'}; torch {torch.__version__}, {built}",
                expected="a visible CUDA device",
                hint="use --device cpu, or ask the scheduler for a GPU; `mocli doctor` shows what is visible",
            )
    return torch.device(requested)


def choose_threads(requested: int | None, *, shared_by: int = 1) -> int:
    """Return `requested`, else SLURM_CPUS_PER_TASK, else the CPUs that affinity and container allow.

    Those that are granted are `shared_by` so many processes.
    """
    if requested is not None:
        if requested < 1:
            raise UsageError("threads must be at least 1", field="--threads", found=requested)
        return requested
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit() and int(slurm) > 0:
        return max(1, int(slurm) // shared_by)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _quota() or allowed) // shared_by)


def _quota() -> int | None:
    """Return the CPUs a container may use (cgroup v2), None where that is not limited."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return int(int(quota) / int(period))
    except (OSError, ValueError):
        return None


@contextmanager
def torch_settings(*, threads: int, deterministic: bool) -> Iterator[None]:
    """Set threads and determinism for the duration, and restore torch, its generators, BLAS and OpenMP."""
    # brings its own OpenMP: only libraries that are loaded can be limited
    import sklearn  # noqa: F401

    old_threads = torch.get_num_threads()
    # by the mode, as `use_deterministic_algorithms` loads a compiler that nothing here uses
    old_mode = torch.get_deterministic_debug_mode()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("error")
    try:
        with threadpool_limits(_pools(threads)), torch.random.fork_rng():
            torch.set_num_threads(threads)
            yield
    finally:
        torch.set_num_threads(old_threads)
        torch.set_deterministic_debug_mode(old_mode)


def set_threads(threads: int) -> None:
    """Set the threads of torch, and of every BLAS and OpenMP that is loaded by now."""
    threadpool_limits(_pools(threads))
    torch.set_num_threads(threads)


def _pools(threads: int) -> dict[str, int]:
    """Threads by kind of library: sums by the BLAS of numpy and SciPy depend on their number."""
    return {"blas": 1, "openmp": threads}


def describe(device: torch.device, *, requested: str, threads: int) -> dict[str, Any]:
    """Return the report's entry for the device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        name = platform.processor() or platform.machine()
    return {
        "requested": requested,
        "used": str(device),
        "name": name,
        "threads": threads,
        "torch": str(torch.__version__),
    }


def peak_memory() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def gpu_peak_memory(device: torch.device) -> int | None:
    """Return the most memory torch held on a CUDA device, in bytes."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
