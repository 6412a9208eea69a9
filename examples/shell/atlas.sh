#!/usr/bin/env bash
# An atlas of experiments that share a modality: RNA and peaks of some cells, RNA alone of others.
# Usage: atlas.sh FOLDER [OPTIONS of mocli integrate]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
# rna= says that the second file is the same modality as rna of the first; obs["input"] tells the files apart
inputs=("$folder/multiome.h5mu" "rna=$folder/rna.h5ad")
options=(--model multigrate --batch-key input --label-key cell_type -o "$folder/atlas.h5mu" --force)
mocli integrate "${inputs[@]}" "${options[@]}" --dry-run
mocli integrate "${inputs[@]}" "${options[@]}" "$@"
