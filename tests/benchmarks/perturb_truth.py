"""`mocli perturb` on cells whose truth is known: interferon, CRISPR knock-outs, antibodies.

    python tests/benchmarks/perturb_truth.py interferon|crispr|antibodies FOLDER [--seeds 0] [--steps N]
        [--model M]

FOLDER holds the real data sets; models are trained in a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

import mocli

INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT3", "MX1", "ISG20")
TRAINED: dict[str, int] = {}
MODEL = {"model": "multigrate"}
QUIET = {"html": False, "threads": 1, "device": "cpu"}


def interferon(folder: Path, work: Path, seed: int) -> None:
    """Screen control cells for what takes them to interferon-stimulated ones."""
    data = folder / "kang_ifnb_pbmc_labelled.h5ad"
    mocli.integrate([data], output=work / "m.h5mu", seed=seed, **MODEL, **QUIET, **TRAINED)
    for effect, direction in (("scale=0.5", "up"), ("log-shift=1", "up")):
        mocli.perturb(
            [data], from_model=work / "m.model", output=work / "s.tsv", source="condition=ctrl",
            target="condition=stim", group_key="cell_type", screen="all", effect=effect, direction=direction,
            seed=seed, force=True, **QUIET,
        )  # fmt: skip
        table = pd.read_csv(work / "s.tsv", sep="\t")
        for group, mine in table.groupby("group", sort=False):
            told = np.isin(mine["feature"], INTERFERON)
            found = mannwhitneyu(mine["shift"][told], mine["shift"][~told])
            auc = found.statistic / told.sum() / (~told).sum()
            still = mine["n_changed"] == 0
            zero = f"{still.sum()} without expression, all 0: {(mine['shift'][still] == 0).all()}"
            ranks = sorted(mine["rank"][told])
            small = int((mine["fdr"] < 0.05).sum())
            print(
                f"seed {seed} {effect} {direction} {group}: AUC {auc:.3f} p {found.pvalue:.1e} "
                f"ranks {ranks} of {len(mine)}; {zero}; FDR below 5 %: {small}"
            )


def crispr(folder: Path, work: Path, seed: int) -> None:
    """Knock out the measured targets in control cells, and hold predictions against guides."""
    result = mocli.perturb(
        [folder / "papalexi_thp1_crispr.h5ad"], output=work / "c.tsv", batch_key="batch",
        source="condition=control", truth="condition", effect="knockout", seed=seed,
        **MODEL, **QUIET, **TRAINED,
    )  # fmt: skip
    table = result.report["tables"]["truth"]
    print(f"seed {seed}\n" + pd.DataFrame(table["rows"], columns=table["columns"]).round(3).to_string())
    for key, entry in result.report["metrics"].items():
        if key.startswith("perturbation_"):
            print(f"seed {seed} {key} {entry['value']}")


def antibodies(folder: Path, work: Path, seed: int) -> None:
    """Lower CD4, read the proteins."""
    data, links = folder / "eccite_pbmc_49adt.h5mu", folder / "eccite_pbmc_49adt.links.tsv"
    linked = {"scmodal": {"links": [links]}, "sccross": {"links": [links]}}
    for model, more in ((name, linked.get(name, {})) for name in dict.fromkeys((MODEL["model"], "scmodal"))):
        mocli.perturb(
            [data], output=work / f"{model}.tsv", model=model, features="CD4", target_modality="prot",
            group_key="cell_type_gated", direction="down", seed=seed, **more, **QUIET, **TRAINED,
        )  # fmt: skip
        table = pd.read_csv(work / f"{model}.tsv", sep="\t")
        for group, mine in table.groupby("group", sort=False):
            own = mine[mine["target"] == "prot_CD4"].iloc[0]
            lowest = mine.sort_values("change").head(3)
            told = ", ".join(f"{t} {c:.2g}" for t, c in zip(lowest["target"], lowest["change"], strict=True))
            print(
                f"seed {seed} {model} {group}: CD4 protein {own['change']:.2g}, {int(own['rank'])}th of "
                f"{len(mine)} by size, z {own['z']:.2f}; lowered most: {told}"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["interferon", "crispr", "antibodies"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="of training at most; else what the preset takes")
    parser.add_argument("--model", default=MODEL["model"])
    asked = parser.parse_args()
    MODEL["model"] = asked.model
    if asked.steps:
        TRAINED["max_steps"] = asked.steps
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as work:
            globals()[asked.what](asked.folder, Path(work), seed)


if __name__ == "__main__":
    main()
