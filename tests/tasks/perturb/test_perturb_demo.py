"""Effects planted in the demo: proteins follow a lowered gene as their rates go with it."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import mocli
from mocli.data.demo import PANEL, build_tissue, draw_cells, write_demo

pytestmark = pytest.mark.slow


def planted():
    """Covariance, over cells, of the log rates of coding genes with those of proteins, `(30, 30)` each."""
    tissue = build_tissue(np.random.default_rng(np.random.SeedSequence(0).spawn(4)[0]))
    cells = draw_cells(3000, np.random.default_rng(1))
    n = len(PANEL)
    genes, proteins = tissue.genes.deviation(cells)[:, :n], tissue.proteins.deviation(cells)
    return np.cov(genes.T, proteins.T)[:n, n:], genes.std(0), proteins.std(0)


def test_planted_effects_are_recovered_in_sign_and_rank(tmp_path):
    write_demo(tmp_path, n_cells=600, seed=0)
    rna, prot = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("rna", "prot"))
    for name, part in (("rna", rna), ("prot", prot)):
        part.obs_names = part.obs["true_cell"].astype(str)
        part[rna.obs_names].copy().write_h5ad(tmp_path / f"paired-{name}.h5ad")
    genes, proteins = ([pair[k] for pair in PANEL] for k in (1, 0))
    files = [f"{name}={tmp_path / f'paired-{name}.h5ad'}" for name in ("rna", "prot")]
    mocli.perturb(
        files, output=tmp_path / "o.tsv", model="multigrate", batch_key="batch", features=genes,
        target_modality="prot", direction="down", html=False, threads=1, device="cpu",
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "o.tsv", sep="\t")
    changes = table.pivot_table(index="feature", columns="target", values="change").loc[genes, proteins]
    covariance, gene_sd, protein_sd = planted()
    lowered = changes.to_numpy()
    correlation = covariance / np.maximum(np.outer(gene_sd, protein_sd), 1e-9)
    strong = np.abs(correlation) > 0.6
    assert strong.sum() > 100
    # a lowered gene lowers what goes with it
    assert (np.sign(lowered) == -np.sign(covariance))[strong].mean() > 0.7
    assert spearmanr(lowered.ravel(), -covariance.ravel()).statistic > 0.25
