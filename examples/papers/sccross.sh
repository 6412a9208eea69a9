#!/usr/bin/env bash
# Figures of the scCross paper (Yang et al., Genome Biol 2024) with mocli.
# Usage: sccross.sh DATA [OPTIONS of every command that trains, such as --device cuda, or --max-steps 200 to try it]
# DATA holds the files that README.md names; results go to DATA/sccross. What is not there is skipped.
set -euo pipefail
data=${1:?name the folder of the data}
shift
seeds=${SEEDS:-0,1,2} # of benchmarks
out=$data/sccross
mkdir -p "$out"

given() { # whether all files are there
  for file in "$@"; do
    [ -e "$data/$file" ] || { echo "skipped: $data/$file is not there" >&2; return 1; }
  done
}

# Fig. 2: cells measured together and taken apart: ARI, NMI, silhouettes, graph connectivity, FOSCTTM, beside controls.
for name in cortex lymph plaque; do
  if given "$name.h5mu" genes_mm10.gtf.gz; then
    mocli links build "$data/$name.h5mu" --genes "$data/genes_mm10.gtf.gz" -o "$out/$name.links.tsv" --force
    mocli benchmark "$data/$name.h5mu" --pairing unpaired --links "$out/$name.links.tsv" --models sccross \
      --preset paper --label-key cell_type --seeds "$seeds" -o "$out/$name.tsv" --force "$@"
  fi
done

# Fig. 3: cortex, three kinds of measurement of different cells; links of methylation are given, their sign is -1.
if given cortex_rna.h5ad cortex_methyl.h5ad cortex_atac.h5ad rna-methyl.tsv genes_mm10.gtf.gz; then
  rna=rna=$data/cortex_rna.h5ad methyl=methyl=$data/cortex_methyl.h5ad atac=atac=$data/cortex_atac.h5ad
  mocli links build "$rna" "$atac" --genes "$data/genes_mm10.gtf.gz" -o "$out/cortex3.links.tsv" --force
  mocli benchmark "$rna" "$methyl" "$atac" --links "$data/rna-methyl.tsv" --links "$out/cortex3.links.tsv" \
    --models sccross --preset paper --label-key cell_type --seeds "$seeds" -o "$out/cortex3.tsv" --force "$@"
fi

# Fig. 4: expression of 80 % of the cells from their accessibility, learnt on 20 %.
if given cortex.h5mu genes_mm10.gtf.gz; then
  mocli impute "$data/cortex.h5mu" --links "$out/cortex.links.tsv" -m sccross --preset paper --from atac --to rna \
    --hold-out 0.8 --evaluate --scale counts -o "$out/cortex_rna.h5ad" --force "$@"
fi

# Fig. 5: a rare type once and five times, in both modalities; all types beside real cells, three seeds.
if given cortex.h5mu genes_mm10.gtf.gz; then
  mocli simulate "$data/cortex.h5mu" --links "$out/cortex.links.tsv" -m sccross --preset paper \
    --label-key cell_type --label cell_type=Ast --fold 1 -o "$out/ast1.h5mu" --force "$@"
  for places in cells mean; do
    mocli simulate "$data/cortex.h5mu" --from-model "$out/ast1.model" --label cell_type=Ast --fold 5 \
      --places "$places" -o "$out/ast5_$places.h5mu" --force
  done
  mocli benchmark "$data/cortex.h5mu" --links "$out/cortex.links.tsv" --models sccross,multidgd,multigrate \
    --label-key cell_type --tasks integrate,simulate --seeds "$seeds" -o "$out/cortex_simulated.tsv" --force "$@"
fi

# Human fetal atlas: RNA and ATAC of different cells, millions of them.
if given fetal_rna.h5ad fetal_atac.h5ad genes_fetal.gtf.gz; then
  fetal=("rna=$data/fetal_rna.h5ad" "atac=$data/fetal_atac.h5ad")
  mocli links build "${fetal[@]}" --genes "$data/genes_fetal.gtf.gz" -o "$out/fetal.links.tsv" --force
  mocli integrate "${fetal[@]}" --links "$out/fetal.links.tsv" -m sccross --preset paper --label-key cell_type \
    -o "$out/fetal.h5mu" --force "$@"
fi

# Fig. 6: which genes take cells of the ill to the healthy, by type, and what that does to proteins.
if given covid.h5mu; then
  mocli links build "$data/covid.h5mu" -o "$out/covid.links.tsv" --force
  mocli perturb "$data/covid.h5mu" --links "$out/covid.links.tsv" -m sccross --preset paper \
    --label-key cell_type --from state=Covid --to state=Healthy --screen hvg --direction both \
    --group-key cell_type --min-cells 100 --target-modality prot -o "$out/covid_screen.tsv" --force "$@"
  if given signature.txt; then
    mocli perturb "$data/covid.h5mu" --from-model "$out/covid_screen.model" --from state=Healthy \
      --features "$data/signature.txt" --together --direction up --effect log-shift=1 --target-modality prot \
      --write-predicted -o "$out/covid_proteins.tsv" --force
  fi
  # Fig. 6d-f: proteins of the ill by a model of healthy cells alone (healthy.txt: their names), and whether the
  # proteins that differ are those that are measured to
  if given healthy.txt; then
    mocli impute "$data/covid.h5mu" --links "$out/covid.links.tsv" -m sccross --preset paper --from rna --to prot \
      --only-cells "$data/healthy.txt" --evaluate -o "$out/healthy_proteins.h5ad" --force "$@"
    mocli impute "$data/covid.h5mu" --from-model "$out/healthy_proteins.model" --from rna --to prot --evaluate \
      --compare-groups state -o "$out/covid_imputed.h5ad" --force
  fi
fi
