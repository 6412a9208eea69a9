"""Cells taken apart and put together again, by the command itself: set x seed beside both baselines.

    python tests/benchmarks/unpaired_sets.py ../shared/data --out FOLDER [--seeds 0,1,2] [--sets A,B]
        [--label links=0.3 -- -s latent_weight=0.3]

Runs `mocli integrate SET.h5mu --links SET.links.tsv --pairing unpaired --label-key LABEL --metrics all` for
every set and seed (a report that is there is not made again) and prints FOSCTTM, label transfer to the
second modality and back, mixing, and seconds of fitting, of the model and of the linked features alone and
smoothed. `snareseq_3000` are 3,000 of the cells of snareseq_mouse_cortex (numpy seed 0). What follows `--`
goes to the command.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from measure import show

SETS = {
    "eccite_pbmc_49adt": "cell_type_gated",
    "citeseq_pbmc10x_2batch": "cell_type_gated",
    "citeseq_bmmc_134adt": "cell_type",
    "citeseq_pbmc5k_29adt": "cell_type_gated",
    "multiome_bmmc_2batch": "cell_type",
    "snareseq_3000": "cell_type",
    "snareseq_mouse_cortex": "cell_type",
    "scicar_a549": "cell_type",
    "scgem_reprogramming": "cell_type",
}
PARTS = {
    "snareseq_3000": (
        "snareseq_mouse_cortex",
        lambda read: np.sort(np.random.default_rng(0).choice(read.n_obs, 3000, replace=False)),
    ),
    "hao_paired": (
        "citeseq_pbmc_hao_mosaic",
        lambda read: np.flatnonzero(np.all([read.obsm[key] for key in read.mod], axis=0)),
    ),
}
"""Sets made of some cells of others: drawn ones, and those that have every modality."""

COLUMNS = ["foscttm", "to_second", "to_first", "mixing"]
ASKED = 1200
"""Seconds that a run may take."""


def sources(data: Path, out: Path, name: str) -> tuple[Path, Path]:
    """Return the file of cells and the table of links; smaller sets are made of others."""
    if name not in PARTS:
        return data / f"{name}.h5mu", data / f"{name}.links.tsv"
    made, (whole, cells) = out / f"{name}.h5mu", PARTS[name]
    if not made.exists():
        import mudata

        read = mudata.read_h5mu(data / f"{whole}.h5mu")
        chosen = read.obs_names[cells(read)]
        mudata.MuData({key: m[chosen].copy() for key, m in read.mod.items()}).write_h5mu(made)
    return made, data / f"{whole}.links.tsv"


def run(given: argparse.Namespace, name: str, seed: str) -> dict:
    """Return the report of one run."""
    stem = given.out / f"{name}.{given.label}.{seed}"
    report = stem.with_name(stem.name + ".report.json")
    # a run that was stopped has a report without metrics, and the same command does the rest
    if not report.exists() or '"foscttm[' not in report.read_text(encoding="utf-8"):
        cells, links = sources(given.data, given.out, name)
        words = ["integrate", cells, "--links", links, "--pairing", "unpaired", "--label-key", SETS[name]]
        words += ["--metrics", "all", "--device", "cpu", "--threads", 1, "--no-html", "--seed", seed]
        words += ["-o", f"{stem}.h5mu", *given.words]
        command = [sys.executable, "-m", "mocli", *map(str, words)]
        subprocess.run(command, check=True, timeout=ASKED, capture_output=not given.loud)
        Path(f"{stem}.h5mu").unlink()
    return json.loads(report.read_text(encoding="utf-8"))


def figures(metrics: dict) -> dict[str, float]:
    """FOSCTTM, label transfer there and back, mixing."""
    (placed,) = (key for key in metrics if key.startswith("foscttm["))
    first, second = placed[len("foscttm[") : -1].split("-")
    keys = [placed, f"label_transfer[{first}->{second}]", f"label_transfer[{second}->{first}]", "mixing"]
    return {c: metrics[key]["value"] for c, key in zip(COLUMNS, keys, strict=True)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--label", default="default", help="name of these options among the reports")
    parser.add_argument("--loud", action="store_true")
    parser.add_argument("words", nargs="*", help="passed on to the command, after --")
    given = parser.parse_intermixed_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.sets.split(","):
        for seed in given.seeds.split(","):
            report = run(given, name, seed)
            fit = report["timing"]
            rows.append({"set": name, "way": "model", "seed": seed, **figures(report["metrics"]), **fit})
        for baseline, found in report["baselines"].items():
            rows.append({"set": name, "way": baseline, "seed": seed, **figures(found["metrics"])})
    table = pd.DataFrame(rows)
    mean = table.groupby(["set", "way"], sort=False)[COLUMNS].agg(["mean", "min", "max"]).round(3)
    show("mean of seeds", table.round(3).astype(str).to_dict("records"), list(table.columns))
    print(mean.to_string())


if __name__ == "__main__":
    main()
