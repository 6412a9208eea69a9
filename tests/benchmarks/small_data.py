"""Models on small sets with labels: quality, CPU seconds and steps of `mocli integrate`, by set and seed.

    python tests/benchmarks/small_data.py ../shared/data --models sccross --set align_steps=2000

One process after the other on one thread, so that CPU seconds are what a quiet machine would need. What is
given with `--set` goes to every run: how the figures before a change of defaults are had.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

LABELS = {
    "citeseq_bmmc_134adt": "cell_type",
    "multiome_bmmc_2batch": "cell_type",
    "citeseq_pbmc10x_2batch": "cell_type_gated",
    "eccite_pbmc_49adt": "cell_type_gated",
    "citeseq_pbmc5k_29adt": "cell_type_gated",
}
METRICS = {
    "paired": ("nmi_kmeans", "silhouette", "mean_average_precision"),
    "unpaired": ("foscttm", "label_transfer", "mixing"),
}


def figures(given: argparse.Namespace, name: str, model: str, seed: int) -> str:
    """One run's figures, in a line."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.h5mu"
        words = ["-m", "mocli", "integrate", given.data / f"{name}.h5mu", "-o", out, "-m", model]
        words += ["--pairing", given.pairing, "--label-key", LABELS[name], "--seed", seed]
        words += ["--metrics", "all", "--no-html", "--device", "cpu", "--threads", given.threads]
        words += ["--links", given.data / f"{name}.links.tsv"]
        words += [word for text in given.set for word in ("--set", text)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *map(str, words)], check=True, stderr=subprocess.DEVNULL, env=ENV)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads(out.with_suffix(".report.json").read_text(encoding="utf-8"))
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    scores = [
        f"{key} {entry['value']:.3f}"
        for key, entry in report["metrics"].items()
        if key.split("[")[0] in METRICS[given.pairing]
    ]
    return ", ".join([*scores, f"{report['training']['steps']} steps, {spent:.0f} CPU s"])


ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def main() -> None:
    """Run every model on every set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", default="sccross")
    parser.add_argument("--pairing", choices=list(METRICS), default="paired")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--sets", default=",".join(LABELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    for name in given.sets.split(","):
        for model in given.models.split(","):
            for seed in map(int, given.seeds.split(",")):
                print(f"{name} {model} seed {seed}: {figures(given, name, model, seed)}", flush=True)


if __name__ == "__main__":
    main()
