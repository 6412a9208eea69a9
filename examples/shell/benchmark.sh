#!/usr/bin/env bash
# Which model for these data? Models, simple controls and another tool's places in one table.
# Usage: benchmark.sh FOLDER [OPTIONS of mocli benchmark]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
mocli benchmark "$folder/multiome.h5mu" --links "$folder/rna-atac.tsv" --label-key cell_type --batch-key batch \
  -o "$folder/bench.tsv" --force "$@"

# the ranking is in bench.report.html; the table is tidy, one line a figure
awk -F'\t' 'NR == 1 || $7 == "scib_total"' "$folder/bench.tsv"
