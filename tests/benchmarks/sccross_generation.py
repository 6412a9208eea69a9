"""scCross' own experiment: train on a fifth of paired cells, generate RNA from the ATAC of the others.

    python tests/benchmarks/sccross_generation.py cells.h5mu --out DIR [--share 0.2] [--max-steps N]

Pearson r, over labels and genes, each between what was measured in the held-out cells and what was generated:

- proportions: `imputation_label_shares`, as `mocli impute --evaluate --label-key` has it: labels given
  to generated cells (expected counts) by the 15 nearest training cells in 50 principal components of
  log-normalised RNA, against the shares of the true labels;
- top genes: `imputation_top_features`: of every label the 5 genes whose mean log-normalised value is highest
  over the mean of the other cells, in measured held-out cells; mean values by true label, measured against
  generated; besides, for all chosen genes in all labels.

Beside them, the same for sampled counts, and for training cells drawn at random.
"""

import argparse
import json
from pathlib import Path

import mudata as md
import numpy as np
import torch
from scipy import sparse

import mocli
from mocli.metrics.imputation import (
    LabelledCells,
    RealCells,
    Tally,
    imputation_label_shares,
    imputation_top_features,
    top_of,
)
from mocli.tasks.trained.saved import load_model


def log_normalised(x, depth):
    return np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1e-9) * depth)


def of(x):
    return np.asarray(x.todense() if hasattr(x, "todense") else x, np.float64)


def compare(generated, measured, real, label, levels):
    tallies = [Tally(label, levels, real, generated.shape[1]) for _ in range(2)]
    for tally, values in zip(tallies, (measured, generated), strict=True):
        tally.add(np.arange(values.shape[1]), values)
    cells = LabelledCells(levels, label, tallies[1].given(), *(tally.means for tally in tallies))
    has = np.flatnonzero(cells.sizes)
    union = np.unique(top_of(cells.measured, cells.sizes)[has])
    in_all = np.corrcoef(
        cells.measured[np.ix_(has, union)].ravel(), cells.imputed[np.ix_(has, union)].ravel()
    )
    return {
        "proportions_r": round(imputation_label_shares.compute(cells), 3),
        "labels_right": round(float((cells.given == label).mean()), 3),
        "top_genes_r": round(imputation_top_features.compute(cells), 3),
        "top_genes_in_all_labels_r": round(float(in_all[0, 1]), 3),
        "n_top_genes": len(union),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with md.set_options(pull_on_update=False):
        cells = md.read_h5mu(args.data)
        order = np.random.default_rng(args.seed).permutation(cells.n_obs)
        n = round(args.share * cells.n_obs)
        train, held = (np.sort(part) for part in (order[:n], order[n:]))
        cells[train].copy().write_h5mu(args.out / "train.h5mu")
    cells["atac"][held].copy().write_h5ad(args.out / "held_atac.h5ad")
    params = dict(text.split("=", 1) for text in args.set)
    mocli.integrate(
        args.out / "train.h5mu",
        output=args.out / "trained.h5mu",
        model="sccross",
        params=params,
        max_steps=args.max_steps,
        seed=args.seed,
        html=False,
        device="cpu",
        threads=1,
        force=True,
    )
    mocli.integrate(
        f"atac={args.out / 'held_atac.h5ad'}",
        output=args.out / "placed.h5mu",
        reference=args.out / "trained.model",
        html=False,
        device="cpu",
        force=True,
    )
    with md.set_options(pull_on_update=False):
        z = torch.from_numpy(np.asarray(md.read_h5mu(args.out / "placed.h5mu")["atac"].obsm["X_sccross"]))
    saved = load_model(args.out / "trained.model")
    generator = torch.Generator().manual_seed(args.seed)
    with torch.inference_mode():
        expected = saved.model.decode("rna", z.float()).numpy()
        drawn = saved.model.sample("rna", z.float(), generator=generator).numpy()
    kept = saved.recipes["rna"].selected
    rna, label = of(cells["rna"].X)[:, kept], cells["rna"].obs["cell_type"].astype(str).to_numpy()
    depth = float(np.median(rna[train].sum(1)))
    logs = log_normalised(rna, depth)
    random = np.random.default_rng(args.seed).choice(train, len(held))
    levels, codes = np.unique(label, return_inverse=True)
    real = RealCells.fit(sparse.csr_matrix(logs[train]), codes[train], seed=args.seed)
    found = {
        name: compare(x, logs[held], real, codes[held], tuple(levels))
        for name, x in {
            "expected": log_normalised(expected, depth),
            "sampled": log_normalised(drawn, depth),
            "random training cells": logs[random],
        }.items()
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
