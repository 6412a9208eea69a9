#!/usr/bin/env bash
# New cells of one type, then as many of every type: train on cells measured both ways, simulate, compare.
# Usage: simulate.sh FOLDER [OPTIONS of mocli simulate that concern training]
set -euo pipefail
folder=${1:?name a folder to work in}
shift

mocli demo "$folder" --force
# five times the rarest type, judged beside the real cells that the model was trained on
mocli simulate "$folder/multiome.h5mu" --model multidgd --label-key cell_type \
  --label cell_type=stroma --fold 5 -o "$folder/simulated.h5mu" --force "$@"

# the model's folder is all that is needed for more: 50 cells of every type
mocli simulate --from-model "$folder/simulated.model" --n-cells 50 -o "$folder/balanced.h5mu" --no-html --force
