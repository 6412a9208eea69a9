"""A CITE-seq-like experiment of any size, written in blocks: counts with planted types and links."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from mocli.data.write.blocks import NewModality
from mocli.data.write.write import write_h5ad

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
    """Write counts block by block, so that more cells than fit into memory can be made."""
    stored = 0

    def blocks():
        nonlocal stored
        for a in range(0, len(kind), BLOCK):
            x = rng.poisson(rates[kind[a : a + BLOCK]] * depth[a : a + BLOCK, None])
            x = sparse.csr_matrix(x, dtype=np.float32)
            stored += x.nnz
            yield {"X": x}

    obs = pd.DataFrame(
        {"cell_type": pd.Categorical([f"type{k}" for k in kind])},
        index=[f"cell{i}" for i in range(len(kind))],
    )
    n_vars = rates.shape[1]
    var = pd.DataFrame(index=[f"{name}{i}" for i in range(n_vars)])
    write_h5ad(path, NewModality(name, obs, var, blocks))
    bytes_of = {"csr": 8 * stored + 4 * (len(kind) + 1)}
    return bytes_of | {"stored": stored, "density": round(stored / (len(kind) * n_vars), 4)}


def main(folder, shape):
    """Write and print the sizes; called in a process of its own, so that its memory is not measured."""
    print(json.dumps(write(folder, **json.loads(shape))))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
