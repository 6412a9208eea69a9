"""The demo: small files with links and a known ground truth, for trying things and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mocli.data.demo.tissue import (
    ATAC,
    N_BATCHES,
    PANEL,
    PROT,
    RNA,
    TYPES,
    Assay,
    Layer,
    Tissue,
    TissueCells,
    build_tissue,
    draw_cells,
    draw_counts,
)
from mocli.data.write.outfile import atomic
from mocli.errors import UsageError
from mocli.types import IntArray

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
        "rna": _shuffled("rna", _genes(tissue, cells, rng), rng),
        "prot": _shuffled("prot", _proteins(tissue, cells, rng), rng),
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
    parts = {"rna": _genes(tissue, cells, rng), "atac": _peaks(tissue, cells, rng)}
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
        "adt": _shuffled("adt", _proteins(tissue, cells, rng), rng),
        "gex": _shuffled("gex", _genes(tissue, cells, rng), rng),
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
    from anndata import AnnData

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


def _genes(tissue: Tissue, cells: TissueCells, rng: np.random.Generator) -> AnnData:
    data = _measure(tissue.genes, cells, RNA, rng)
    data.var["feature_types"] = "Gene Expression"
    _set_coordinates(data, tissue.chrom, tissue.start, tissue.end)
    data.var["strand"] = list(tissue.strand)
    return data


def _proteins(tissue: Tissue, cells: TissueCells, rng: np.random.Generator) -> AnnData:
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
