"""A CITE-seq-like experiment of any size, written in blocks: counts with planted types and links."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

N_TYPES = 12
BLOCK = 2000


def write(folder, *, n_cells, n_genes, n_proteins, density, n_links, seed=0):
    """Write rna.h5ad, prot.h5ad (same cells, same names) and links.tsv; returns bytes of each CSR."""
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    kind = rng.integers(N_TYPES, size=n_cells)
    genes = _at_density(
        rng.gamma(0.4, 1.0, (1, n_genes)) * rng.lognormal(0, 1.0, (N_TYPES, n_genes)), density
    )
    proteins = 5 + 60 * rng.gamma(0.5, 1.0, (N_TYPES, n_proteins))
    linked = min(n_links, n_proteins)
    proteins[:, :linked] = 3 + 150 * genes[:, :linked] / genes[:, :linked].max(0)
    depth = rng.lognormal(0, 0.3, n_cells)
    sizes = {
        "rna": _save(folder / "rna.h5ad", genes, kind, depth, rng, name="GENE"),
        "prot": _save(folder / "prot.h5ad", proteins, kind, depth**0.5, rng, name="Prot"),
    }
    lines = [f"GENE{i}\tProt{i}\n" for i in range(linked)]
    (folder / "links.tsv").write_text("rna\tprot\n" + "".join(lines), encoding="utf-8")
    return sizes


def _at_density(rates, density):
    """Scale Poisson rates so that the expected share of non-zeros is `density`."""
    low, high = 1e-9, 1e9
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if (1 - np.exp(-rates * middle)).mean() > density else (middle, high)
    return rates * low


def _save(path, rates, kind, depth, rng, *, name):
    blocks = [
        sparse.csr_matrix(
            rng.poisson(rates[kind[a : a + BLOCK]] * depth[a : a + BLOCK, None]), dtype=np.float32
        )
        for a in range(0, len(kind), BLOCK)
    ]
    x = sparse.vstack(blocks, format="csr")
    x.indices, x.indptr = x.indices.astype(np.int32), x.indptr.astype(np.int32)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical([f"type{k}" for k in kind])},
        index=[f"cell{i}" for i in range(len(kind))],
    )
    var = pd.DataFrame(index=[f"{name}{i}" for i in range(x.shape[1])])
    ad.AnnData(X=x, obs=obs, var=var).write_h5ad(path, compression="lzf")
    bytes_of = {"csr": x.data.nbytes + x.indices.nbytes + x.indptr.nbytes}
    return bytes_of | {"stored": int(x.nnz), "density": round(x.nnz / (x.shape[0] * x.shape[1]), 4)}


def main(folder, shape):
    """Write and print the sizes; called in a process of its own, so that its memory is not measured."""
    print(json.dumps(write(folder, **json.loads(shape))))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
