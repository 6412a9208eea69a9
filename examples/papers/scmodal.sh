#!/usr/bin/env bash
# Figures of the scMODAL paper (Wang et al., Nat Commun 2025) with mocli.
# Usage: scmodal.sh DATA [OPTIONS of every command that trains, such as --device cuda, or --max-steps 200 to try it]
# DATA holds the files that README.md names; results go to DATA/scmodal. What is not there is skipped.
set -euo pipefail
data=${1:?name the folder of the data}
shift
seeds=${SEEDS:-0,1,2} # of benchmarks
out=$data/scmodal
mkdir -p "$out"

given() { # whether all files are there
  for file in "$@"; do
    [ -e "$data/$file" ] || { echo "skipped: $data/$file is not there" >&2; return 1; }
  done
}

# Fig. 2: PBMC of CITE-seq taken apart; the pairs only judge. Label transfer at both levels, FOSCTTM, pair distance,
# mixing, kBET, silhouette, beside controls; the panel of 30 proteins; proteins from RNA with every feature's accuracy.
if given pbmc_cite.h5mu; then
  mocli links build "$data/pbmc_cite.h5mu" -o "$out/pbmc_cite.links.tsv" --force
  for level in cell_type_1 cell_type_2; do
    mocli benchmark "$data/pbmc_cite.h5mu" --pairing unpaired --links "$out/pbmc_cite.links.tsv" --models scmodal \
      --preset paper --label-key "$level" --seeds "$seeds" -o "$out/pbmc_cite_$level.tsv" --force "$@"
  done
  mocli benchmark "$data/pbmc_cite.h5mu" --pairing unpaired --links "$out/pbmc_cite.links.tsv" --models scmodal \
    --preset paper --label-key cell_type_2 --seeds 0 --panel 30 -o "$out/pbmc_cite_panel.tsv" --force "$@"
  mocli impute "$data/pbmc_cite.h5mu" --pairing unpaired --links "$out/pbmc_cite.links.tsv" -m scmodal \
    --preset paper --from rna --to prot --evaluate -o "$out/pbmc_cite_prot.h5ad" --force "$@"
fi

# The same of bone marrow with 97 proteins (Ab-seq).
if given bm_abseq.h5mu; then
  mocli links build "$data/bm_abseq.h5mu" -o "$out/bm_abseq.links.tsv" --force
  mocli benchmark "$data/bm_abseq.h5mu" --pairing unpaired --links "$out/bm_abseq.links.tsv" --models scmodal \
    --preset paper --label-key cell_type --seeds "$seeds" -o "$out/bm_abseq.tsv" --force "$@"
fi

# Fig. 3, two panels with 12 markers in common: proteins of CITE-seq and CyTOF; and the ablation of loss terms.
if given bm_cite_prot.h5ad bm_cytof.h5ad; then
  panels=("prot=$data/bm_cite_prot.h5ad" "cyto=$data/bm_cytof.h5ad")
  mocli links build "${panels[@]}" --mode antigen -o "$out/bm_panels.links.tsv" --force
  mocli benchmark "${panels[@]}" --links "$out/bm_panels.links.tsv" --models scmodal --preset paper \
    --label-key cell_type --seeds "$seeds" --ablate adversarial,reconstruction,cycle,mnn,geometry \
    -o "$out/bm_panels.tsv" --force "$@"
fi

# Fig. 3, three modalities of TEA-seq taken apart, in a chain through RNA.
if given teaseq_prot.h5ad teaseq_rna.h5ad teaseq_atac.h5ad genes_hg38.gtf.gz; then
  prot=prot=$data/teaseq_prot.h5ad rna=rna=$data/teaseq_rna.h5ad atac=atac=$data/teaseq_atac.h5ad
  mocli links build "$prot" "$rna" -o "$out/teaseq_prot.links.tsv" --force
  mocli links build "$rna" "$atac" --genes "$data/genes_hg38.gtf.gz" -o "$out/teaseq_atac.links.tsv" --force
  mocli benchmark "$prot" "$rna" "$atac" --pairing unpaired --links "$out/teaseq_prot.links.tsv" \
    --links "$out/teaseq_atac.links.tsv" --models scmodal --preset paper --label-key cell_type --seeds "$seeds" \
    -o "$out/teaseq.tsv" --force "$@"
fi

# Fig. 4: mouse brain, RNA and ATAC of different cells; peaks within 10,000 bases of genes, by imputed expression.
if given brain_rna.h5ad brain_atac.h5ad genes_mm10.gtf.gz; then
  brain=("rna=$data/brain_rna.h5ad" "atac=$data/brain_atac.h5ad")
  mocli links build "${brain[@]}" --genes "$data/genes_mm10.gtf.gz" -o "$out/brain.links.tsv" --force
  mocli benchmark "${brain[@]}" --links "$out/brain.links.tsv" --models scmodal --preset paper \
    --label-key cell_type --seeds "$seeds" -o "$out/brain.tsv" --force "$@"
  mocli gene2peak "${brain[@]}" --links "$out/brain.links.tsv" -m scmodal --preset paper \
    --gtf "$data/genes_mm10.gtf.gz" --window 10000 --group-key cell_type -o "$out/brain_links.tsv" --force "$@"
fi

# Fig. 5: tonsil, CODEX - RNA - ATAC; labels for the imaged cells, and MKI67 that was not imaged.
if given tonsil_codex.h5ad tonsil_rna.h5ad tonsil_atac.h5ad genes_hg38.gtf.gz; then
  codex=prot=$data/tonsil_codex.h5ad rna=rna=$data/tonsil_rna.h5ad atac=atac=$data/tonsil_atac.h5ad
  mocli links build "$codex" "$rna" -o "$out/tonsil_prot.links.tsv" --force
  mocli links build "$rna" "$atac" --genes "$data/genes_hg38.gtf.gz" -o "$out/tonsil_atac.links.tsv" --force
  mocli integrate "$codex" "$rna" "$atac" --links "$out/tonsil_prot.links.tsv" --links "$out/tonsil_atac.links.tsv" \
    -m scmodal --preset paper --transfer-labels cell_type --min-confidence 0 --unknown-below 0 \
    -o "$out/tonsil.h5mu" --force "$@" # as in the paper every cell gets a label, which CellPhoneDB asks for
  mocli impute "$codex" --from-model "$out/tonsil.model" --from prot --to rna --features MKI67 \
    -o "$out/tonsil_mki67.h5ad" --force
  # Fig. 5g, m-p: cell-cell communication by other tools, on what was imputed for the labelled, imaged cells
  mocli impute "$out/tonsil.h5mu::prot" --from-model "$out/tonsil.model" --from prot --to rna \
    -o "$out/tonsil_imputed.h5ad" --force
  mocli export "$out/tonsil_imputed.h5ad" --to cellphonedb --label-key cell_type_transferred \
    -o "$out/tonsil_cellphonedb" -f
  mocli export "$out/tonsil_imputed.h5ad" --to commot --spatial "$data/tonsil_codex.h5ad" -o "$out/tonsil_commot.h5ad" -f
fi
