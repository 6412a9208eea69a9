"""How time and memory of a whole command grow with the cells: synthetic cells of 12 types, taken apart.

    python tests/benchmarks/growth.py --out FOLDER [--cells 6000,50000,200000] [--model otcca]
        [-- --metrics none --clusters none --no-html]

Makes n + n cells (`memory_data.py`: 2,000 genes at a density of 5 %, 100 proteins, 40 links), runs
`mocli integrate --pairing unpaired` on them, and prints seconds of each stage of the report and of the whole
process (of the processor, but for `wall_s`), and the largest memory by the end of each stage; then the
exponent of each between one number and the next, and over all of them (least squares of the logarithms);
and a chart of the logarithms for Markdown.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measure import emit, show
from memory import WITH_STAGES

# a clock of the processor for the stages, as other work may share the machine
IN_CPU_SECONDS = """
import time, types
import mocli.tasks.run.run
mocli.tasks.run.run.time = types.SimpleNamespace(**{**vars(time), "monotonic": time.process_time})
"""
STAGES = ("load", "train", "encode", "evaluate", "draw", "write")
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
    words = [*map(str, words), "--force", "-o", str(folder / "out.h5mu"), *given.words]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # a process of its own for each, as the largest memory of all children is what the system tells
    noted = folder / "peaks.json"
    subprocess.run([sys.executable, "-c", IN_CPU_SECONDS + WITH_STAGES, noted, *words], check=True)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(getattr(after, f) - getattr(before, f) for f in ("ru_utime", "ru_stime"))
    report = json.loads((folder / "out.report.json").read_text(encoding="utf-8"))
    transfer = [v["value"] for k, v in report["metrics"].items() if k.startswith("label_transfer[")]
    peaks = json.loads(noted.read_text(encoding="utf-8"))
    return {
        "cells": n,
        **{stage: round(s, 2) for stage, s in report["timing"].items()},
        "wall_s": round(wall, 1),
        "cpu_s": round(used, 1),
        **{f"{stage}_MB": peaks[stage] / 1e6 for stage in STAGES if stage in peaks},
        "MB": after.ru_maxrss * 1024 / 1e6,
        "told_MB": report["device"]["expected_memory_bytes"] / 1e6,
        "label_transfer": "/".join(f"{v:.3f}" for v in transfer),
    }


def slopes(rows):
    """Exponents of seconds and memory from each number of cells to the next, and over all, by column."""
    columns = [k for k, v in rows[0].items() if isinstance(v, float) and all(r.get(k, 0) > 0 for r in rows)]
    x = np.log([r["cells"] for r in rows])
    table = []
    for k in columns:
        y = np.log([r[k] for r in rows])
        steps = zip(rows, rows[1:], np.diff(y) / np.diff(x), strict=False)
        between = {f"{a['cells']} to {b['cells']}": round(float(e), 2) for a, b, e in steps}
        table.append({"": k, **between, "over all": round(float(np.polyfit(x, y, 1)[0]), 2)})
    return table


def chart(rows, stages):
    """Return a chart of log10 of seconds against log10 of cells, one line a stage."""
    lines = ["```mermaid", "xychart-beta", f'  title "log10 s against log10 cells: {", ".join(stages)}"']
    lines.append(f"  x-axis [{', '.join(format(math.log10(r['cells']), '.2f') for r in rows)}]")
    lines += [f"  line [{', '.join(format(math.log10(r[stage]), '.2f') for r in rows)}]" for stage in stages]
    return "\n".join([*lines, "```"])


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
    if len(rows) > 1:
        exponents = slopes(rows)
        show("exponents", exponents, list(exponents[0]))
        stages = ("load_s", "encode_s", "evaluate_s", "write_s", "draw_s")
        # what was left out took no time
        print(chart(rows, [k for k in stages if all(row.get(k, 0) > 0 for row in rows)]))
    emit("growth", {"rows": rows})


if __name__ == "__main__":
    main()
