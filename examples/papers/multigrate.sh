#!/usr/bin/env bash
# Figures of the Multigrate paper (Litinetskaya et al.) with mocli.
# Usage: multigrate.sh DATA [OPTIONS of every command that trains, such as --device cuda, or --max-steps 200 to try it]
# DATA holds the files that README.md names; results go to DATA/multigrate. What is not there is skipped.
set -euo pipefail
data=${1:?name the folder of the data}
shift
seeds=${SEEDS:-0,1,2} # of benchmarks
out=$data/multigrate
mkdir -p "$out"

given() { # whether all files are there
  for file in "$@"; do
    [ -e "$data/$file" ] || { echo "skipped: $data/$file is not there" >&2; return 1; }
  done
}

# Fig. 1, Suppl. Figs. 1-3: cells measured together, scIB scores beside principal components side by side.
for name in neurips_cite hao_cite; do
  if given "$name.h5mu"; then
    mocli benchmark "$data/$name.h5mu" --models multigrate --preset paper --hvg rna=4000 --batch-key batch \
      --label-key cell_type --seeds "$seeds" -o "$out/$name.tsv" --force "$@"
  fi
done
multiome=(--hvg rna=4000 --hvg atac=40000 --transform atac=lognorm)
if given neurips_multiome.h5mu; then
  mocli benchmark "$data/neurips_multiome.h5mu" --models multigrate --preset paper "${multiome[@]}" \
    --batch-key batch --label-key cell_type --seeds "$seeds" -o "$out/neurips_multiome.tsv" --force "$@"
fi
if given pbmc10k_multiome.h5mu; then
  mocli benchmark "$data/pbmc10k_multiome.h5mu" --models multigrate --preset paper "${multiome[@]}" \
    --label-key cell_type --seeds "$seeds" -o "$out/pbmc10k_multiome.tsv" --force "$@"
fi

# Suppl. Fig. 3: proteins of a site that was not trained on; product against mean of experts.
if given neurips_cite.h5mu; then
  for mix in product mixture; do
    mocli impute "$data/neurips_cite.h5mu" -m multigrate --preset paper --hvg rna=4000 --batch-key batch \
      --from rna --to prot --hold-out site=site4 --evaluate -s "mix=$mix" \
      -o "$out/neurips_prot_$mix.h5ad" --force "$@"
  done
fi

# Fig. 2: sites 1 and 2 of both experiments in one atlas, then queries from site 3.
if given cite_sites12.h5mu multiome_sites12.h5mu; then
  atlas=("$data/cite_sites12.h5mu" "$data/multiome_sites12.h5mu")
  mocli benchmark "${atlas[@]}" --models multigrate --preset paper "${multiome[@]}" \
    --batch-key batch --label-key cell_type --seeds "$seeds" -o "$out/mosaic.tsv" --force "$@"
  mocli integrate "${atlas[@]}" -m multigrate --preset paper "${multiome[@]}" --batch-key batch \
    --label-key cell_type -o "$out/atlas.h5mu" --force "$@"
  for query in rna_site3.h5ad atac_site3.h5ad cite_site3.h5mu multiome_site3.h5mu; do
    if given "$query"; then
      mocli integrate "$data/$query" --reference "$out/atlas.model" --transfer-labels cell_type --batch-key batch \
        -o "$out/mapped_${query%.*}.h5mu" --force "$@"
    fi
  done
fi

# Fig. 3: lipids of one slide from the expression of its spots, learnt on the other slide.
if given vicari.h5mu; then
  mocli impute "$data/vicari.h5mu" -m multigrate --preset paper --kind msi=other --batch-key slide \
    --from rna --to msi --hold-out slide=V11L12-038_B1 --evaluate -o "$out/vicari.h5ad" --force "$@"
fi
