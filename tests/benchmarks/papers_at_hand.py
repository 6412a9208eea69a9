"""Files with the names that the scripts of `examples/papers` expect, from the sets at hand.

`python tests/benchmarks/papers_at_hand.py ../shared/data OUT` writes a folder for each paper; then
`bash examples/papers/scmodal.sh OUT/scmodal --max-steps 100`, and so on, runs every command to its end.
Sets stand in for the papers' own, cut to some hundred cells; where there is none the demo's planted cells
do (TEA-seq, CODEX, COVID-19), or planted values (methylation, intensities). Such runs show that commands
work, not how well.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import warnings
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd

from mocli.data.demo import write_demo

CELLS, PEAKS = 500, 3_000
RNG = np.random.default_rng(0)


def read(data: Path, name: str) -> dict[str, ad.AnnData]:
    """Return the modalities of a set."""
    with md.set_options(pull_on_update=False):
        return dict(md.read_h5mu(data / f"{name}.h5mu").mod)


def write(path: Path, parts: dict[str, ad.AnnData]) -> None:
    """Write an h5mu."""
    with md.set_options(pull_on_update=False):
        md.MuData({name: part.copy() for name, part in parts.items()}).write_h5mu(path)


def relabelled(parts: dict[str, ad.AnnData], **columns: str) -> dict[str, ad.AnnData]:
    """Return modalities with further columns of obs, each a copy of one that is there."""
    out = {name: part.copy() for name, part in parts.items()}
    for part in out.values():
        for new, old in columns.items():
            part.obs[new] = part.obs[old].astype(str).to_numpy()
    return out


def cells_of(parts: dict[str, ad.AnnData], chosen: pd.Index) -> dict[str, ad.AnnData]:
    """Return some cells of all modalities."""
    return {name: part[chosen].copy() for name, part in parts.items()}


def cortex(data: Path) -> tuple[dict[str, ad.AnnData], list[pd.Index]]:
    """Mouse cortex with the peaks that most cells have open, and five sets of other cells."""
    parts = relabelled(read(data, "snareseq_mouse_cortex"))
    peaks = parts["atac"]
    peaks = peaks[:, np.sort(np.argsort(-np.asarray(peaks.X.sum(0)).ravel())[:PEAKS])].copy()
    for part in (parts["rna"], peaks):
        part.obs["cell_type"] = part.obs["cell_type"].astype(str).replace({"Astro": "Ast"})
    order = RNG.permutation(peaks.obs_names)
    return {"rna": parts["rna"], "atac": peaks}, [
        pd.Index(order[CELLS * k : CELLS * (k + 1)]) for k in range(5)
    ]


def methylation(rna: ad.AnnData) -> ad.AnnData:
    """Planted shares of methylated bases of every gene: lower, the more it is expressed."""
    logged = np.log1p(rna.X.toarray())
    score = (logged - logged.mean(0)) / (logged.std(0) + 0.1)
    share = 1 / (1 + np.exp(score + RNG.normal(size=score.shape)))
    out = ad.AnnData(share.astype(np.float32), obs=rna.obs[["cell_type"]].copy())
    out.var_names = [f"{gene}_mCH" for gene in rna.var_names]
    return out


def intensities(rna: ad.AnnData) -> ad.AnnData:
    """Planted intensities: mixtures of genes with multiplicative noise."""
    logged = np.log1p(rna.X.toarray())
    mixed = logged @ RNG.normal(0, 0.3, (rna.n_vars, 60)) / 3 + RNG.normal(0, 0.3, (rna.n_obs, 60))
    return ad.AnnData(np.exp(mixed).astype(np.float32), obs=rna.obs.copy())


def scmodal(data: Path, folder: Path) -> None:
    """Blood of two studies (CITE-seq), antibodies and CyTOF, cortex; planted TEA-seq and tonsil."""
    blood = relabelled(read(data, "eccite_pbmc_49adt"), cell_type_2="cell_type_gated")
    for part in blood.values():
        part.obs["cell_type_1"] = part.obs["cell_type_2"].replace({"CD4 T": "T", "CD8 T": "T"})
    write(folder / "pbmc_cite.h5mu", blood)
    other = relabelled(read(data, "citeseq_pbmc10x_2batch"), cell_type="cell_type_gated")
    write(folder / "bm_abseq.h5mu", other)
    panel = ad.read_h5ad(data / "adt87_pbmc_kotliarov.h5ad")
    panel.obs["cell_type"] = panel.obs["cell_type_gated"].astype(str)
    panel[RNG.choice(panel.n_obs, CELLS, replace=False)].write_h5ad(folder / "bm_cite_prot.h5ad")
    cytof = ad.read_h5ad(data / "cytof_bcrxl_stim.h5ad")
    cytof[RNG.choice(cytof.n_obs, CELLS, replace=False)].write_h5ad(folder / "bm_cytof.h5ad")
    planted = folder / "planted"
    write_demo(planted, n_cells=CELLS, seed=0, trimodal=True)
    for name, file in (("prot", "adt"), ("rna", "gex"), ("atac", "atac")):
        part = ad.read_h5ad(planted / f"{file}.h5ad")
        own = part.obs_names.copy()
        part.obs_names = part.obs["true_cell"].astype(str)
        part.write_h5ad(folder / f"teaseq_{name}.h5ad")
        part.obs_names = own
        if name == "prot":
            del part.obs["cell_type"]
            part.obsm["spatial"] = RNG.uniform(0, 1_000, (part.n_obs, 2))
        part.write_h5ad(folder / f"tonsil_{'codex' if name == 'prot' else name}.h5ad")
    packed(planted / "genes.tsv", folder / "genes_hg38.gtf.gz")
    parts, sets = cortex(data)
    parts["rna"][sets[0]].write_h5ad(folder / "brain_rna.h5ad")
    parts["atac"][sets[1]].write_h5ad(folder / "brain_atac.h5ad")
    shutil.copy(data / "prior_genes_mm10.tsv.gz", folder / "genes_mm10.gtf.gz")


def multigrate(data: Path, folder: Path) -> None:
    """Bone marrow by CITE-seq and by multiome, blood with 224 proteins; planted intensities."""
    cite, multiome = (
        relabelled(read(data, name), cell_type="cell_type_coarse", site="donor")
        for name in ("citeseq_bmmc_134adt", "multiome_bmmc_2batch")
    )
    shared = [g for g in cite["rna"].var_names if g in set(multiome["rna"].var_names)]
    write(folder / "neurips_multiome.h5mu", multiome)
    write(folder / "pbmc10k_multiome.h5mu", multiome)
    write(folder / "hao_cite.h5mu", read(data, "citeseq_pbmc_hao_mosaic"))
    for name, parts in (("cite", cite), ("multiome", multiome)):
        donor = parts["rna"].obs["donor"].astype(str)
        parts["rna"] = parts["rna"][:, shared].copy()
        known = cells_of(parts, donor.index[donor == "s1d1"])
        new = cells_of(parts, donor.index[donor == "s1d2"])
        write(folder / f"{name}_sites12.h5mu", known)
        write(folder / f"{name}_site3.h5mu", new)
        single = "rna" if name == "cite" else "atac"
        new[single].var["feature_types"] = single
        new[single].write_h5ad(folder / f"{single}_site3.h5ad")
    for part in cite.values():
        part.obs["site"] = part.obs["site"].replace({"s1d2": "site4"})
    write(folder / "neurips_cite.h5mu", cite)
    rna = cite["rna"].copy()
    half = RNG.permutation(rna.n_obs) % 2
    rna.obs["slide"] = np.array(["V11L12-038_A1", "V11L12-038_B1"])[half]
    write(folder / "vicari.h5mu", {"rna": rna, "msi": intensities(rna)})


def multidgd(data: Path, folder: Path) -> None:
    """Bone marrow, mouse cortex and the demo; peaks near the targets of a factor stand for motifs."""
    marrow = read(data, "multiome_bmmc_2batch")
    write(folder / "marrow.h5mu", marrow)
    parts, sets = cortex(data)
    write(folder / "gastrulation.h5mu", cells_of(parts, sets[0]))
    write_demo(folder / "planted", n_cells=CELLS, seed=0)
    shutil.copy(folder / "planted" / "multiome.h5mu", folder / "brain.h5mu")
    shutil.copy(data / "prior_genes_hg38.tsv.gz", folder / "genes_hg38.gtf.gz")
    expressed = np.asarray((marrow["rna"].X > 0).sum(0)).ravel()
    factors = list(marrow["rna"].var_names[np.argsort(-expressed)[:8]])
    peaks = marrow["atac"].var_names.str.extract(r"^(.+?)[:-](\d+)-(\d+)$")
    lines = [
        f"{chrom}\t{start}\t{end}\t{factor}\n"
        for factor in factors
        for chrom, start, end in peaks.sample(40, random_state=len(factor)).itertuples(index=False)
    ]
    (folder / "motifs.bed").write_text("".join(lines))
    (folder / "factors.txt").write_text("\n".join(factors) + "\n")
    classes = ["activator", "repressor"] * 4
    (folder / "classes.tsv").write_text("".join(f"{f}\t{c}\n" for f, c in zip(factors, classes, strict=True)))


def sccross(data: Path, folder: Path) -> None:
    """Cortex in parts, bone marrow as the atlas; planted methylation, and the demo's states as conditions."""
    parts, sets = cortex(data)
    for name, chosen in zip(("cortex", "lymph", "plaque"), sets, strict=False):
        write(folder / f"{name}.h5mu", cells_of(parts, chosen))
    parts["rna"][sets[0]].write_h5ad(folder / "cortex_rna.h5ad")
    methylation(parts["rna"][sets[3]]).write_h5ad(folder / "cortex_methyl.h5ad")
    parts["atac"][sets[4]].write_h5ad(folder / "cortex_atac.h5ad")
    lines = "".join(f"{gene}\t{gene}_mCH\t1\t-1\n" for gene in parts["rna"].var_names)
    (folder / "rna-methyl.tsv").write_text("rna\tmethyl\tweight\tsign\n" + lines)
    shutil.copy(data / "prior_genes_mm10.tsv.gz", folder / "genes_mm10.gtf.gz")
    atlas = read(data, "multiome_bmmc_2batch")
    odd = RNG.permutation(atlas["rna"].n_obs) % 2 == 1
    atlas["rna"][odd].write_h5ad(folder / "fetal_rna.h5ad")
    atlas["atac"][~odd].write_h5ad(folder / "fetal_atac.h5ad")
    shutil.copy(data / "prior_genes_hg38.tsv.gz", folder / "genes_fetal.gtf.gz")
    write_demo(folder / "planted", n_cells=CELLS, seed=0)
    covid = {}
    for name in ("rna", "prot"):
        part = ad.read_h5ad(folder / "planted" / f"{name}.h5ad")
        part.obs_names = part.obs["true_cell"].astype(str)
        part.obs["state"] = np.where(part.obs["state"] > 0, "Covid", "Healthy")
        covid[name] = part
    covid["prot"] = covid["prot"][covid["rna"].obs_names].copy()
    write(folder / "covid.h5mu", covid)
    healthy = covid["rna"].obs_names[covid["rna"].obs["state"] == "Healthy"]
    (folder / "healthy.txt").write_text("\n".join(healthy) + "\n")
    (folder / "signature.txt").write_text("\n".join(covid["rna"].var_names[:5]) + "\n")


def packed(source: Path, target: Path) -> None:
    """Write a file gzipped."""
    with gzip.open(target, "wb") as file:
        file.write(source.read_bytes())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    for paper in (scmodal, multigrate, multidgd, sccross):
        place = given.out / paper.__name__
        place.mkdir(parents=True, exist_ok=True)
        paper(given.data, place)
        print(f"{place}: {', '.join(sorted(path.name for path in place.iterdir()))}")
