"""Cells of two experiments, unpaired for good: compositions differ, as in most studies.

    python tests/benchmarks/unpaired_experiments.py ../shared/data --out FOLDER [--sets A;B] [--words="-m M"]

Each set is one modality of one data set and one of another, with labels that both have (others and cells
without a label are called unassigned). Runs `mocli links build` (or links features of the same name) and
`mocli integrate A B --links --label-key lab --metrics all`, and prints label transfer to the second modality
and back, and mixing, of the model and of the linked features alone and smoothed; receiving cells of labels
that the giving modality lacks are counted, too, so that 1 cannot always be reached. `--words` go to the
command.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd

TYPES = {
    "CD4 T": "CD4 T", "CD4 T cells": "CD4 T", "T_CD4": "CD4 T", "CD8 T": "CD8 T", "CD8 T cells": "CD8 T",
    "T_CD8": "CD8 T", "B": "B", "B cells": "B", "NK": "NK", "CD14 Mono": "CD14 Mono",
    "CD14+ Monocytes": "CD14 Mono", "Mono_CD14": "CD14 Mono", "FCGR3A+ Monocytes": "CD16 Mono",
    "Mono_CD16": "CD16 Mono",
}  # fmt: skip
LINEAGES = {name: "T" if "T" in kind.split() else kind.split()[-1] for name, kind in TYPES.items()}
LINEAGES |= {"Tcell": "T", "Bcell": "B", "Myeloid": "Mono"}

SETS = {
    "adt87 x adt216": (
        ("prot", "adt87_pbmc_kotliarov", "cell_type_gated", {}),
        ("cyto", "adt216_pbmc_stim_4batch", "cell_type", {"technology": "CITE-seq"}),
    ),
    "adt216, two assays": (
        ("prot", "adt216_pbmc_stim_4batch", "cell_type", {"technology": "CITE-seq"}),
        ("cyto", "adt216_pbmc_stim_4batch", "cell_type", {"technology": "ASAP-seq"}),
    ),
    "PBMC5k RNA x adt216": (
        ("rna", "citeseq_pbmc5k_29adt", "cell_type_gated", {}),
        ("prot", "adt216_pbmc_stim_4batch", "cell_type", {"technology": "CITE-seq"}),
    ),
    "10x RNA x adt87": (
        ("rna", "citeseq_pbmc10x_2batch", "cell_type_gated", {}),
        ("prot", "adt87_pbmc_kotliarov", "cell_type_gated", {}),
    ),
    "3 technologies' RNA x adt87": (
        ("rna", "pbmc_3tech_labelled", "cell_type", {}),
        ("prot", "adt87_pbmc_kotliarov", "cell_type_gated", {}),
    ),
    "3 technologies' RNA x ECCITE-seq": (
        ("rna", "pbmc_3tech_labelled", "cell_type", {}),
        ("prot", "eccite_pbmc_49adt", "cell_type_gated", {}),
    ),
    "kang x 3 technologies": (
        ("rna", "kang_ifnb_pbmc_labelled", "cell_type", {}),
        ("gex", "pbmc_3tech_labelled", "cell_type", {}),
    ),
}
"""By name: modality, data set, column of labels and values that cells must have, of either side."""
MOST = 2500
SAME_NAMES = {"adt216, two assays", "kang x 3 technologies"}


def side(data: Path, made: Path, which, lineages: bool) -> Path:
    """Write one modality of a data set with the column `lab`."""
    modality, name, label, chosen = which
    path = data / f"{name}.h5ad"
    if path.exists():
        cells = anndata.read_h5ad(path)
    else:
        both = mudata.read_h5mu(path.with_suffix(".h5mu"))
        cells = both.mod[modality].copy()
        for column in both.obs.columns.difference(cells.obs.columns):
            cells.obs[column] = both.obs[column].reindex(cells.obs_names)
    for column, value in chosen.items():
        cells = cells[cells.obs[column] == value]
    rows = np.random.default_rng(0).choice(cells.n_obs, min(MOST, cells.n_obs), replace=False)
    cells = cells[np.sort(rows)].copy()
    kinds = cells.obs[label].astype(object).map(LINEAGES if lineages else TYPES)
    cells.obs = pd.DataFrame({"lab": kinds.fillna("unassigned").astype("category")}, cells.obs_names)
    cells.obs_names = [f"{made.stem}_{cell}" for cell in cells.obs_names]
    cells.write_h5ad(made)
    return made


def link(name: str, sides, files, table: Path) -> None:
    """Write the table of links."""
    (a, *_), (b, *_) = sides
    if name in SAME_NAMES:
        names = [anndata.read_h5ad(file, backed="r").var_names for file in files]
        pd.DataFrame({a: (shared := names[0].intersection(names[1])), b: shared}).to_csv(table, sep="\t")
        return
    words = [
        "links",
        "build",
        f"{a}={files[0]}",
        f"{b}={files[1]}",
        "--mode",
        "antigen",
        "-o",
        table,
        "--force",
    ]
    subprocess.run([sys.executable, "-m", "mocli", *map(str, words)], check=True, capture_output=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=";".join(SETS), help="separated by ;")
    parser.add_argument("--words", type=shlex.split, default=[], help="passed on to the command")
    given = parser.parse_args()
    mudata.set_options(pull_on_update=False)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.sets.split(";"):
        sides = SETS[name]
        stem = given.out / name.replace(" ", "_").replace(",", "").replace("'", "")
        lineages = any(which[1].startswith("adt216") for which in sides)
        files = [
            side(given.data, Path(f"{stem}.{end}.h5ad"), which, lineages)
            for end, which in zip("ab", sides, strict=True)
        ]
        link(name, sides, files, Path(f"{stem}.tsv"))
        (a, *_), (b, *_) = sides
        kind = "rna" if b == "gex" else "prot"
        words = [
            "integrate",
            f"{a}={files[0]}",
            f"{b}={files[1]}",
            "--kind",
            f"{b}={kind}",
            "--links",
            f"{stem}.tsv",
        ]
        words += [
            "--label-key",
            "lab",
            "--metrics",
            "all",
            "--clusters",
            "none",
            "--no-html",
            "--device",
            "cpu",
        ]
        words += ["--threads", 1, "-o", f"{stem}.h5mu", "--force", *given.words]
        subprocess.run([sys.executable, "-m", "mocli", *map(str, words)], check=True, capture_output=True)
        report = json.loads(Path(f"{stem}.report.json").read_text(encoding="utf-8"))
        keys = [f"label_transfer[{a}->{b}]", f"label_transfer[{b}->{a}]", "mixing"]
        ways = {report["model"]["name"]: report["metrics"]}
        ways |= {way: found["metrics"] for way, found in report["baselines"].items()}
        losses = report["training"]["losses"].get("solved", {})
        for way, metrics in ways.items():
            rows.append({"set": name, "way": way, **{k: metrics[key]["value"] for k, key in zip(
                ("to second", "to first", "mixing"), keys, strict=True)}})  # fmt: skip
        print(name, {k: round(v["last"], 3) for k, v in losses.items()}, flush=True)
    table = pd.DataFrame(rows).round(3)
    print(table.to_string(index=False))
    print(table.groupby("way", sort=False)[["to second", "to first", "mixing"]].mean().round(3).to_string())


if __name__ == "__main__":
    main()
