"""A mosaic made of paired cells: `python tests/benchmarks/hidden_rna.py DATA.h5mu [--max-steps N]`.

Of one third of the cells ATAC is hidden, of another third RNA. Compares mixing and label transfer
between those thirds in the latent of the mosaic and of the whole data, where nothing is hidden, and
imputed RNA with what was hidden: mean squared error and median Pearson correlation per gene on the log
scale, beside the training mean and the mean of the nearest cluster (k-means on ATAC components). First the
bound of labels by peaks: what classifiers of measured peaks alone get right of held-out cells, in five folds
of all cells; `--bound-only` stops there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import mudata
import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

import mocli
from mocli.data.transforms.components import Lsi
from mocli.metrics.embedding import Embedding
from mocli.metrics.matching import label_transfer, label_transfer_knn
from mocli.metrics.mixing import mixing
from mocli.tasks.trained.saved import load_model


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="multigrate")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--bound-only", action="store_true")
    asked = parser.parse_args()
    mudata.set_options(pull_on_update=False)
    print("right by peaks alone:", bound(mudata.read_h5mu(asked.data), asked.label_key))
    if asked.bound_only:
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(asked, Path(folder))


def bound(whole: mudata.MuData, key: str) -> dict[str, float]:
    """Share of held-out cells that classifiers of 50 LSI components label right, and of the commonest.

    And back: cells of peaks lie where a classifier puts them, and a cell whose type is known from RNA takes
    the label of one that lies at its own type, which is right as often as the classifier is for that type.
    """
    x = sparse.csr_matrix(whole["atac"].X, dtype=np.float32)
    z = normalize(Lsi.fit(x, n_components=50, seed=0).apply(x))
    codes = whole["atac"].obs[key].astype("category").cat.codes.to_numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    ways = {"logistic regression": LogisticRegression(C=10, max_iter=300), "15-NN": KNeighborsClassifier(15)}
    found, share = {}, np.bincount(codes) / len(codes)
    for name, way in ways.items():
        placed = cross_val_predict(way, z, codes, cv=folds)
        right = [float((codes[placed == kind] == kind).mean()) if (placed == kind).any() else 0.0
                 for kind in range(len(share))]  # fmt: skip
        found |= {name: float((placed == codes).mean()), f"{name}, back": float(share @ right)}
    found["commonest"] = float(share.max())
    return {name: round(value, 3) for name, value in found.items()}


def compare(asked: argparse.Namespace, folder: Path) -> None:
    """Hide, integrate both ways, impute."""
    whole = mudata.read_h5mu(asked.data)
    cells = np.random.default_rng(0).permutation(whole["rna"].obs_names.to_numpy())
    third = len(cells) // 3
    no_atac, no_rna = set(cells[:third]), set(cells[third : 2 * third])
    rna, atac = whole["rna"], whole["atac"]
    seen = rna[[c for c in rna.obs_names if c not in no_rna]].copy()
    mosaic = {"rna": seen, "atac": atac[[c for c in atac.obs_names if c not in no_atac]].copy()}
    mudata.MuData(mosaic).write_h5mu(folder / "mosaic.h5mu")
    shared = {
        "model": asked.model,
        "batch_key": asked.batch_key,
        "device": "cpu",
        "threads": 1,
        "html": False,
        "max_steps": asked.max_steps,
        "label_key": asked.label_key,
    }
    for name, path in (("paired", asked.data), ("mosaic", folder / "mosaic.h5mu")):
        metrics = mocli.integrate(path, output=folder / f"{name}-out.h5mu", **shared).report["metrics"]
        chosen = ("scib_", "silhouette_label", "ari_best")
        print(
            name, {k: round(v["value"], 3) for k, v in metrics.items() if k.startswith(chosen) and v["value"]}
        )
        print(name, "by third:", between(whole, folder / f"{name}-out.h5mu", no_atac, no_rna, asked))
    done = mocli.impute(
        folder / "mosaic.h5mu", output=folder / "filled.h5mu", source="atac", target="rna", **shared
    )
    filled = mudata.read_h5mu(done.output)["rna_imputed"]
    hidden = [c for c in filled.obs_names if c in no_rna]
    readout = load_model(folder / "filled.model").readouts["rna"]
    columns = np.arange(rna.n_vars)
    truth = readout.measured(sparse.csr_matrix(rna[hidden].X), "log", columns)
    trained = readout.measured(sparse.csr_matrix(seen.X), "log", columns)
    guess = filled[hidden, rna.var_names].X
    guess = guess.toarray() if sparse.issparse(guess) else np.asarray(guess)
    types = whole["rna"].obs[asked.label_key].nunique()
    scores = Lsi.fit(sparse.csr_matrix(atac.X, dtype=np.float32), n_components=50, seed=0)
    z = scores.apply(sparse.csr_matrix(atac.X, dtype=np.float32))
    cluster = KMeans(types, n_init=10, random_state=0).fit_predict(z)
    of = dict(zip(atac.obs_names, cluster, strict=True))
    means = np.stack(
        [
            trained[[of[c] == k for c in seen.obs_names]].mean(0)
            if any(of[c] == k for c in seen.obs_names)
            else trained.mean(0)
            for k in range(types)
        ]
    )
    for name, values in (
        ("imputed", guess),
        ("training mean", np.tile(trained.mean(0), (len(hidden), 1))),
        ("nearest cluster", means[[of[c] for c in hidden]]),
    ):
        print(
            f"{name}: MSE {((values - truth) ** 2).mean():.5f}, median Pearson {pearson(values, truth):.3f}"
        )


def between(
    whole: mudata.MuData, path: Path, no_atac: set[str], no_rna: set[str], asked: argparse.Namespace
) -> dict[str, float]:
    """Mixing of the thirds, and labels carried from one to another, in the latent of a run."""
    placed = mudata.read_h5mu(path)
    z = placed.obsm[f"X_{asked.model}"]
    labels = whole["rna"].obs[asked.label_key].astype("category")
    codes = dict(zip(labels.index, labels.cat.codes, strict=True))
    names = placed.obs_names.to_numpy()
    group = np.where([c in no_atac for c in names], "rna", "both")
    group = np.where([c in no_rna for c in names], "atac", group)
    kinds = ("both", "rna", "atac")
    space = Embedding(
        z={g: np.asarray(z[group == g], np.float32) for g in kinds},
        label={g: np.array([codes[c] for c in names[group == g]], np.int64) for g in kinds},
    )
    found = {}
    for metric in (mixing, label_transfer, label_transfer_knn):
        for score in metric(space):
            found[f"{metric.name}[{score.of}]" if score.of else metric.name] = round(score.value, 3)
    return found


def pearson(values: np.ndarray, truth: np.ndarray) -> float:
    """Median over genes of the correlation over cells; genes without spread in the truth are left out."""
    a, b = values - values.mean(0), truth - truth.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    known = (b**2).sum(0) > 0
    return float(
        np.median(np.divide((a * b).sum(0), scale, out=np.zeros_like(scale), where=scale > 0)[known])
    )


if __name__ == "__main__":
    main()
