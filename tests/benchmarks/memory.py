"""Peak memory of `mocli integrate` on 50,000 cells x 3,000 genes at 7 % density and 40 proteins.

    python tests/benchmarks/memory.py [--cells 50000] [--genes 3000] [--density 0.07] [--folder DIR]
        [options of mocli]

The command runs in a process of its own, training is cut to 20 steps; all metrics and both baselines
run. Prints seconds and peak per stage and one JSON line. Target: 2.5 times the bytes of the CSR
matrix of the genes plus 500 MB.
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

TIMES_CSR, BASE_MB = 2.5, 500
HERE = Path(__file__).resolve().parent

# the command itself, noting the peak so far at the end of each stage
WITH_STAGES = """
import os
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before anything loads OpenMP, as the command does
import json, resource, sys
from contextlib import contextmanager
from mocli.tasks.run.run import Run

timed, peaks = Run.timed, {}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

@contextmanager
def noted(self, name):
    peaks.setdefault("before", peak())
    with timed(self, name):
        yield
    peaks[name] = peak()

Run.timed = noted
from mocli.__main__ import main
code = main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(peaks))
sys.exit(code)
"""


def write_data(folder, shape):
    """Bytes of each CSR matrix; written by another process, whose memory is not counted."""
    command = [sys.executable, str(HERE / "memory_data.py"), str(folder), json.dumps(shape)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def integrate(folder, *, threads, more=()):
    """Run the command; returns its peak in MB, CPU and wall seconds, and the report."""
    inputs = [str(folder / name) for name in ("rna.h5ad", "prot.h5ad")]
    options = ["--links", str(folder / "links.tsv"), "--pairing", "unpaired", "--label-key", "cell_type"]
    options += ["--max-steps", "20", "--no-html", "--device", "cpu", "--seed", "0", "--force"]
    options += ["--threads", str(threads), "-o", str(folder / "out.h5mu"), *more]
    stages = folder / "stages.json"
    command = [sys.executable, "-c", WITH_STAGES, str(stages), "integrate", *inputs, *options]
    begun = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    complaint = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(complaint.decode())
    report = json.loads((folder / "out.report.json").read_text(encoding="utf-8"))
    return {
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_s": round(time.monotonic() - begun, 1),
        "stages": json.loads(stages.read_text(encoding="utf-8")),
        "report": report,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=3_000)
    parser.add_argument("--density", type=float, default=0.07, help="of the genes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the data here and use them again")
    options, more = parser.parse_known_args()
    shape = {"n_cells": options.cells, "n_genes": options.genes}
    shape |= {"n_proteins": 40, "density": options.density, "n_links": 32}
    load_before = measure.machine().get("load")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        sizes = folder / "sizes.json"
        if not sizes.exists():
            folder.mkdir(exist_ok=True)
            sizes.write_text(json.dumps(write_data(folder, shape)), encoding="utf-8")
        found = integrate(folder, threads=options.threads, more=more)
        size = json.loads(sizes.read_text(encoding="utf-8"))
    shape |= {"threads": options.threads, "options": more}
    tell(size, found, shape, load_before)


def tell(size, found, shape, load_before):
    """Print the table and the JSON line."""
    csr = size["rna"]["csr"] / 1e6
    budget = TIMES_CSR * csr + BASE_MB
    timing = found["report"]["timing"]
    peaks = {name: round(peak / 1e6) for name, peak in found["stages"].items()}
    rows = [
        {"stage": name, "wall s": timing.get(f"{name}_s", ""), "peak so far MB": peak}
        for name, peak in peaks.items()
    ]
    title = f"{shape['n_cells']:,} cells x {shape['n_genes']:,} genes, 20 steps, {shape['threads']} threads"
    measure.show(" ".join([title, *shape["options"]]), rows, list(rows[0]))
    print(f"  peak {found['peak_mb']:.0f} MB")
    print(f"  budget {budget:.0f} MB = {TIMES_CSR} x {csr:.1f} MB (CSR of the genes) + {BASE_MB} MB")
    print(f"  wall {found['wall_s']} s, CPU {found['cpu_s']} s")
    metrics = {
        k: round(v["value"], 4) for k, v in found["report"]["metrics"].items() if v["value"] is not None
    }
    print(f"  metrics: {metrics}")
    measure.emit(
        "memory",
        {
            "shape": shape,
            "sizes": size,
            "peak_mb": round(found["peak_mb"]),
            "budget_mb": round(budget),
            "within": found["peak_mb"] <= budget,
            "stages_peak_mb": peaks,
            "timing": timing,
            "cpu_s": found["cpu_s"],
            "metrics": metrics,
            "load_before": load_before,
        },
    )


if __name__ == "__main__":
    main()
