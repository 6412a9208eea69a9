"""Cells that stay on disk against cells in memory: peak memory, CPU seconds, steps per CPU second, figures.

    python tests/benchmarks/backed.py [--cells 200000] [--steps 1000] [--folder DIR] [--only backed|held]
        [options of mocli integrate]

Makes paired cells of 2,000 genes (density 10 %) and 100 proteins block by block (`memory_data.py`), and
integrates them by Multigrate in a process of its own, with `--backed` and with `--no-backed`. Target for
1,000,000 cells: less than 2 GB, and 0.7 of the steps per CPU second of cells in memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
from memory import WITH_STAGES, write_data

SHAPE = {"n_genes": 2000, "n_proteins": 100, "density": 0.1, "n_links": 40}
TARGET_MB, TARGET_RATIO = 2000, 0.7


# the steps alone, without what comes before the first
WITH_STEPS = """
import time
from mocli.train import loop

run = loop._Stretch.run

def timed_run(self, done):
    begun = time.process_time()
    run(self, done)
    peaks["seconds_of_steps"] = time.process_time() - begun

loop._Stretch.run = timed_run
"""


def integrate(folder, steps, threads, more):
    """Run the command; returns what it took and measured."""
    inputs = [str(folder / name) for name in ("rna.h5ad", "prot.h5ad")]
    options = ["-m", "multigrate", "--label-key", "cell_type", "--max-steps", str(steps), "--no-html"]
    options += ["--device", "cpu", "--threads", str(threads), "--force", "--progress", "none"]
    stages, out = folder / "stages.json", folder / "out.h5mu"
    script = WITH_STAGES.replace("from mocli.__main__", WITH_STEPS + "from mocli.__main__")
    command = [sys.executable, "-c", script, str(stages), "integrate", *inputs, *options]
    begun = time.monotonic()
    child = subprocess.Popen([*command, "-o", str(out), *more], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the command ended with {child.returncode}")
    report = json.loads((folder / "out.report.json").read_text(encoding="utf-8"))
    timing, peaks = report["timing"], json.loads(stages.read_text(encoding="utf-8"))
    seconds = peaks.pop("seconds_of_steps")
    return {
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6),
        "cpu_s": round(usage.ru_utime + usage.ru_stime),
        "wall_s": round(time.monotonic() - begun),
        "stages": {name: round(peak / 1e6) for name, peak in peaks.items()},
        "timing": timing,
        "steps_per_cpu_s": round(report["training"]["steps"] / seconds, 1),
        "latent": report["determinism"]["latent_sha256"][:12],
        "metrics": {k: round(v["value"], 3) for k, v in report["metrics"].items() if v["value"] is not None},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the data here and use them again")
    parser.add_argument("--only", choices=("backed", "held"))
    options, more = parser.parse_known_args()
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "prot.h5ad").exists():
            folder.mkdir(exist_ok=True)
            write_data(folder, {"n_cells": options.cells, **SHAPE})
        for name, flag in (("backed", "--backed"), ("held", "--no-backed")):
            if options.only in (None, name):
                found[name] = integrate(folder, options.steps, options.threads, [flag, *more])
                print(json.dumps({name: found[name]}))
    columns = ("peak_mb", "cpu_s", "wall_s", "steps_per_cpu_s", "latent")
    rows = [{"cells": name, **{c: of[c] for c in columns}} for name, of in found.items()]
    measure.show(f"{options.cells:,} cells, {options.steps:,} steps", rows, list(rows[0]))
    print(f"  targets: below {TARGET_MB} MB, {TARGET_RATIO} of the steps per CPU second")


if __name__ == "__main__":
    main()
