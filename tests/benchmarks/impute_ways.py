"""Imputation against simple ways: sets x models x seeds, median Pearson and R2 over features of hidden cells.

    python tests/benchmarks/impute_ways.py DATA_FOLDER [--sets citeseq_pbmc5k_29adt:rna:prot ...]
        [--models multigrate scmodal:unpaired] [--seeds 0 1 2] [--max-steps 300]

Every run holds a fifth of the paired cells out of training and compares. A model with `:unpaired` is not told
which cells are the same, so that nothing is stacked. Prints a table and one JSON line.
"""

import argparse
import tempfile
from pathlib import Path

import measure

measure.one_thread()

import numpy as np  # noqa: E402 - threads are set first

import mocli  # noqa: E402

SETS = (
    "citeseq_pbmc10x_2batch:rna:prot",
    "citeseq_pbmc5k_29adt:rna:prot",
    "eccite_pbmc_49adt:rna:prot",
    "citeseq_bmmc_134adt:rna:prot",
    "multiome_bmmc_2batch:atac:rna",
)


def one(folder, name, model, seed, max_steps):
    """Median Pearson and R2 by way, of one run."""
    data, source, target = name.split(":")
    model, _, pairing = model.partition(":")
    links = folder / f"{data}.links.tsv"
    with tempfile.TemporaryDirectory() as out:
        result = mocli.impute(
            folder / f"{data}.h5mu", output=Path(out) / "o.h5ad", source=source, target=target, model=model,
            pairing=pairing or "auto", links=links if links.exists() else (), evaluate=True, seed=seed,
            max_steps=max_steps, threads=1, device="cpu", html=False,
        )  # fmt: skip
        report = result.report
    key = f"[{source}->{target}]"
    ways = {"mocli": report["metrics"]} | {k: b["metrics"] for k, b in report["baselines"].items()}
    found = {
        way: [metrics.get(f"imputation_{s}_median{key}", {}).get("value") for s in ("pearson", "r2")]
        for way, metrics in ways.items()
    }
    return found, report["metrics"][f"interval_coverage{key}"]["value"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--models", nargs="+", default=["multigrate", "scmodal:unpaired"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int)
    options = parser.parse_args()
    rows = []
    for name in options.sets:
        for model in options.models:
            runs = [one(options.folder, name, model, seed, options.max_steps) for seed in options.seeds]
            row = {"set": name, "model": model, "coverage": round(np.mean([c for _, c in runs]), 3)}
            for way in runs[0][0]:
                values = np.array([[np.nan if v is None else v for v in found[way]] for found, _ in runs])
                row[way] = "/".join(f"{v:.3f}" for v in values.mean(0)) + f" ({values[:, 0].std():.3f})"
            rows.append(row)
            print(row, flush=True)
    columns = list(dict.fromkeys(k for row in rows for k in row))
    measure.show("median Pearson/R2 (spread of Pearson over seeds)", rows, columns)
    measure.emit("impute_ways", {"rows": rows})


if __name__ == "__main__":
    main()
