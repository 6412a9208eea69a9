#!/usr/bin/env bash
# Expression for cells that have only peaks: train on cells measured both ways, then fill in others.
# Usage: impute.sh FOLDER [OPTIONS of mocli impute that concern training]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
# how far can it be trusted? a fifth of the cells is kept out of training, predicted, and compared
mocli impute "$folder/multiome.h5mu" --links "$folder/rna-atac.tsv" --pairing unpaired \
  --from atac --to rna --evaluate -o "$folder/checked.h5mu" --force "$@"

# the model's folder is all that is needed for other cells
mocli impute "$folder/multiome.h5mu::atac" --from-model "$folder/checked.model" --to rna \
  --scale counts -o "$folder/filled.h5ad" --no-html --force
