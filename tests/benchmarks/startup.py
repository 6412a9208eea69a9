"""How long `mocli -h` takes, and what importing the command line loads.

    python tests/benchmarks/startup.py [--runs 20]

Wall and CPU seconds of `python -m mocli -h` in fresh processes, beside `python -c pass` and the import of
typer with its rich part, all in turn; prints a table and one JSON line. Targets: `mocli -h` under 0.4 s and
1.5 times that import (CPU); no torch, anndata or scanpy.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

import measure

HEAVY = ("torch", "anndata", "mudata", "scanpy", "pandas", "numpy", "scipy", "sklearn", "h5py", "umap")
IMPORT = "typer and rich"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    IMPORT: ["-c", "import typer, typer.rich_utils"],
    "mocli -h": ["-m", "mocli", "-h"],
    "mocli --version": ["-m", "mocli", "--version"],
    "mocli integrate -h": ["-m", "mocli", "integrate", "-h"],
}


def timed(arguments):
    """Wall and CPU seconds of one fresh process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loaded():
    """Heavy libraries in `sys.modules` after importing the command line."""
    code = f"import sys, mocli.cli.app; print(*[m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    os.environ["COLUMNS"] = "100"
    load_before = measure.machine().get("load")
    times = {name: [] for name in COMMANDS}
    for turn in range(options.runs + 1):
        for name, arguments in COMMANDS.items():
            seconds = timed(arguments)
            if turn:  # the first one makes bytecode
                times[name].append(seconds)
    rows = []
    for name, seconds in times.items():
        wall, cpu = zip(*seconds, strict=True)
        rows.append(
            {
                "command": name,
                "median wall s": round(statistics.median(wall), 3),
                "best wall s": round(min(wall), 3),
                "median CPU s": round(statistics.median(cpu), 3),
            }
        )
    base = next(row["median CPU s"] for row in rows if row["command"] == IMPORT)
    for row in rows:
        row["x import"] = round(row["median CPU s"] / base, 2)
    measure.show(f"Start-up, {options.runs} runs", rows, list(rows[0]))
    heavy = loaded()
    print(f"  heavy libraries after importing mocli.cli.app: {', '.join(heavy) or 'none'}")
    measure.emit("startup", {"runs": options.runs, "rows": rows, "heavy": heavy, "load_before": load_before})


if __name__ == "__main__":
    main()
