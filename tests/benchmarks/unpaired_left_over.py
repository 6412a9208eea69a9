"""Cells without a counterpart: a type is taken out of one modality, `-s unmatched` says how many may stay.

    python tests/benchmarks/unpaired_left_over.py ../shared/data [--unmatched 0,0.1,0.3] [--seeds 0]

For every set and the second and third commonest of its types: the type's cells are removed from the second
modality, the others are integrated without pairs. Label transfer (nearest cell, both ways) is of the other
types; `wrongly left over` are cells of the second modality that get the label of the removed type; `taken
for` is the label that most of the left-over cells get, and its share; `found` is the area under the curve by
which the distance to the nearest cell of the second modality tells left-over cells from others (0.5: not).
"""

import argparse
import tempfile
from pathlib import Path

import measure

measure.one_thread()

import mudata  # noqa: E402 - threads are set first
import numpy as np  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402
from unpaired_sets import SETS, sources  # noqa: E402

import mocli  # noqa: E402
from mocli.nn.neighbors import knn  # noqa: E402


def figures(out, model, key, left):
    """What the latent of a run says of left-over cells and of the others."""
    placed = mudata.read_h5mu(out)
    a, b = placed.mod
    z = [np.asarray(placed[m].obsm[f"X_{model}"], np.float32) for m in (a, b)]
    labels = [placed[m].obs[key].astype(object).fillna("").to_numpy().astype(str) for m in (a, b)]
    over = labels[0] == left
    apart, near = knn(z[0], z[1], 1)
    there = labels[1][near[:, 0]]
    back = labels[0][knn(z[1], z[0], 1)[1][:, 0]]
    kept, known = (labels[0] != "") & ~over, labels[1] != ""
    taken, n = np.unique(there[over], return_counts=True)
    return {
        "to first": (there[kept] == labels[0][kept]).mean(),
        "to second": (back[known] == labels[1][known]).mean(),
        "wrongly left over": (back[known] == left).mean(),
        "found": roc_auc_score(over, apart[:, 0]),
        "taken for": f"{taken[n.argmax()]} {n.max() / n.sum():.2f}",
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--unmatched", default="0,0.1,0.3")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--sets", default="eccite_pbmc_49adt,citeseq_pbmc10x_2batch,snareseq_3000")
    given = parser.parse_args()
    mudata.set_options(pull_on_update=False)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for which in given.sets.split(","):
            cells, links = sources(given.data, folder, which)
            whole, key = mudata.read_h5mu(cells), SETS[which]
            a, b = whole.mod
            sizes = whole[b].obs[key].value_counts()
            # the commonest types but one: with the first of all gone little would be left
            for left in sizes.index[1:3]:
                kept = {a: whole[a].copy(), b: whole[b][whole[b].obs[key] != left].copy()}
                mudata.MuData(kept).write_h5mu(folder / "cells.h5mu")
                for unmatched in given.unmatched.split(","):
                    for seed in map(int, given.seeds.split(",")):
                        mocli.integrate(
                            folder / "cells.h5mu", links=links, output=folder / "out.h5mu", model="otcca",
                            pairing="unpaired", params={"unmatched": float(unmatched)}, seed=seed, threads=1,
                            device="cpu", html=False, metrics="none", clusters="none", force=True,
                        )  # fmt: skip
                        found = figures(folder / "out.h5mu", "otcca", key, left)
                        share = sizes[left] / sizes.sum()
                        row = {"set": which, "removed": f"{left} ({share:.2f})", "unmatched": unmatched}
                        rows.append({**row, "seed": seed} | found)
                        print(rows[-1], flush=True)
    rounded = [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    measure.show("a type without counterpart", rounded, list(rows[0]))
    measure.emit("unpaired_left_over", {"rows": rounded})


if __name__ == "__main__":
    main()
