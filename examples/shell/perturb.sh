#!/usr/bin/env bash
# Which genes take lymphoid cells of one type to another, and what lowering a gene does to the proteins.
# Usage: perturb.sh FOLDER [OPTIONS of mocli perturb]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
# trains scMODAL on the two experiments first; the model stays beside the table
mocli perturb "$folder/rna.h5ad" "$folder/prot.h5ad" --links "$folder/rna-prot.tsv" \
  --from cell_type=lymph_a --to cell_type=lymph_b --screen all --direction both \
  -o "$folder/screen.tsv" --force "$@"
head -n 5 "$folder/screen.tsv"

# from the same model, in seconds: lower single genes by half, read the proteins
mocli perturb "$folder/rna.h5ad" --from-model "$folder/screen.model" --features CD4,CD8A,CD14 \
  --direction down --target-modality prot --group-key cell_type --min-cells 50 \
  -o "$folder/effects.tsv" --force --no-html
head -n 5 "$folder/effects.tsv"
