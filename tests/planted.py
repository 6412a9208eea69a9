"""Cells with a planted truth, in which the rows of the parity table can be met or missed.

Unlike the demo's, cells of one type differ in states that both modalities see, features of a programme vary
with nothing else, and each modality may vary on its own.
"""

import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
from scipy import sparse

N_TYPES, N_GENES, N_PEAKS, N_STATES = 6, 200, 1500, 2
N_PROGRAMMES, OF_GENES, OF_PEAKS = 4, 10, 5
PEAK_APART, WIDTH = 2_000, 500
N_LINKED, AGREEMENT, N_OWN = 20, 0.7, 3


def _effects(shape, sd, share, rng):
    """Normal effects of a share of the features."""
    return rng.normal(0, sd, shape) * (rng.random(shape) < share)


def _counts(log_rate, dispersion, rng):
    """Negative binomial counts of cells that differ in depth."""
    rate = np.exp(log_rate + rng.normal(0, 0.3, (len(log_rate), 1)))
    counts = rng.poisson(rate * rng.gamma(dispersion, 1 / dispersion, rate.shape))
    return sparse.csr_matrix(counts.astype(np.float32))


def _obs(kind, names, **more):
    return pd.DataFrame({"cell_type": pd.Categorical([f"t{k}" for k in kind]), **more}, index=names)


def write_regulated(folder, *, n_cells=1000, seed=0):
    """Write RNA and peaks of the same cells, in which programmes raise genes and peaks together.

    `both.h5mu`, `genes.tsv` (where genes lie) and `planted.tsv` (gene and peak of a programme, all pairs).
    """
    rng = np.random.default_rng(seed)
    kind, state = rng.integers(0, N_TYPES, n_cells), rng.normal(size=(n_cells, N_STATES))
    programme = rng.normal(size=(n_cells, N_PROGRAMMES))
    start = PEAK_APART * np.arange(1, N_PEAKS + 1)
    names = {
        "rna": np.array([f"GENE{j}" for j in range(N_GENES)]),
        "atac": np.array([f"chr1:{s}-{s + WIDTH}" for s in start]),
    }
    mods, members = {}, {}
    for name, size, base in (("rna", OF_GENES, 0.5), ("atac", OF_PEAKS, -0.5)):
        p = len(names[name])
        chosen = rng.choice(p, N_PROGRAMMES * size, replace=False).reshape(N_PROGRAMMES, size)
        by_type, by_state = _effects((N_TYPES, p), 0.8, 0.3, rng), _effects((N_STATES, p), 0.6, 0.3, rng)
        by_programme = np.zeros((N_PROGRAMMES, p))
        np.put_along_axis(by_programme, chosen, 1.0, axis=1)
        if name == "rna":
            by_type[:, chosen] = by_state[:, chosen] = 0
        log_rate = rng.normal(base, 0.7, p) + by_type[kind] + state @ by_state + programme @ by_programme
        obs = _obs(kind, [f"c{i}" for i in range(n_cells)])
        mods[name] = ad.AnnData(_counts(log_rate, 4.0, rng), obs=obs, var=pd.DataFrame(index=names[name]))
        members[name] = names[name][chosen]
    with warnings.catch_warnings(), md.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        md.MuData(mods).write_h5mu(folder / "both.h5mu")
    place = 3_000 * np.arange(1, N_GENES + 1)
    genes = {"chrom": "chr1", "start": place, "end": place + WIDTH, "strand": "+", "gene": names["rna"]}
    pd.DataFrame(genes).to_csv(folder / "genes.tsv", sep="\t", index=False)
    of_gene = np.repeat(members["rna"], OF_PEAKS, axis=1).ravel()
    of_peak = np.tile(members["atac"], OF_GENES).ravel()
    planted = pd.DataFrame({"gene": of_gene, "peak": of_peak})
    planted.to_csv(folder / "planted.tsv", sep="\t", index=False)
    return planted


def write_weakly_linked(folder, *, n_cells=600, own_sd=0.0, seed=0):
    """Write `rna.h5ad` and `prot.h5ad` of the same cells in another order, and `links.tsv`.

    20 of 200 features of each are linked, and agree in part. `own_sd`: how strongly three states act that
    only one modality sees.
    """
    rng = np.random.default_rng(seed)
    kind, state = rng.integers(0, N_TYPES, n_cells), rng.normal(size=(n_cells, 3))
    first, second = (
        (_effects((N_TYPES, N_GENES), 0.9, 0.4, rng), _effects((3, N_GENES), 0.4, 0.4, rng)) for _ in range(2)
    )
    for here, there in zip(first, second, strict=True):
        rest = np.sqrt(1 - AGREEMENT**2) * there[:, :N_LINKED]
        there[:, :N_LINKED] = AGREEMENT * here[:, :N_LINKED] + rest
    for name, (by_type, by_state), word in (("rna", first, "GENE"), ("prot", second, "Prot")):
        own = rng.normal(size=(n_cells, N_OWN)) @ _effects((N_OWN, N_GENES), own_sd, 0.5, rng)
        log_rate = rng.normal(0.5, 0.7, N_GENES) + by_type[kind] + state @ by_state + own
        counts, order = _counts(log_rate, 3.0, rng), rng.permutation(n_cells)
        obs = _obs(kind[order], [f"{name}{i}" for i in range(n_cells)], true_cell=[f"c{i}" for i in order])
        var = pd.DataFrame(index=[f"{word}{j}" for j in range(N_GENES)])
        ad.AnnData(counts[order], obs=obs, var=var).write_h5ad(folder / f"{name}.h5ad")
    lines = "".join(f"GENE{j}\tProt{j}\n" for j in range(N_LINKED))
    (folder / "links.tsv").write_text("rna\tprot\n" + lines)
