"""Labels of queries of one modality and of both, by where training cells vote.

    python tests/benchmarks/query_labels.py DATA [--sets eccite,10x] [--models multigrate] [--seeds 0,1]

A line of JSON for each query: the coordinates chosen, and for these and all others the share of cells
that are labelled right (unknown counts as wrong), and of those not unknown. Of two batches the first (seed 0)
or the second (seed 1) is the reference and the other the query; else 60 % of the cells are the reference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mudata
import numpy as np

import mocli
from mocli.tasks.integrate import labels
from mocli.tasks.integrate.voting import Voting, best_voting

SETS: dict[str, tuple[str, str, str | None]] = {
    "eccite": ("eccite_pbmc_49adt", "cell_type_gated", None),
    "10x": ("citeseq_pbmc10x_2batch", "cell_type_gated", "batch"),
    "bmmc": ("citeseq_bmmc_134adt", "cell_type_coarse", "donor"),
    "multiome": ("multiome_bmmc_2batch", "cell_type_coarse", "donor"),
    "snare": ("snareseq_mouse_cortex", "cell_type", None),
    "scicar": ("scicar_a549", "cell_type", None),
}
"""File, label, and the column of obs whose values are reference and query; None draws cells."""

MOST_CELLS = 3_000


def split(data: Path, name: str, seed: int, folder: Path) -> tuple[str, list[tuple[str, ...]]]:
    """Write the reference and the queries of a set; return its label and what each query was measured in."""
    stem, label, column = SETS[name]
    with mudata.set_options(pull_on_update=False):
        parts = dict(mudata.read_h5mu(data / f"{stem}.h5mu").mod)
        obs = next(iter(parts.values())).obs
        rng = np.random.default_rng(seed)
        chosen = np.isin(np.arange(len(obs)), rng.permutation(len(obs))[:MOST_CELLS])
        chosen &= (obs[label].astype(str) != "unassigned").to_numpy()
        first = rng.random(len(obs)) < 0.6
        if column is not None:
            levels = sorted(obs[column].astype(str).unique())
            first = (obs[column].astype(str) == levels[seed % 2]).to_numpy()
        queries = [*((m,) for m in parts), tuple(parts)]
        wanted = {"reference": (tuple(parts), chosen & first)}
        wanted |= {"-".join(q): (q, chosen & ~first) for q in queries}
        for file, (modalities, cells) in wanted.items():
            mudata.MuData({m: parts[m][cells].copy() for m in modalities}).write_h5mu(folder / f"{file}.h5mu")
    return label, queries


def measure(data: Path, name: str, model: str, seed: int, folder: Path) -> None:
    """Train a reference, map its queries, and print where their labels were voted on."""
    label, queries = split(data, name, seed, folder)
    shared: dict[str, Any] = {"html": False, "umap": False, "metrics": "none", "clusters": None}
    shared |= {"device": "cpu", "threads": 1, "force": True, "seed": seed}
    links = {} if model == "multigrate" else {"links": [data / f"{SETS[name][0]}.links.tsv"]}
    reference = folder / "trained.h5mu"
    mocli.integrate(
        [folder / "reference.h5mu"], output=reference, model=model, label_key=label, **shared, **links
    )
    for query in queries:
        found: dict[str, list[float | None]] = {}
        offered: list[Voting] = []

        def choose(spaces: Sequence[Voting], offered: list[Voting], wanted: int | None) -> Voting:
            offered[:] = [*spaces, best_voting(spaces)]
            return best_voting(spaces) if wanted is None else spaces[wanted]

        for wanted in (None, 0, 1, 2, 3):
            with patch.object(labels, "best_voting", partial(choose, offered=offered, wanted=wanted)):
                report = mocli.integrate(
                    folder / f"{'-'.join(query)}.h5mu",
                    output=folder / "mapped.h5mu",
                    reference=folder / "trained.model",
                    transfer_labels=label,
                    **shared,
                ).report["metrics"]
            way = "chosen" if wanted is None else offered[wanted].name
            found[way] = [
                report[f"query_label_{metric}[{label}->{query[0]}, k-NN]"]["value"]
                for metric in ("accuracy", "accuracy_known")
            ]
        line = {
            "set": name,
            "model": model,
            "seed": seed,
            "query": "+".join(query),
            "voted_in": offered[-1].name,
        }
        rounded = {way: [None if v is None else round(v, 3) for v in values] for way, values in found.items()}
        print(json.dumps({**line, **rounded}), flush=True)


def main() -> None:
    """Print a line for every set, model, seed and query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="eccite,10x,bmmc,multiome")
    parser.add_argument("--models", default="multigrate")
    parser.add_argument("--seeds", default="0,1")
    asked = parser.parse_args()
    for name in asked.sets.split(","):
        for model in asked.models.split(","):
            for seed in map(int, asked.seeds.split(",")):
                with tempfile.TemporaryDirectory() as folder:
                    measure(asked.data, name, model, seed, Path(folder))


if __name__ == "__main__":
    main()
