"""scCross' own experiment: train on a fifth of paired cells, generate RNA from the ATAC of the others.

    python tests/benchmarks/sccross_generation.py cells.h5mu --out DIR [--share 0.2] [--max-steps N]

Pearson r, over labels and genes, each between what was measured in the held-out cells and what was generated:

- proportions: labels given to generated cells (expected counts) by the 15 nearest training cells in 50
  principal components of log-normalised RNA, against the shares of the true labels;
- top genes: of every label the 5 genes whose mean log-normalised value is highest over the mean of the other
  cells, in measured held-out cells; mean values by true label, measured against generated, once for each
  gene in its own label and once for all chosen genes in all labels.

Beside them, the same for sampled counts, and for training cells drawn at random.
"""

import argparse
import json
from pathlib import Path

import mudata as md
import numpy as np
import torch

import mocli
from mocli.nn.neighbors import knn
from mocli.tasks.saved import load_model

TOP, NEAR, COMPONENTS = 5, 15, 50


def log_normalised(x, depth):
    return np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1e-9) * depth)


def of(x):
    return np.asarray(x.todense() if hasattr(x, "todense") else x, np.float64)


def labels_of(generated, reference, labels):
    """Labels by vote of the nearest training cells in principal components of the training cells."""
    mean = reference.mean(0)
    axes = np.linalg.svd(reference - mean, full_matrices=False)[2][:COMPONENTS].T
    near = knn((generated - mean) @ axes, (reference - mean) @ axes, NEAR)[1]
    names = np.unique(labels)
    votes = np.stack([(labels[near] == name).sum(1) for name in names], 1)
    return names[votes.argmax(1)]


def means_by(x, labels, names):
    return np.stack([x[labels == name].mean(0) for name in names])


def compare(generated, measured, reference, true, known, names):
    given = labels_of(generated, reference, known)
    shares = [np.array([(labels == name).mean() for name in names]) for labels in (true, given)]
    real, made = (means_by(x, true, names) for x in (measured, generated))
    rest = np.stack([measured[true != name].mean(0) for name in names])
    top = np.argsort(-(real - rest), axis=1)[:, :TOP]
    rows, union = np.repeat(np.arange(len(names)), TOP), np.unique(top)
    return {
        "proportions_r": round(float(np.corrcoef(*shares)[0, 1]), 3),
        "labels_right": round(float((given == true).mean()), 3),
        "top_genes_r": round(float(np.corrcoef(real[rows, top.ravel()], made[rows, top.ravel()])[0, 1]), 3),
        "top_genes_in_all_labels_r": round(
            float(np.corrcoef(real[:, union].ravel(), made[:, union].ravel())[0, 1]), 3
        ),
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
    found = {
        name: compare(x, logs[held], logs[train], label[held], label[train], np.unique(label[held]))
        for name, x in {
            "expected": log_normalised(expected, depth),
            "sampled": log_normalised(drawn, depth),
            "random training cells": logs[random],
        }.items()
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
