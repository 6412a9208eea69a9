"""How many cells of a type that the reference lacks are unknown, and how many others wrongly so.

    python tests/benchmarks/lacking_types.py DATA [--sets 10x] [--models otcca] [--seeds 0,1]

60 % of the cells without one type are the reference; the rest and all cells of the type are mapped, by RNA,
by proteins, and by both where the model places cells once. A line of JSON each: shares unknown, of the type
left out and of all others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import mudata
import numpy as np

import mocli

SETS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "10x": ("citeseq_pbmc10x_2batch", "batch", ("B", "NK", "CD14 Mono")),
    "eccite": ("eccite_pbmc_49adt", None, ("B", "NK", "Myeloid")),
}
LABEL = "cell_type_gated"


def shares(data: Path, name: str, model: str, seed: int, left: str, folder: Path) -> dict[str, Any]:
    """Train without a type, map it, and return the shares of unknown cells by what was measured."""
    stem, batch, _ = SETS[name]
    with mudata.set_options(pull_on_update=False):
        whole = mudata.read_h5mu(data / f"{stem}.h5mu")
    label = whole["rna"].obs[LABEL].astype(str).to_numpy()
    first = np.random.default_rng(seed).random(len(label)) < 0.6
    gated, its = label != "unassigned", label == left
    for m in ("rna", "prot"):
        whole[m][first & gated & ~its].copy().write_h5ad(folder / f"reference-{m}.h5ad")
        whole[m][gated & (~first | its)].copy().write_h5ad(folder / f"query-{m}.h5ad")
    shared: dict[str, Any] = {"html": False, "umap": False, "metrics": "none", "clusters": None}
    shared |= {"device": "cpu", "threads": 1, "force": True, "seed": seed, "batch_key": batch}
    apart = {"pairing": "unpaired"} if model == "otcca" else {}
    links = {} if model == "multigrate" else {"links": [data / f"{stem}.links.tsv"]}
    mocli.integrate(
        [f"{m}={folder / f'reference-{m}.h5ad'}" for m in ("rna", "prot")],
        output=folder / "reference.h5mu",
        model=model,
        label_key=LABEL,
        **{**shared, **apart, **links},
    )
    found: dict[str, Any] = {"set": name, "model": model, "seed": seed, "left_out": left}
    for measured in (("rna",), ("prot",), ("rna", "prot"))[: 2 if apart else 3]:
        report = mocli.integrate(
            [f"{m}={folder / f'query-{m}.h5ad'}" for m in measured],
            output=folder / "mapped.h5mu",
            reference=folder / "reference.model",
            transfer_labels=LABEL,
            **shared,
        ).report["metrics"]
        found["+".join(measured)] = [
            round(report[f"query_label_{metric}[{LABEL}->{measured[0]}, k-NN]"]["value"], 3)
            for metric in ("unknown_lacking", "unknown")
        ]
    return found


def main() -> None:
    """Print a line for every set, model, seed and type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="10x,eccite")
    parser.add_argument("--models", default="otcca,multigrate,sccross")
    parser.add_argument("--seeds", default="0,1")
    asked = parser.parse_args()
    for name in asked.sets.split(","):
        for model in asked.models.split(","):
            for seed in map(int, asked.seeds.split(",")):
                for left in SETS[name][2]:
                    with tempfile.TemporaryDirectory() as folder:
                        print(
                            json.dumps(shares(asked.data, name, model, seed, left, Path(folder))), flush=True
                        )


if __name__ == "__main__":
    main()
