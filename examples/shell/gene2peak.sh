#!/usr/bin/env bash
# Which peaks go with which genes. With --pairing unpaired the two modalities are taken as measured
# in different cells; what the true pairs say stands beside it, in the column correlation_measured.
# Usage: gene2peak.sh FOLDER [OPTIONS of mocli gene2peak]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
mocli gene2peak "$folder/multiome.h5mu" --links "$folder/rna-atac.tsv" --pairing unpaired \
  --gtf "$folder/genes.tsv" --group-key cell_type --bedpe -o "$folder/gene2peak.tsv" --force "$@"
head -n 5 "$folder/gene2peak.tsv"

# the model stays beside the table: other genes, another window, new cells, in seconds
mocli gene2peak "$folder/multiome.h5mu::atac" --from-model "$folder/gene2peak.model" \
  --gtf "$folder/genes.tsv" --genes CD4,CD8A --window 20000 -o "$folder/two.tsv" --force --no-html
