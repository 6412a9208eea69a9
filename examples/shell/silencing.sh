#!/usr/bin/env bash
# Which peaks change when a gene falls silent in a model, and which of these changes mean something.
# Usage: silencing.sh FOLDER [OPTIONS of mocli gene2peak]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
mocli gene2peak "$folder/multiome.h5mu" -m multidgd --batch-key batch --label-key cell_type \
  --gtf "$folder/genes.tsv" --group-key cell_type --alternative negative -o "$folder/silenced.tsv" --force "$@"
head -n 5 "$folder/silenced.tsv"

# the model stays beside the table: two genes at once
mocli gene2peak "$folder/multiome.h5mu" --from-model "$folder/silenced.model" --gtf "$folder/genes.tsv" \
  --genes CD4,CD8A --together -o "$folder/both.tsv" --force --no-html
