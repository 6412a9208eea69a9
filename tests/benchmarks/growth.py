"""How time and memory of a whole command grow with the cells: synthetic cells of 12 types, taken apart.

    python tests/benchmarks/growth.py --out FOLDER [--cells 6000,50000,200000] [--model otcca]
        [-- --metrics none --clusters none --no-html]

Makes n + n cells (`memory_data.py`: 2,000 genes at a density of 5 %, 100 proteins, 40 links), runs
`mocli integrate --pairing unpaired` on them, and prints seconds of each stage of the report, of the whole
process, and its largest memory; then the exponent of each between the smallest and the largest number.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

from measure import emit, show

SHAPE = {"n_genes": 2000, "n_proteins": 100, "density": 0.05, "n_links": 40}


def run(given, n):
    """One row: stages of the report, wall and processor seconds, and MB of the process."""
    folder = given.out / f"cells{n}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "links.tsv").exists():
        maker = [sys.executable, str(Path(__file__).with_name("memory_data.py")), str(folder)]
        subprocess.run([*maker, json.dumps({**SHAPE, "n_cells": n})], check=True)
    words = ["integrate", folder / "rna.h5ad", folder / "prot.h5ad", "--links", folder / "links.tsv"]
    words += ["--pairing", "unpaired", "--label-key", "cell_type", "-m", given.model, "--device", "cpu"]
    words += ["--force", "-o", folder / "out.h5mu", *given.words]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # a process of its own for each, as the largest memory of all children is what the system tells
    subprocess.run([sys.executable, "-m", "mocli", *map(str, words)], check=True)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(getattr(after, f) - getattr(before, f) for f in ("ru_utime", "ru_stime"))
    report = json.loads((folder / "out.report.json").read_text(encoding="utf-8"))
    transfer = [v["value"] for k, v in report["metrics"].items() if k.startswith("label_transfer[")]
    return {
        "cells": n,
        **{stage: round(s, 1) for stage, s in report["timing"].items()},
        "wall_s": round(wall, 1),
        "cpu_s": round(used, 1),
        "MB": round(after.ru_maxrss * 1024 / 1e6),
        "label_transfer": "/".join(f"{v:.3f}" for v in transfer),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", default="6000,50000,200000")
    parser.add_argument("--model", default="otcca")
    parser.add_argument("words", nargs="*", help="passed on to the command, after --")
    given = parser.parse_args()
    rows = [run(given, n) for n in sorted(map(int, given.cells.split(",")))]
    show("growth", rows, list(rows[-1]))
    first, last = rows[0], rows[-1]
    if first is not last:
        factor = math.log(last["cells"] / first["cells"])
        keys = [k for k, v in first.items() if isinstance(v, float) and v > 0 and k in last]
        slopes = {k: round(math.log(max(last[k], 0.1) / first[k]) / factor, 2) for k in keys}
        print("exponents:", slopes)
    emit("growth", {"rows": rows})


if __name__ == "__main__":
    main()
