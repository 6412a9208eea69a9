"""Seconds of every stage of `mocli integrate`, by set: the demo, real sets, and synthetic cells.

    python tests/benchmarks/stages.py [--data ../shared/data] [--only demo,eccite,snare,50000,100000]
        [--max-steps N] [-- further words for the command]

One process after the other. Prints the stages of the report, when the output was on disk (as a share of
the whole), what is outside of reading and training in seconds and as a multiple of training, and processor
seconds: on a machine that others use, too, these alone mean something.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measure import emit, show

SHAPE = {"n_genes": 3000, "n_proteins": 40, "density": 0.07, "n_links": 32}
STAGES = ("load", "train", "encode", "write", "stack", "evaluate", "draw")


def words_of(name, data, folder):
    """Inputs and options of a set; data that are not there yet are made by another process."""
    if name == "demo":
        subprocess.run([sys.executable, "-m", "mocli", "demo", folder / "demo"], check=True)
        demo = folder / "demo"
        return [demo / "rna.h5ad", demo / "prot.h5ad", "--links", demo / "rna-prot.tsv"]
    if name.isdigit():
        maker = [sys.executable, str(Path(__file__).with_name("memory_data.py")), str(folder)]
        shape = json.dumps({**SHAPE, "n_cells": int(name)})
        subprocess.run([*maker, shape], check=True, stdout=subprocess.DEVNULL)
        files = [folder / "rna.h5ad", folder / "prot.h5ad", "--links", folder / "links.tsv"]
        return [*files, "--pairing", "unpaired", "--label-key", "cell_type", "-m", "scmodal"]
    full = {"eccite": "eccite_pbmc_49adt", "snare": "snareseq_mouse_cortex"}[name]
    label = {"eccite": "cell_type_gated", "snare": "cell_type"}[name]
    options = ["--links", data / f"{full}.links.tsv", "--pairing", "unpaired", "--label-key", label]
    return [data / f"{full}.h5mu", *options, "-m", "scmodal"]


def run(name, given):
    """Return one row."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        out = folder / "out.h5mu"
        words = ["integrate", *words_of(name, given.data, folder), "-o", out, "--device", "cpu"]
        words += ["--max-steps", given.max_steps] if given.max_steps else []
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        child = subprocess.Popen([sys.executable, "-m", "mocli", *map(str, [*words, *given.words])])
        written = []
        watch = threading.Thread(target=_when_there, args=(out, child, written), daemon=True)
        watch.start()
        if child.wait():
            raise SystemExit(f"{name}: exit {child.returncode}")
        wall = time.monotonic() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads((folder / "out.report.json").read_text(encoding="utf-8"))
    timing = report["timing"]
    seconds = {stage: timing.get(f"{stage}_s", 0.0) for stage in STAGES}
    around = sum(seconds.values()) - seconds["load"] - seconds["train"]
    cpu = sum(getattr(after, f) - getattr(before, f) for f in ("ru_utime", "ru_stime"))
    return {
        "set": name,
        **{stage: round(s, 1) for stage, s in seconds.items()},
        "wall": round(wall, 1),
        "cpu": round(cpu, 1),
        "on disk after": f"{(written[0] - begun) / wall:.0%}" if written else "",
        "outside": round(around, 1),
        "outside / train": round(around / seconds["train"], 2) if seconds["train"] else "",
        "peak MB": round(report["device"]["peak_memory_bytes"] / 1e6),
        "told MB": round(report["device"]["expected_memory_bytes"] / 1e6),
        "told s": report["device"].get("expected_seconds", ""),
    }


def _when_there(path, child, found):
    while child.poll() is None:
        if path.exists():
            found.append(time.monotonic())
            return
        time.sleep(0.02)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", default="demo,eccite,snare,50000,100000")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("words", nargs="*", help="passed on to the command, after --")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    for name in given.only.split(","):
        rows.append(run(name, given))
        show("stages", rows[-1:], list(rows[-1]))
    emit("stages", {"rows": rows, "load": os.getloadavg()})


if __name__ == "__main__":
    main()
