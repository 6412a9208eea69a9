"""Memory and time that every subcommand foretells on SNARE-seq, beside what it takes.

``python tests/benchmarks/foretold.py [--only TEXT] [--max-steps N]`` runs the commands below one by one with
one thread and prints a line for each: bytes foretold, bytes at the peak, their ratio; seconds foretold,
seconds taken, their ratio. Memory is meant to be right within a factor of two, time within three;
`test_foretold.py` asserts the first.

``python tests/benchmarks/foretold.py --reports FOLDER`` runs no training: what the commands of all reports in
a folder are told now (`--dry-run`) is held against the seconds that they took then, by whole schedules.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"

SET = "{data}/snareseq_mouse_cortex.h5mu"
GTF = "--gtf {data}/prior_genes_mm10.tsv.gz"
BRIEF = "--max-steps {steps}"
COMMANDS = {
    "integrate": f"integrate {SET} -m multigrate {BRIEF} -o o.h5mu",
    "integrate-unpaired": f"integrate {SET} --links {{data}}/snareseq_mouse_cortex.links.tsv -m scmodal"
    f" --pairing unpaired {BRIEF} -o o.h5mu",
    "impute-atac": f"impute {SET} -m multigrate --from rna --to atac --evaluate {BRIEF} -o o.h5mu",
    "impute-rna": f"impute {SET} -m multigrate --from atac --to rna --evaluate {BRIEF} -o o.h5mu",
    "perturb": f"perturb {SET} -m multigrate --from cell_type=L2/3 --to cell_type=L6 {BRIEF} -o o.tsv",
    "simulate": f"simulate {SET} -m multigrate {BRIEF} -o o.h5mu",
    "gene2peak-metacells": f"gene2peak {SET} --method metacells {GTF} -o o.tsv",
    "gene2peak-correlation": f"gene2peak {SET} -m multigrate --method correlation {GTF} {BRIEF} -o o.tsv",
    "gene2peak-silencing": f"gene2peak {SET} -m multidgd --genes Gad1,Slc17a7 {GTF} {BRIEF} -o o.tsv",
    "benchmark": f"benchmark {SET} --models multigrate --label-key cell_type {BRIEF} -o o.tsv",
}


def run(name: str, steps: int) -> dict[str, float]:
    """Run one command in a process of its own and return what its report says of memory and time."""
    with tempfile.TemporaryDirectory() as folder:
        words = COMMANDS[name].format(data=DATA, steps=steps).split()
        seed = ["--seeds", "0"] if words[0] == "benchmark" else ["--seed", "0"]
        settings = ["--device", "cpu", "--threads", "1", *seed, "-q"]
        done = subprocess.run(
            [sys.executable, "-m", "mocli", *words, *settings],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{name}: exit {done.returncode}: {done.stderr[-2000:]}")
        report = json.loads((Path(folder) / "o.report.json").read_text())
    device = report["device"]
    return {
        "memory_told": device.get("expected_memory_bytes") or float("nan"),
        "memory": device["peak_memory_bytes"],
        "time_told": device.get("expected_seconds") or float("nan"),
        "time": report["timing"]["total_s"],
    }


def against_reports(folder: Path) -> None:
    """Print a line for each report of a training: seconds told now, seconds that it took, their ratio."""
    ratios = []
    for path in sorted(folder.rglob("*.report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if not (report.get("training") or {}).get("steps") or report["status"] != "ok":
            continue
        words = [sys.executable, "-m", "mocli", *report["command"][1:], "--dry-run", "--force"]
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
        told = re.search(r"take about ([\d.]+) (s|min|h)", done.stdout + done.stderr)
        if told is None:
            raise SystemExit(f"{path}: exit {done.returncode}: {done.stderr[-2000:]}")
        seconds = float(told[1]) * {"s": 1, "min": 60, "h": 3600}[told[2]]
        ratios.append(seconds / report["timing"]["total_s"])
        name = f"{path.parent.name}/{path.name}"
        print(f"{name}: {seconds:.0f} s told, {report['timing']['total_s']:.0f} s taken, {ratios[-1]:.2f}")
    within = sum(1 / 3 <= ratio <= 3 for ratio in ratios)
    print(f"{within} of {len(ratios)} within a factor of 3, {min(ratios):.2f} to {max(ratios):.2f}")


def environment() -> dict[str, str]:
    """Return this environment, with one thread and this checkout."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="Commands whose name holds this text")
    options.add_argument("--max-steps", type=int, default=20)
    options.add_argument("--reports", type=Path, help="Folder of reports of earlier runs")
    asked = options.parse_args()
    if asked.reports:
        against_reports(asked.reports)
        return
    print(
        "| command | told, MB | peak, MB | ratio | told, s | took, s | ratio |\n|---|---|---|---|---|---|---|"
    )
    for name in (name for name in COMMANDS if asked.only in name):
        found = run(name, asked.max_steps)
        told, peak, before, took = (found[key] for key in ("memory_told", "memory", "time_told", "time"))
        memory = f"{told / 1e6:.0f} | {peak / 1e6:.0f} | {told / peak:.2f}"
        print(f"| {name} | {memory} | {before:.0f} | {took:.0f} | {before / took:.2f} |", flush=True)


if __name__ == "__main__":
    main()
