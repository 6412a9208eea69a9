"""Which model `auto` should take: all that fit on every labelled set, and the choice with each set left out.

    python tests/benchmarks/auto_choice.py ../shared/data --out FOLDER --pairing paired --seeds 0,1,2

Runs `mocli benchmark` once for each set (a table that is there is not made again), ranks models and controls
by every metric within a set, and takes the model whose worst mean rank over sets is best. With each set left
out in turn, the model chosen on the others is held against the best one on it: that is what a default may
claim for data that nobody has seen.
"""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import pandas as pd

SETS = {
    "citeseq_bmmc_134adt": "cell_type",
    "multiome_bmmc_2batch": "cell_type",
    "citeseq_pbmc10x_2batch": "cell_type_gated",
    "citeseq_pbmc5k_29adt": "cell_type_gated",
    "eccite_pbmc_49adt": "cell_type_gated",
    "scicar_a549": "cell_type",
    "snareseq_mouse_cortex": "cell_type",
}
METRICS = {
    "paired": ("nmi_kmeans", "silhouette", "mean_average_precision"),
    "unpaired": ("foscttm", "label_transfer", "mixing"),
}
BOUNDS = {"shuffled", "perfect"}


def figures(folder: Path, name: str, given: argparse.Namespace) -> pd.DataFrame:
    """Method x metric on one set, mean of seeds, higher is better."""
    table = given.out / f"{name}.{given.pairing}.tsv"
    if not table.exists():
        links = folder / f"{name}.links.tsv"
        words = ["-m", "mocli", "benchmark", folder / f"{name}.h5mu", "--links", links, "-o", table]
        words += ["--pairing", given.pairing, "--label-key", SETS[name], "--seeds", given.seeds]
        words += ["--device", "cpu", "--threads", "1", "--no-html"]
        words += ["--models", given.models] if given.models else []
        subprocess.run([sys.executable, *map(str, words)], check=True)
    found = pd.read_csv(table, sep="\t", dtype={"value": float})
    found = found[found["metric"].isin(METRICS[given.pairing]) & ~found["method"].isin(BOUNDS)]
    found["value"] *= found["better"].map({"higher": 1, "lower": -1})
    key = found["metric"] + found["of"].fillna("").map(lambda of: f"[{of}]" if of else "")
    return (
        found.assign(key=key)
        .pivot_table(index="method", columns="key", values="value", aggfunc="mean")
        .dropna()
    )


def mean_ranks(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Method x set: the mean over metrics of a method's rank within the set, 1 the best."""
    return pd.DataFrame({name: t.rank(ascending=False).mean(axis=1) for name, t in tables.items()})


def choose(ranks: pd.DataFrame) -> str:
    """Return the model whose worst rank over sets is best; of equal ones that of the better mean."""
    return min(ranks.index, key=lambda method: (ranks.loc[method].max(), ranks.loc[method].mean()))


def main() -> None:
    """Run, rank, choose."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairing", choices=list(METRICS), default="paired")
    parser.add_argument("--models", default="")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sets", default=",".join(SETS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    tables = {name: figures(given.data, name, given) for name in given.sets.split(",")}
    for name, table in tables.items():
        print(f"\n{name}\n{table.abs().round(3).to_string()}")
    ranks = mean_ranks(tables)
    print(f"\nmean rank over metrics\n{ranks.assign(worst=ranks.max(axis=1)).round(2).to_string()}")
    from mocli.models.registry import available

    models = ranks.loc[ranks.index.isin(list(available()))]
    print(f"\nchosen over all sets: {choose(models)}")
    for out in models.columns if len(models.columns) > 1 else []:
        chosen = choose(models.drop(columns=out))
        lost = (tables[out].loc[models.index].max() - tables[out].loc[chosen]).round(3).to_dict()
        print(f"without {out}: {chosen}; lost on it against its best model: {lost}")
    pairs = itertools.combinations(models.columns, 2)
    print(
        "agreement of ranks between sets:",
        round(pd.Series([models[a].corr(models[b]) for a, b in pairs]).mean(), 2),
    )


if __name__ == "__main__":
    main()
