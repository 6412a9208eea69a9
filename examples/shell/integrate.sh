#!/usr/bin/env bash
# Two experiments on different cells of the same tissue: RNA in one, proteins in the other.
# Usage: integrate.sh FOLDER [OPTIONS of mocli integrate]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
mocli integrate "$folder/rna.h5ad" "$folder/prot.h5ad" \
  --links "$folder/rna-prot.tsv" \
  --label-key cell_type --batch-key batch \
  -o "$folder/integrated.h5mu" --force "$@"

# the same with every choice written down, to repeat it later
mocli integrate "$folder/rna.h5ad" "$folder/prot.h5ad" --links "$folder/rna-prot.tsv" \
  --label-key cell_type --batch-key batch -o "$folder/again.h5mu" "$@" \
  --print-config > "$folder/integrate.yaml"
mocli integrate --config "$folder/integrate.yaml" --dry-run
