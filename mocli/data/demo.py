"""The demo: a small tissue with known ground truth, as files and links, for trying things and for tests.

Counts are negative binomial. The logarithm of a rate is base + type + state +
batch, so that every relation between modalities is planted here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mocli.data.write.outfile import atomic
from mocli.errors import UsageError
from mocli.types import CSR, DoubleArray, IntArray

N_GENES, N_PEAKS = 400, 1500
N_BATCHES = 2
MAX_DISTANCE = 100_000
# Share of the cells, and the path from the root of the tree: ((a, b), (c, (d, e))), f.
PROPORTIONS = np.array([0.28, 0.22, 0.18, 0.14, 0.11, 0.07])
TYPES = ("lymph_a", "lymph_b", "myelo_a", "myelo_b", "myelo_c", "stroma")
_PATHS = ((0, 1), (0, 2), (3, 4), (3, 5, 6), (3, 5, 7), (8,))
_N_NODES = 9

# Protein name and coding gene, as on common antibody panels.
PANEL = (
    ("CD3", "CD3E"), ("CD4", "CD4"), ("CD8", "CD8A"), ("CD19", "CD19"), ("CD14", "CD14"),
    ("CD16", "FCGR3A"), ("CD56", "NCAM1"), ("CD11c", "ITGAX"), ("CD11b", "ITGAM"), ("CD20", "MS4A1"),
    ("CD27", "CD27"), ("CD28", "CD28"), ("CD127", "IL7R"), ("CD25", "IL2RA"), ("CD62L", "SELL"),
    ("CD197", "CCR7"), ("CD69", "CD69"), ("HLA-DR", "HLA-DRA"), ("CD123", "IL3RA"), ("CD1c", "CD1C"),
    ("CD57", "B3GAT1"), ("CD94", "KLRD1"), ("CD161", "KLRB1"), ("TIGIT", "TIGIT"), ("CD279", "PDCD1"),
    ("CD33", "CD33"), ("CD38", "CD38"), ("CD40", "CD40"), ("CD86", "CD86"), ("CD2", "CD2"),
)  # fmt: skip
_SYMBOLS = """
    ACTB B2M GAPDH MALAT1 TMSB4X EEF1A1 RPLP0 RPS27 FTL FTH1 S100A8 S100A9 LYZ CST3 TYROBP FCER1G NKG7
    GNLY PRF1 GZMA GZMB GZMK CCL5 CCL4 LTB LEF1 TCF7 MAL BCL11A BCL2 CD79A CD79B PAX5 BANK1 IGHM IRF8
    IRF7 IRF4 SPI1 CEBPA CEBPD KLF2 KLF4 GATA2 GATA3 RUNX1 RUNX3 TBX21 EOMES ZEB2 FOXP1 FOXP3 IKZF2
    CTLA4 JUN JUNB FOS FOSB DUSP1 DUSP2 NFKBIA TNFAIP3 CXCR4 CXCR3 CX3CR1 VCAN FCN1 CLEC10A FCER1A PLD4
    TCF4 COL1A1 COL1A2 COL3A1 DCN LUM PECAM1 VWF KDR MKI67 TOP2A STMN1 TUBA1B HMGB2 PCNA ISG15 IFI6
    IFIT3 MX1 STAT1 LGALS1 VIM ANXA1
"""
N_WRONG = 4


@dataclass(frozen=True)
class Assay:
    """How a modality is measured.

    Attributes:
        dispersion: Inverse of the excess variance: variance = mean + mean^2 / dispersion.
        depth_sd: Standard deviation of the log of a cell's depth.
        background: Mean of a Poisson part in every cell, such as unbound antibody.
    """

    dispersion: float
    depth_sd: float
    background: float = 0.0


RNA = Assay(dispersion=2.0, depth_sd=0.35)
PROT = Assay(dispersion=4.0, depth_sd=0.3, background=4.0)
ATAC = Assay(dispersion=2.0, depth_sd=0.4)


@dataclass(frozen=True)
class TissueCells:
    """The cells of one experiment: type and batch codes, state in [-1, 1], each `(n,)`."""

    type: IntArray
    batch: IntArray
    state: DoubleArray


@dataclass(frozen=True)
class Layer:
    """Log rates of one modality: base `(p,)`, type `(types, p)`, state `(p,)`, batch `(batches, p)`."""

    names: tuple[str, ...]
    base: DoubleArray
    by_type: DoubleArray
    by_state: DoubleArray
    by_batch: DoubleArray

    def deviation(self, cells: TissueCells) -> DoubleArray:
        """Biological part of the log rate, `(n, p)`."""
        return self.by_type[cells.type] + np.outer(cells.state, self.by_state)


@dataclass(frozen=True)
class Tissue:
    """The ground truth: three layers and how they relate.

    Attributes:
        linked: Gene column given for each protein by the link table; `coding` is the true one.
        agreement: Correlation that was planted between a protein and its coding gene.
        chrom, start, end, strand: Gene coordinates, `(genes,)`, 0-based half-open.
        peak_gene, peak_distance, peak_effect: The nearest gene of each peak, the distance of its centre to
            the start of transcription, and the planted effect (0: near by, but unrelated), `(peaks,)`.
    """

    genes: Layer
    proteins: Layer
    peaks: Layer
    coding: IntArray
    linked: IntArray
    agreement: DoubleArray
    chrom: tuple[str, ...]
    start: IntArray
    end: IntArray
    strand: tuple[str, ...]
    peak_gene: IntArray
    peak_distance: IntArray
    peak_effect: DoubleArray


def draw_cells(n: int, rng: np.random.Generator) -> TissueCells:
    """Draw `n` cells; every type occurs when `n` is 12 or more."""
    counts = np.maximum(np.floor(PROPORTIONS * n), 1).astype(int)
    counts[0] += n - counts.sum()
    kind = rng.permutation(np.repeat(np.arange(len(TYPES)), counts))
    return TissueCells(kind, rng.integers(0, N_BATCHES, n), rng.uniform(-1, 1, n))


def _tree_effects(p: int, share: float, sd: float, rng: np.random.Generator) -> DoubleArray:
    """Sum over each type's path of sparse normal effects, `(types, p)`, centred per feature."""
    nodes = rng.normal(0, sd, (_N_NODES, p)) * (rng.random((_N_NODES, p)) < share)
    effects = np.stack([nodes[list(path)].sum(axis=0) for path in _PATHS])
    return effects - PROPORTIONS @ effects


def _genes(rng: np.random.Generator) -> Layer:
    names = [gene for _, gene in PANEL] + _SYMBOLS.split()
    numbers = rng.choice(np.arange(100_000, 999_999), N_GENES - len(names), replace=False)
    names += [f"AC{number}.{1 + number % 4}" for number in numbers]
    base = rng.normal(-0.8, 1.2, N_GENES)
    base[: len(PANEL)] = rng.normal(0.6, 0.5, len(PANEL))
    return Layer(
        tuple(names),
        base,
        _tree_effects(N_GENES, 0.16, 0.85, rng),
        rng.normal(0, 0.7, N_GENES) * (rng.random(N_GENES) < 0.2),
        rng.normal(0, 0.15, (N_BATCHES, N_GENES)),
    )


def _proteins(genes: Layer, rng: np.random.Generator) -> tuple[Layer, IntArray, DoubleArray]:
    """Proteins follow their coding genes in part: agreement a, the rest is their own."""
    p = len(PANEL)
    coding = np.arange(p)
    agreement = rng.uniform(0.6, 0.98, p)
    own_effects = _tree_effects(p, 0.45, 1.0, rng)
    gene = genes.by_type[:, coding]
    mix = agreement * gene / gene.std() + np.sqrt(1 - agreement**2) * own_effects / own_effects.std()
    return (
        Layer(
            tuple(protein for protein, _ in PANEL),
            rng.normal(2.6, 0.6, p),
            mix * 0.95,
            agreement * genes.by_state[coding] + rng.normal(0, 0.25, p),
            rng.normal(0, 0.1, (N_BATCHES, p)),
        ),
        coding,
        agreement,
    )


def _wrong_links(coding: IntArray, rng: np.random.Generator) -> IntArray:
    """Give `N_WRONG` proteins each other's genes, in a ring."""
    linked = coding.copy()
    chosen = rng.choice(len(coding), N_WRONG, replace=False)
    linked[chosen] = coding[np.roll(chosen, 1)]
    return linked


def build_tissue(rng: np.random.Generator) -> Tissue:
    """Build the tissue with all planted effects."""
    genes = _genes(rng)
    proteins, coding, agreement = _proteins(genes, rng)
    linked = _wrong_links(coding, rng)
    chrom = tuple(f"chr{1 + j % 5}" for j in range(N_GENES))
    start = 500_000 + 300_000 * (np.arange(N_GENES) // 5) + rng.integers(0, 60_000, N_GENES)
    end = start + rng.integers(2_000, 40_000, N_GENES)
    strand = tuple("+" if up else "-" for up in rng.random(N_GENES) < 0.5)
    tss = np.where(np.array(strand) == "+", start, end)

    gene = rng.integers(0, N_GENES, N_PEAKS)
    distance = np.minimum(rng.exponential(18_000, N_PEAKS).astype(int), MAX_DISTANCE - 1_000)
    centre = tss[gene] + distance * rng.choice([-1, 1], N_PEAKS)
    order = np.lexsort((centre, np.array(chrom)[gene]))  # as peak callers write them
    gene, distance, centre = gene[order], distance[order], centre[order]
    # Only a gene that varies can be seen to move its peaks.
    varies = np.sqrt(PROPORTIONS @ genes.by_type**2 + genes.by_state**2 / 3)[gene] > 0.3
    effect = rng.uniform(0.9, 1.5, N_PEAKS) * (rng.random(N_PEAKS) < 0.5) * varies
    unrelated = _tree_effects(N_PEAKS, 0.12, 1.0, rng) * (effect == 0)
    width = rng.integers(150, 450, N_PEAKS)
    peaks = Layer(
        tuple(f"{chrom[g]}:{c - w}-{c + w}" for g, c, w in zip(gene, centre, width, strict=True)),
        rng.normal(-1.6, 0.8, N_PEAKS),
        effect * genes.by_type[:, gene] + unrelated,
        effect * genes.by_state[gene],
        rng.normal(0, 0.1, (N_BATCHES, N_PEAKS)),
    )
    return Tissue(
        genes, proteins, peaks, coding, linked, agreement, chrom, start, end, strand, gene, distance, effect
    )


def draw_counts(layer: Layer, cells: TissueCells, *, assay: Assay, rng: np.random.Generator) -> CSR:
    """Draw counts, CSR float32 `(n, p)`."""
    n = len(cells.type)
    log_rate = layer.base + layer.deviation(cells) + layer.by_batch[cells.batch]
    mean = np.exp(log_rate + rng.normal(0, assay.depth_sd, (n, 1)))
    counts = rng.poisson(mean * rng.gamma(assay.dispersion, 1 / assay.dispersion, mean.shape))
    if assay.background:
        counts += rng.poisson(assay.background * rng.gamma(5.0, 0.2, (n, 1)), mean.shape)
    return sparse.csr_matrix(counts.astype(np.float32))


MIN_CELLS = 20
_WEIGHT_SCALE = 20_000  # base pairs over which a gene-peak link falls to 1/e

README = """\
mocli demo data: simulated, with a known truth. Made by `mocli demo`{options}.

Six cell types on a tree ({types}), a continuous state and
{batches} batches. Genes, proteins and peaks carry real-looking names, but nothing about
them is biology. obs holds cell_type, batch, state and true_cell, which is the same for
true partners; a model is not told.

Two experiments on different cells, {n} each
  rna.h5ad, prot.h5ad    RNA and antibody counts of the same cells under different names
                         and in different order: truly unpaired
  rna-prot.tsv           {links} gene-protein links: weak, and {wrong} of them are wrong
  truth.tsv              for each true cell its row names, type, batch, state
  truth-links.tsv        for each link the gene it should have been, and how strongly
                         protein and gene agree
  multiome.h5mu          rna and atac counts of the same cells, paired
  rna-atac.tsv           gene-peak links within 100 kb, weighted by distance
  planted.tsv            the gene-peak pairs that are true, with effect and distance
  genes.tsv              where the genes lie
{more}
Try, in this folder:
  mocli integrate rna.h5ad prot.h5ad --links rna-prot.tsv --label-key cell_type \\
      --batch-key batch -o cite.h5mu
  mocli integrate multiome.h5mu --links rna-atac.tsv --pairing unpaired \\
      --label-key cell_type -o multiome-integrated.h5mu
  mocli gene2peak multiome.h5mu --from-model multiome-integrated.model --gtf genes.tsv -o links-found.tsv
{try_more}"""

_TRIMODAL = """
Three experiments on the same {n} cells, again unpaired
  adt.h5ad, gex.h5ad, atac.h5ad      antibody, RNA and peak counts
  adt-gex.tsv, gex-atac.tsv          links
  adt-atac.tsv                       protein-peak links by way of the gene: any two of the three
                                     tables make a chain
  truth-trimodal.tsv                 for each true cell its row names, type, batch, state
"""
_TRY_TRIMODAL = """\
  mocli integrate adt.h5ad gex.h5ad atac.h5ad --links adt-gex.tsv --links gex-atac.tsv \\
      --label-key cell_type -o three.h5mu
"""


def write_demo(folder: Path, *, n_cells: int = 600, seed: int = 0, trimodal: bool = False) -> list[Path]:
    """Write the demo into a folder, made if absent; files of the same names are replaced.

    Same arguments and package versions, same bytes. `README.txt` explains the
    files. `n_cells` is the number of cells of each experiment.

    Returns:
        The files written, in order.

    Raises:
        UsageError: Fewer than 20 cells.
    """
    if n_cells < MIN_CELLS:
        raise UsageError("too few cells for a demo", found=n_cells, expected=f"at least {MIN_CELLS}")
    folder.mkdir(parents=True, exist_ok=True)
    plan, cite, multiome, three = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    tissue = build_tissue(plan)
    written = _write_cite(folder, tissue, n_cells, cite) + _write_multiome(folder, tissue, n_cells, multiome)
    if trimodal:
        written += _write_trimodal(folder, tissue, n_cells, three)
    text = README.format(
        options=f" --cells {n_cells} --seed {seed}" + (" --trimodal" if trimodal else ""),
        types=", ".join(TYPES),
        batches=N_BATCHES,
        n=n_cells,
        links=len(PANEL),
        wrong=int((tissue.linked != tissue.coding).sum()),
        more=_TRIMODAL.format(n=n_cells) if trimodal else "",
        try_more=_TRY_TRIMODAL if trimodal else "",
    )
    readme = folder / "README.txt"
    with atomic(readme) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return [*written, readme]


def _write_cite(folder: Path, tissue: Tissue, n: int, rng: np.random.Generator) -> list[Path]:
    cells = draw_cells(n, rng)
    measured = {
        "rna": _shuffled("rna", _gene_values(tissue, cells, rng), rng),
        "prot": _shuffled("prot", _protein_values(tissue, cells, rng), rng),
    }
    return [
        *(_write_h5ad(folder / f"{name}.h5ad", data) for name, data in measured.items()),
        _write_table(folder / "rna-prot.tsv", _protein_links(tissue)),
        _write_table(folder / "truth.tsv", _truth(cells, measured)),
        _write_table(folder / "truth-links.tsv", _link_truth(tissue)),
    ]


def _write_multiome(folder: Path, tissue: Tissue, n: int, rng: np.random.Generator) -> list[Path]:
    import mudata

    cells = draw_cells(n, rng)
    parts = {"rna": _gene_values(tissue, cells, rng), "atac": _peaks(tissue, cells, rng)}
    for part in parts.values():
        part.obs_names = [f"cell_{i + 1:04d}" for i in range(n)]
    path = folder / "multiome.h5mu"
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData(parts)
        both.obs = parts["rna"].obs.copy()
        with atomic(path) as temporary:
            mudata.write_h5mu(temporary, both, compression="gzip")
    return [
        path,
        _write_table(folder / "rna-atac.tsv", _peak_links(tissue)),
        _write_table(folder / "planted.tsv", _planted(tissue)),
        _write_table(folder / "genes.tsv", _places(tissue)),
    ]


def _write_trimodal(folder: Path, tissue: Tissue, n: int, rng: np.random.Generator) -> list[Path]:
    cells = draw_cells(n, rng)
    measured = {
        "adt": _shuffled("adt", _protein_values(tissue, cells, rng), rng),
        "gex": _shuffled("gex", _gene_values(tissue, cells, rng), rng),
        "atac": _shuffled("atac", _peaks(tissue, cells, rng), rng),
    }
    proteins = _protein_links(tissue).rename(columns={"rna": "gex", "prot": "adt"})
    peaks = _peak_links(tissue).rename(columns={"rna": "gex"})
    through = proteins[["adt", "gex"]].merge(peaks, on="gex")
    return [
        *(_write_h5ad(folder / f"{name}.h5ad", data) for name, data in measured.items()),
        _write_table(folder / "adt-gex.tsv", proteins[["adt", "gex", "weight"]]),
        _write_table(folder / "gex-atac.tsv", peaks),
        _write_table(folder / "adt-atac.tsv", through[["adt", "atac", "weight"]]),
        _write_table(folder / "truth-trimodal.tsv", _truth(cells, measured)),
    ]


def _measure(layer: Layer, cells: TissueCells, assay: Assay, rng: np.random.Generator) -> AnnData:
    """Return counts with the ground truth in `obs`; rows in the order of the true cells."""
    n = len(cells.type)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(cells.type, list(TYPES)),
            "batch": pd.Categorical.from_codes(cells.batch, [f"batch_{i + 1}" for i in range(N_BATCHES)]),
            "state": cells.state.round(4),
            "true_cell": [f"true_{i + 1:04d}" for i in range(n)],
        },
        index=[f"true_{i + 1:04d}" for i in range(n)],
    )
    counts = draw_counts(layer, cells, assay=assay, rng=rng)
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=list(layer.names)))


def _gene_values(tissue: Tissue, cells: TissueCells, rng: np.random.Generator) -> AnnData:
    data = _measure(tissue.genes, cells, RNA, rng)
    data.var["feature_types"] = "Gene Expression"
    _set_coordinates(data, tissue.chrom, tissue.start, tissue.end)
    data.var["strand"] = list(tissue.strand)
    return data


def _protein_values(tissue: Tissue, cells: TissueCells, rng: np.random.Generator) -> AnnData:
    data = _measure(tissue.proteins, cells, PROT, rng)
    data.var["feature_types"] = "Antibody Capture"
    return data


def _peaks(tissue: Tissue, cells: TissueCells, rng: np.random.Generator) -> AnnData:
    data = _measure(tissue.peaks, cells, ATAC, rng)
    data.var["feature_types"] = "Peaks"
    parts = data.var_names.str.extract(r"(?P<chrom>.+):(?P<start>\d+)-(?P<end>\d+)")
    _set_coordinates(
        data, tuple(parts["chrom"]), parts["start"].to_numpy(np.int64), parts["end"].to_numpy(np.int64)
    )
    return data


def _set_coordinates(data: AnnData, chrom: tuple[str, ...], start: IntArray, end: IntArray) -> None:
    data.var["chrom"] = list(chrom)
    data.var["start"] = start
    data.var["end"] = end


def _shuffled(name: str, data: AnnData, rng: np.random.Generator) -> AnnData:
    """Return the cells in random order under meaningless names."""
    data = data[rng.permutation(data.n_obs)].copy()
    data.obs_names = [f"{name}_{i + 1:04d}" for i in range(data.n_obs)]
    return data


def _truth(cells: TissueCells, measured: Mapping[str, AnnData]) -> pd.DataFrame:
    """Return one row a true cell: its name in each file, type, batch, state."""
    first = next(iter(measured.values())).obs.set_index("true_cell").sort_index()
    names = {
        name: pd.Series(data.obs_names, index=data.obs["true_cell"].to_numpy())
        for name, data in measured.items()
    }
    table = pd.DataFrame(names).reindex(first.index).join(first[["cell_type", "batch", "state"]])
    return table.rename_axis("true_cell").reset_index()


def _protein_links(tissue: Tissue) -> pd.DataFrame:
    genes = np.array(tissue.genes.names)
    return pd.DataFrame({"rna": genes[tissue.linked], "prot": tissue.proteins.names, "weight": 1})


def _link_truth(tissue: Tissue) -> pd.DataFrame:
    genes = np.array(tissue.genes.names)
    return _protein_links(tissue)[["rna", "prot"]].assign(
        true_rna=genes[tissue.coding],
        is_right=(tissue.linked == tissue.coding).astype(int),
        agreement=tissue.agreement.round(3),
    )


def _peak_links(tissue: Tissue) -> pd.DataFrame:
    genes = np.array(tissue.genes.names)
    weight = np.exp(-tissue.peak_distance / _WEIGHT_SCALE).round(4)
    return pd.DataFrame({"rna": genes[tissue.peak_gene], "atac": tissue.peaks.names, "weight": weight})


def _planted(tissue: Tissue) -> pd.DataFrame:
    genes = np.array(tissue.genes.names)
    table = pd.DataFrame(
        {
            "gene": genes[tissue.peak_gene],
            "peak": tissue.peaks.names,
            "effect": tissue.peak_effect.round(3),
            "distance_to_tss": tissue.peak_distance,
        }
    )
    return table[tissue.peak_effect > 0]


def _places(tissue: Tissue) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "chrom": tissue.chrom,
            "start": tissue.start,
            "end": tissue.end,
            "strand": tissue.strand,
            "gene": tissue.genes.names,
        }
    )


def _write_h5ad(path: Path, data: AnnData) -> Path:
    with atomic(path) as temporary:
        data.write_h5ad(temporary, compression="gzip")
    return path


def _write_table(path: Path, table: Any) -> Path:
    with atomic(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, lineterminator="\n")
    return path
