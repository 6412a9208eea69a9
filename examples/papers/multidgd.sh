#!/usr/bin/env bash
# Figures of the multiDGD paper (Schuster et al., Nat Commun 2024) with mocli.
# Usage: multidgd.sh DATA [OPTIONS of every command that trains, such as --device cuda, or --max-steps 200 to try it]
# DATA holds the files that README.md names; results go to DATA/multidgd. What is not there is skipped.
set -euo pipefail
data=${1:?name the folder of the data}
shift
seeds=${SEEDS:-0,1,2} # of benchmarks
shares=${SHARES:-0.01,0.1,0.25,0.5} # of the training cells
out=$data/multidgd
mkdir -p "$out"

given() { # whether all files are there
  for file in "$@"; do
    [ -e "$data/$file" ] || { echo "skipped: $data/$file is not there" >&2; return 1; }
  done
}

# Fig. 2: held-out cells given back, clusters, batches, and what the same cells lose on shares of the training cells;
# three seeds.
for name in marrow gastrulation brain; do
  if given "$name.h5mu"; then
    batch=(--batch-key batch)
    [ "$name" != brain ] || batch=()
    mocli benchmark "$data/$name.h5mu" --models multidgd --preset paper "${batch[@]}" --label-key cell_type \
      --tasks integrate,reconstruct --fractions "$shares" --seeds "$seeds" \
      -o "$out/$name.tsv" --force "$@"
  fi
done

# Figs. 3 to 5: coordinates and components; each site as cells of a batch never seen, with a component of its own or without.
if given marrow.h5mu; then
  mocli integrate "$data/marrow.h5mu" -m multidgd --preset paper --batch-key batch --label-key cell_type --umap \
    -o "$out/marrow.h5mu" --force "$@"
  for way in naive component; do
    mocli benchmark "$data/marrow.h5mu" --models multidgd --preset paper --batch-key batch --label-key cell_type \
      --tasks reconstruct --leave-one-batch-out -s "new_levels=$way" --seeds 0 \
      -o "$out/marrow_unseen_$way.tsv" --force "$@"
  done
fi

# Fig. 6: peaks within 10,000 bases that change when a gene falls silent; known enhancers (HiChIP as BEDPE).
if given marrow.h5mu genes_hg38.gtf.gz; then
  truth=()
  [ ! -e "$data/hichip.bedpe" ] || truth=(--truth "$data/hichip.bedpe")
  mocli gene2peak "$data/marrow.h5mu" --from-model "$out/marrow.model" --gtf "$data/genes_hg38.gtf.gz" \
    --window 10000 --step adam --group-key cell_type "${truth[@]}" -o "$out/marrow_tss.tsv" --force
  mocli benchmark "$data/marrow.h5mu" --models multidgd --preset paper --batch-key batch --label-key cell_type \
    --tasks integrate,gene2peak --gtf "$data/genes_hg38.gtf.gz" "${truth[@]}" --seeds "$seeds" \
    -o "$out/marrow_links.tsv" --force "$@"
fi

# Fig. 7: factors that fall silent, and the peaks with their motif (BED with the factor as name); activators against
# repressors (classes.tsv: factor and class), where they are given.
if given marrow.h5mu genes_hg38.gtf.gz motifs.bed factors.txt; then
  classes=()
  if given classes.tsv; then classes=(--peak-set-classes "$data/classes.tsv"); fi
  mocli gene2peak "$data/marrow.h5mu" --from-model "$out/marrow.model" --gtf "$data/genes_hg38.gtf.gz" \
    --genes "$data/factors.txt" --step adam --min-cells 250 --peak-sets "$data/motifs.bed" "${classes[@]}" \
    -o "$out/marrow_factors.tsv" --force
fi
