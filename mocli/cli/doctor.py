"""What `mocli doctor` finds: software, devices, memory, file locks; seconds of a step (`--bench`).

No function of the former may fail.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import mocli
from mocli import __version__
from mocli.errors import MocliError
from mocli.models.registry import available

PACKAGES = (
    *("torch", "numpy", "scipy", "pandas", "h5py", "anndata", "mudata", "scanpy", "scikit-learn"),
    *("safetensors", "pydantic", "pyyaml", "typer", "rich", "jinja2", "matplotlib"),
)
LEAST_MEMORY, LEAST_DISK = 2 * 2**30, 2**30


def versions() -> dict[str, str | None]:
    """Return installed versions without importing anything; None where a package is missing."""
    facts: dict[str, str | None] = {"mocli": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = None
    return facts


def versions_yml(name: str) -> str:
    """Return the block that nf-core pipelines collect."""
    lines = [f"    {key}: {value}" for key, value in versions().items() if value is not None]
    return "\n".join([f"{json.dumps(name)}:", *lines])


def examine() -> dict[str, Any]:
    """Return everything, as plain values."""
    return {
        "versions": versions(),
        "platform": {"system": platform.platform(), "executable": sys.executable},
        "torch": _torch(),
        "cpu": _cpu(),
        "memory": _memory(),
        "hdf5": _hdf5(),
        "folders": {"working": _folder(Path.cwd()), "temporary": _folder(_temporary())},
    }


def as_text(facts: dict[str, Any]) -> str:
    """Return the findings as indented lines; the last says `ready`, or what to fix."""
    return "\n".join([*_lines(facts, 0), "", *verdict(facts)])


def verdict(facts: dict[str, Any]) -> list[str]:
    """Return what to fix before mocli runs here, and how; `ready` if there is nothing."""
    torch, memory, folders = facts["torch"], facts["memory"], facts["folders"]
    missing = [name for name, version in facts["versions"].items() if version is None]
    mend = []
    if missing:
        mend.append(f"packages are missing: pip install {' '.join(missing)}")
    if torch.get("version") is None:
        mend.append(f"torch cannot be loaded ({torch.get('problem')}): install it again")
    elif torch.get("problem"):
        mend.append(
            f"the CUDA device does not answer ({torch['problem']}): check the driver, or use --device cpu"
        )
    if facts["hdf5"].get("version") is None:
        mend.append(f"h5py cannot be loaded ({facts['hdf5'].get('problem')}): install it again")
    free = min(
        v for k in ("available_bytes", "limit_bytes", "total_bytes") if (v := memory.get(k)) is not None
    )
    if free < LEAST_MEMORY:
        mend.append(f"{free / 2**30:.1f} GiB of memory are free: ask the scheduler for 4 GiB or more")
    for name, folder in folders.items():
        if folder.get("path") is None or not folder.get("writable"):
            mend.append(f"the {name} folder cannot be written to: {TO_WRITE[name]}")
        elif folder["free_bytes"] < LEAST_DISK:
            mend.append(
                f"the {name} folder has {folder['free_bytes'] / 2**30:.1f} GiB left: {TO_WRITE[name]}"
            )
    if mend:
        return ["to mend:", *(f"- {line}" for line in mend)]
    used = "CUDA" if torch.get("cuda_available") else "the CPU"
    return [f"ready: mocli runs here, on {used}"]


TO_WRITE = {"working": "write elsewhere with -o", "temporary": "set TMPDIR to a folder with space"}


def _lines(facts: dict[str, Any], depth: int) -> list[str]:
    lines: list[str] = []
    for key, value in facts.items():
        label = f"{'  ' * depth}{key.removesuffix('_bytes').replace('_', ' ')}:"
        if isinstance(value, dict):
            lines += [label, *_lines(value, depth + 1)]
        elif isinstance(value, list):
            lines += [f"{label} {'; '.join(map(str, value)) or 'none'}"]
        elif key.endswith("_bytes"):
            lines.append(f"{label} {'unlimited' if value is None else f'{value / 2**30:.1f} GiB'}")
        else:
            lines.append(f"{label} {_word(value)}")
    return lines


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "missing" if value is None else str(value)


def _torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken build fails in many ways; that is the finding
        return {"version": None, "problem": f"{type(error).__name__}: {error}"}
    facts: dict[str, Any] = {
        "version": str(torch.__version__),
        "built_for_cuda": torch.version.cuda or "no CUDA (a CPU build)",
        "cuda_available": torch.cuda.is_available(),
        "cuda_devices": [],
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES", "not set"),
        "threads": torch.get_num_threads(),
    }
    if facts["cuda_available"]:
        try:
            facts["cuda_devices"] = [_cuda_device(i) for i in range(torch.cuda.device_count())]
        except RuntimeError as error:
            facts["problem"] = str(error)
    return facts


def _cuda_device(index: int) -> str:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return f"cuda:{index} {properties.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _cpu() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return {
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "slurm_cpus_per_task": slurm or "not set",
        "default_threads": int(slurm) if slurm.isdigit() and int(slurm) > 0 else usable,
    }


def _memory() -> dict[str, Any]:
    facts: dict[str, Any] = {"total_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        entries = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in entries:
            facts["available_bytes"] = int(entries["MemAvailable"].split()[0]) * 1024
    facts["limit_bytes"] = _memory_limit()
    return facts


def _memory_limit() -> int | None:
    """Return the control group's limit, which a scheduler or container sets."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 2**60:
            return int(text)
    return None


def _hdf5() -> dict[str, Any]:
    locking = os.environ.get("HDF5_USE_FILE_LOCKING", "not set")
    try:
        import h5py
    except Exception as error:  # noqa: BLE001 - as for torch
        return {"version": None, "problem": f"{type(error).__name__}: {error}", "use_file_locking": locking}
    return {"version": h5py.version.hdf5_version, "use_file_locking": locking}


def _temporary() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return None


def _folder(path: Path | None) -> dict[str, Any]:
    """Describe a folder without writing to it: a shared lock on the folder itself tells enough."""
    if path is None:
        return {"path": None}
    import shutil

    return {
        "path": str(path),
        "writable": os.access(path, os.W_OK),
        "free_bytes": shutil.disk_usage(path).free,
        "file_locks": _locks(path),
    }


def _locks(path: Path) -> str:
    try:
        import fcntl
    except ImportError:
        return "not known on this system"
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)
    except OSError as error:
        return f"not supported ({error.strerror}); inputs are opened without"
    return "supported"


CELLS, STEPS, STEPS_OF_GPU = 2000, 100, 1000
CLOSED_FORM = "closed form, no steps"
"""Why a model has no time per step."""


def step_times(
    device: str = "auto", *, models: Sequence[str] = (), n_cells: int = CELLS, steps: int | None = None
) -> dict[str, Any]:
    """Train models, all by default, for some steps on the demo, and return the times.

    A few steps are trained before: these wake the device, and what training begins with takes the same
    time in both, so that the difference is of steps alone.

    Args:
        steps: 100 by default, 1,000 on a GPU.

    Returns:
        dict: `device`, and by model `steps`, milliseconds for a step if there are steps, seconds of training,
            of loading and in total, or why there are none; on a GPU also milliseconds with `--cuda-graphs`.
    """
    from mocli.data.demo import write_demo

    times: dict[str, dict[str, Any]] = {}
    used = None
    with tempfile.TemporaryDirectory(prefix="mocli-") as name:
        folder = Path(name)
        write_demo(folder, n_cells=n_cells, seed=0, trimodal=False)
        for model, traits in ((m, t) for m, t in available().items() if m in models or not models):
            train = partial(_train, folder, model, paired="paired" in traits.pairings, device=device)
            try:
                first = train(max(1, (steps or STEPS) // 10))
                used = first["device"]
                many = steps or (STEPS if used["used"] == "cpu" else STEPS_OF_GPU)
                if not first["training"]["steps"]:
                    times[model] = {"steps": 0, "note": CLOSED_FORM, **_seconds(first)}
                    continue
                report = train(many)
                times[model] = {
                    "steps": report["training"]["steps"],
                    "ms_per_step": _pace(first, report),
                    **_seconds(report),
                }
                if used["used"] != "cpu":
                    again = [train(n, cuda_graphs=True) for n in (max(1, many // 10), many)]
                    times[model]["ms_per_step_cuda_graphs"] = _pace(*again)
            except MocliError as error:
                times[model] = times.get(model, {}) | {"problem": error.message}
    return {"mocli": mocli.__version__, "device": used, "cells": n_cells, "models": times}


def _train(
    folder: Path, model: str, steps: int, *, paired: bool, device: str, **more: bool
) -> dict[str, Any]:
    """Integrate cells of the demo by a model; returns the report."""
    inputs = [folder / "multiome.h5mu"] if paired else [folder / "rna.h5ad", folder / "prot.h5ad"]
    return mocli.integrate(
        inputs,
        links=folder / ("rna-atac.tsv" if paired else "rna-prot.tsv"),
        model=model,
        output=folder / f"{model}.h5mu",
        max_steps=steps,
        device=device,
        metrics="none",
        html=False,
        umap=False,
        clusters=None,
        force=True,
        **more,
    ).report


def _seconds(report: Mapping[str, Any]) -> dict[str, float]:
    return {key: report["timing"][key] for key in ("train_s", "load_s", "total_s")}


def _pace(first: Mapping[str, Any], second: Mapping[str, Any]) -> float | None:
    """Return milliseconds for each step that the second training has more; None where there are none."""
    seconds, steps = (
        second[part][key] - first[part][key] for part, key in (("timing", "train_s"), ("training", "steps"))
    )
    return round(1000 * max(0.0, seconds) / steps, 2) if steps > 0 else None
