"""Which model `auto` should take: all that fit on every labelled set, and the choice with each set left out.

    python tests/benchmarks/auto_choice.py ../shared/data --out FOLDER --pairing paired --seeds 0,1,2

Runs `mocli benchmark` once for each set (a table that is there is not made again, nor is a run), ranks models
and controls by every metric within a set, and takes the model whose worst mean rank over sets is best. With
each set left out in turn, the model chosen on the others is held against the best one on it: that is what a
default may claim for data that nobody has seen. Last, what the criteria of `--model best` would choose on a
set from these full trainings, without labels, is held against the choice by labels.
"""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import pandas as pd
from unpaired_sets import sources

from mocli.models.registry import available
from mocli.tasks.integrate.work import MEASURES, label_free_ranks

SETS = {
    "citeseq_bmmc_134adt": "cell_type",
    "hao_paired": "cell_type",
    "multiome_bmmc_2batch": "cell_type",
    "citeseq_pbmc10x_2batch": "cell_type_gated",
    "citeseq_pbmc5k_29adt": "cell_type_gated",
    "eccite_pbmc_49adt": "cell_type_gated",
    "scicar_a549": "cell_type",
    "snareseq_3000": "cell_type",
}
METRICS = {
    "paired": ("nmi_kmeans", "silhouette", "knn_accuracy"),
    "unpaired": ("foscttm", "label_transfer", "mixing"),
}
CONTROLS = {
    "paired": ("principal_components", "wnn"),
    "unpaired": ("link_features", "smoothed_link_features"),
}


def table_of(name: str, given: argparse.Namespace) -> pd.DataFrame:
    """Return the benchmark's figures of models and controls on one set; made if it is not there."""
    table = given.out / f"{name}.{given.pairing}.tsv"
    if not table.exists():
        cells, links = sources(given.data, given.out, name)
        words = ["-m", "mocli", "benchmark", cells, "--links", links, "-o", table, "--force"]
        words += ["--pairing", given.pairing, "--label-key", SETS[name], "--seeds", given.seeds]
        words += ["--device", "cpu", "--threads", "1", "--no-html"]
        words += ["--models", given.models] if given.models else []
        # a model that does not take these values is told in the table, and by the exit code
        subprocess.run([sys.executable, *map(str, words)], check=False)
    found = pd.read_csv(table, sep="\t", dtype={"value": float})
    found = found[found["method"].isin([*available(), *CONTROLS[given.pairing]])]
    key = found["metric"] + found["of"].fillna("").map(lambda of: f"[{of}]" if of else "")
    return found.assign(key=key)


def figures(found: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Method x metric on one set, mean of seeds, as they are."""
    some = found[found["metric"].isin(metrics)]
    return some.pivot_table(index="method", columns="key", values="value", aggfunc="mean")


def upwards(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return figures that are higher where they are better, of methods that have them all."""
    lower = set(found.loc[found["better"] == "lower", "key"])
    return table.mul([-1 if key in lower else 1 for key in table.columns]).dropna()


def mean_ranks(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Method x set: the mean over metrics of a method's rank within the set, 1 the best."""
    return pd.DataFrame({name: t.rank(ascending=False).mean(axis=1) for name, t in tables.items()})


def choose(ranks: pd.DataFrame) -> str:
    """Return the model whose worst rank over sets is best; of equal ones that of the better mean."""
    return min(ranks.index, key=lambda method: (ranks.loc[method].max(), ranks.loc[method].mean()))


def lost(table: pd.DataFrame, chosen: str) -> dict[str, float]:
    """Return by metric what a model is behind the best one."""
    models = table.loc[table.index.isin(list(available()))]
    return (models.max() - models.loc[chosen]).round(3).to_dict()


def without_labels(found: pd.DataFrame, by_labels: pd.DataFrame) -> str:
    """Say what is chosen without labels on one set, and how its ranks agree with those by labels."""
    values = figures(found, MEASURES)
    values = values.loc[values.index.intersection(by_labels.index).intersection(list(available()))]
    free = pd.Series(label_free_ranks({m: row.dropna().to_dict() for m, row in values.iterrows()}))
    labels = by_labels.loc[free.index].rank(ascending=False).mean(axis=1)
    correlation = free.rank().corr(labels.rank())
    chosen = str(free.idxmin())
    return f"{chosen} (Spearman {correlation:.2f}), lost {lost(by_labels, chosen)}"


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
    found = {name: table_of(name, given) for name in given.sets.split(",")}
    tables = {}
    for name, rows in found.items():
        shown = figures(rows, METRICS[given.pairing])
        tables[name] = upwards(rows, shown)
        seeds = rows.groupby("method")["seed"].nunique().max()
        print(f"\n{name}, {seeds} seeds\n{shown.round(3).to_string()}")
    ranks = mean_ranks(tables)
    summary = ranks.assign(worst=ranks.max(axis=1), mean=ranks.mean(axis=1))
    print(f"\nmean rank over metrics\n{summary.round(2).to_string()}")
    models = ranks.loc[ranks.index.isin(list(available()))]
    print(f"\nchosen over all sets: {choose(models)}")
    for out in models.columns if len(models.columns) > 1 else []:
        chosen = choose(models.drop(columns=out))
        print(f"without {out}: {chosen}; lost on it against its best model: {lost(tables[out], chosen)}")
    pairs = itertools.combinations(models.columns, 2)
    agreement = pd.Series([models[a].corr(models[b]) for a, b in pairs]).mean()
    print(f"agreement of ranks between sets: {agreement:.2f}\n\nwithout labels")
    for name, rows in found.items():
        print(f"{name}: {without_labels(rows, tables[name])}")


if __name__ == "__main__":
    main()
