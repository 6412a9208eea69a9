"""Time and precision of `mocli gene2peak` by silencing: processor seconds, promoters found, factors' targets.

    python tests/benchmarks/silencing.py DATA.h5mu --model OUT.model --gtf GENES [--genes 200]
        [--min-cells 200]
        [--group-key cell_type] [--targets TF_TARGETS.tsv.gz --links LINKS.tsv --factors Mef2a Jun]

Genes are drawn at random (numpy seed 0) among those that `--min-cells` cells express. With `--targets`
(tf, target) and `--links` (a gene-peak table) every factor's peaks are those linked with its targets; as
many peaks drawn at random go by the name of another gene each, and should show nothing. Prints tables and
one JSON line.
"""

import argparse
import tempfile
import time
from pathlib import Path

import measure

measure.one_thread()

import mudata  # noqa: E402 - threads are set first
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import mocli  # noqa: E402


def peak_sets(options, genes, peaks, rng, path):
    """Write the factors' sets and random ones; return all names."""
    targets = pd.read_csv(options.targets, sep="\t").groupby("tf")["target"].apply(set)
    links = pd.read_csv(options.links, sep="\t")
    first, second = links.columns[[1, 3]] if "target_feature" in links else links.columns[:2]
    found = {f: links.loc[links[first].isin(targets[f]), second].unique() for f in options.factors}
    others = rng.choice([g for g in genes if g not in targets.index], len(found), replace=False)
    for other, known in zip(others, list(found.values()), strict=True):
        found[other] = rng.choice(peaks, len(known), replace=False)
    table = [(name, peak) for name, members in found.items() for peak in members]
    pd.DataFrame(table, columns=["set", "peak"]).to_csv(path, sep="\t", index=False)
    return list(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--model", required=True)
    parser.add_argument("--gtf", required=True)
    parser.add_argument("--genes", type=int, default=200)
    parser.add_argument("--min-cells", type=int, default=200)
    parser.add_argument("--group-key")
    parser.add_argument("--step", default="adam")
    parser.add_argument("--targets")
    parser.add_argument("--links")
    parser.add_argument("--factors", nargs="+", default=[])
    options = parser.parse_args()
    data = mudata.read_h5mu(options.data)
    rna, atac = data["rna"], data["atac"]
    n_cells = np.asarray((rna.X > 0).sum(0)).ravel()
    rng = np.random.default_rng(0)
    able = rna.var_names[n_cells >= options.min_cells].to_numpy()
    genes = list(rng.choice(able, min(options.genes, len(able)), replace=False))
    with tempfile.TemporaryDirectory() as folder:
        folder, more = Path(folder), {}
        if options.factors:
            genes = peak_sets(options, able, atac.var_names.to_numpy(), rng, folder / "sets.tsv")
            more["peak_sets"] = folder / "sets.tsv"
        begun, wall = time.process_time(), time.monotonic()
        report = mocli.gene2peak(
            options.data, output=folder / "o.tsv", from_model=options.model, gtf=options.gtf, genes=genes,
            group_key=options.group_key, step=options.step, threads=1, device="cpu", html=False, **more,
        ).report  # fmt: skip
        cpu, wall = time.process_time() - begun, time.monotonic() - wall
        found = {k: v["value"] for k, v in report["metrics"].items() if k.startswith("silencing_")}
        sets = pd.read_csv(folder / "o.peaksets.tsv", sep="\t") if options.factors else None
    measure.show(
        "found", [{"metric": k, "value": round(v, 4)} for k, v in found.items()], ["metric", "value"]
    )
    rows = []
    if sets is not None:
        wanted = ["set", "n_cells", "n_peaks", "change", "change_random", "p", "p_matched"]
        rows = sets.loc[sets["group"] == "all", wanted].to_dict("records")
        measure.show("sets of peaks", rows, wanted)
    print(f"{len(genes):,} genes: {cpu:.0f} s of processor time, {wall:.0f} s by the clock")
    measure.emit("silencing", {"genes": len(genes), "cpu_s": cpu, "found": found, "sets": rows})


if __name__ == "__main__":
    main()
