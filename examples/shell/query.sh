#!/usr/bin/env bash
# A reference of cells measured in RNA and peaks, and new cells of which only RNA was measured.
# Usage: query.sh FOLDER [OPTIONS of mocli integrate]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
# the model keeps the labels of --label-key for queries
mocli integrate "$folder/multiome.h5mu" --model multigrate --batch-key batch --label-key cell_type \
    -o "$folder/reference.h5mu" --force "$@"
# only weights for what is new about them are trained; every other weight stays as it is
mocli integrate "rna=$folder/rna.h5ad" --reference "$folder/reference.model" --transfer-labels cell_type \
    -o "$folder/mapped.h5mu" --force
