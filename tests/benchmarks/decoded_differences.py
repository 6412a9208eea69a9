"""Do tests of decoded values call genes that do not differ, and are decoded differences nearer to the truth?

Up to 300 variable genes are copied with their counts shuffled among cells of the same batch and twentieth
of depth: they differ between no groups. A model is trained on half of the cells, and its decoder's values
of these cells (`impute --from rna --to rna`) are compared between two types: by Wilcoxon's test of decoded
values; by the share of pairs of cells, one of each type, whose decoded values differ by a quarter of a
doubling (as scvi-tools does with posterior draws); by the difference of decoded means over Welch's standard
error of measured means, t-distributed; and by Wilcoxon's test of measured values. Printed: the share of
shuffled genes that each calls at 5 % (pairs: more than 95 % of them), the rank correlation of differences
with those measured in the other half, and how many of the 50 largest are among its 50 largest.

    python tests/benchmarks/decoded_differences.py DATA.h5mu CELL_TYPE A B [SEED]
"""

import sys
import tempfile
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
from scipy import sparse, stats

import mocli

CANDIDATES, COPIES, STRATA, PAIRS = 1000, 300, 20, 5000
QUARTER_OF_A_DOUBLING = 0.25 * np.log(2)


def normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    total = np.asarray(counts.sum(1)).ravel()
    values = sparse.csr_matrix(sparse.diags(np.median(total) / total) @ counts)
    values.data = np.log1p(values.data)
    return values


def with_shuffled(rna: ad.AnnData, batch: np.ndarray, rng: np.random.Generator) -> ad.AnnData:
    """Add copies of variable genes whose counts are shuffled within batch and depth."""
    counts = sparse.csc_matrix(rna.X)
    values = normalised(sparse.csr_matrix(counts, dtype=np.float64))
    variance = np.asarray(values.multiply(values).mean(0)).ravel() - np.asarray(values.mean(0)).ravel() ** 2
    chosen = rng.choice(np.argsort(-variance)[:CANDIDATES], min(COPIES, rna.n_vars // 4), replace=False)
    depth = np.asarray(counts.sum(1)).ravel()
    strata = []
    for level in np.unique(batch):
        cells = np.flatnonzero(batch == level)
        part = np.argsort(np.argsort(depth[cells])) * STRATA // len(cells)
        strata += [cells[part == k] for k in range(STRATA)]
    copies = counts[:, chosen].toarray()
    for column in copies.T:
        for cells in strata:
            column[cells] = column[rng.permutation(cells)]
    names = [*rna.var_names, *(f"shuffled_{rna.var_names[j]}" for j in chosen)]
    both = sparse.hstack([counts, sparse.csr_matrix(copies)]).tocsr().astype(np.float32)
    return ad.AnnData(both, obs=rna.obs.copy(), var=pd.DataFrame(index=names))


def decoded_cells(cells: md.MuData, batch_key: str | None, seed: int) -> ad.AnnData:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        cells.write_h5mu(path / "half.h5mu")
        given = {"html": False, "threads": 1, "device": "cpu", "seed": seed}
        mocli.integrate(
            path / "half.h5mu", output=path / "i.h5mu", model="multigrate", batch_key=batch_key,
            metrics="none", umap=False, **given,
        )  # fmt: skip
        mocli.impute(
            path / "half.h5mu", output=path / "d.h5ad", from_model=path / "i.model",
            source="rna", target="rna", **given,
        )  # fmt: skip
        return ad.read_h5ad(path / "d.h5ad")


def main(file: str, key: str, first: str, second: str, seed: int = 0) -> None:
    with md.set_options(pull_on_update=False):
        data = md.read_h5mu(file)
        rna, prot = data["rna"], data["prot"]
        batch = rna.obs["batch"].astype(str).to_numpy()
        rng = np.random.default_rng(seed)
        rna = with_shuffled(rna, batch, rng)
        half = rng.permutation(rna.n_obs) < rna.n_obs // 2
        cells = md.MuData({"rna": rna[half].copy(), "prot": prot[half].copy()})
    done = decoded_cells(cells, "batch" if len(np.unique(batch)) > 1 else None, seed)
    known = (done.var["imputed_by"] == "decoder").to_numpy()
    shuffled = known & done.var_names.str.startswith("shuffled_")
    real = known & ~shuffled
    others = normalised(sparse.csr_matrix(rna[~half][:, done.var_names].X, dtype=np.float64)).toarray()
    decoded, measured = np.asarray(done.X, np.float64), np.asarray(done.layers["observed"], np.float64)
    label, label_of_others = done.obs[key].to_numpy(), rna.obs[key].to_numpy()[~half]
    a, b = label == first, label == second
    sizes = f"{a.sum()} {first}, {b.sum()} {second}, {shuffled.sum()} shuffled genes"
    print(f"{Path(file).stem} seed {seed}: {sizes}")

    parts = [measured[side].var(0, ddof=1) / side.sum() for side in (a, b)]
    freedom = sum(parts) ** 2 / sum(p**2 / (side.sum() - 1) for p, side in zip(parts, (a, b), strict=True))
    change = {n: v[a].mean(0) - v[b].mean(0) for n, v in (("decoded", decoded), ("measured", measured))}
    draw = np.random.default_rng(0)
    pairs = [draw.choice(np.flatnonzero(side), PAIRS) for side in (a, b)]
    apart = (np.abs(decoded[pairs[0]] - decoded[pairs[1]]) > QUARTER_OF_A_DOUBLING).mean(0)
    p = {
        "Wilcoxon, measured": stats.mannwhitneyu(measured[a], measured[b], method="asymptotic").pvalue,
        "Wilcoxon, decoded": stats.mannwhitneyu(decoded[a], decoded[b], method="asymptotic").pvalue,
        "decoded, measured error": 2 * stats.t.sf(np.abs(change["decoded"]) / np.sqrt(sum(parts)), freedom),
    }
    for name, values in p.items():
        print(f"  {name}: calls {np.mean(values[shuffled] < 0.05):.3f} of shuffled genes")
    print(f"  pairs of decoded cells: call {np.mean(apart[shuffled] > 0.95):.3f} of them")
    there = others[label_of_others == first].mean(0) - others[label_of_others == second].mean(0)
    top = {
        n: set(np.argsort(-np.abs(np.where(real, v, 0)))[:50]) for n, v in (*change.items(), ("there", there))
    }
    for name, values in change.items():
        r = stats.spearmanr(values[real], there[real]).statistic
        shared = len(top[name] & top["there"])
        print(f"  {name} differences, with those of the other half: {r:.3f}, {shared} of 50")


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(int, sys.argv[5:]))
