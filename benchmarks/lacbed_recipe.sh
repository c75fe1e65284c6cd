#!/usr/bin/env bash
# LACBED from tables of crystals to weights and the table of figures, on one machine with a GPU:
#
#   OUT=runs TIME=3600 bash benchmarks/lacbed_recipe.sh structures_icsd.npz structures_cubic_extra.npz
#
# TIME: seconds for each of the seven networks. SIZE: full, or compact without a GPU. SHARDS: so many shards of
# each table instead of all. PYTHON: needs torch, numpy, scipy, h5py and safetensors.
# Broken off? The same line again: shards that are there are kept, and runs go on from their checkpoint.
set -euo pipefail
OUT=${OUT:-runs} TIME=${TIME:-3600} SIZE=${SIZE:-full} PYTHON=${PYTHON:-python3}
ml() { "$PYTHON" -m py4dstem_ml.cli "$@"; }

tables=() folders=()
for table in "$@"; do
    folder="$OUT/library/$(basename "$table" .npz)"
    ml simulate lacbed --structures "$table" --output "$folder" ${SHARDS:+--shards "$SHARDS"}
    tables+=("$table") folders+=("$folder")
done
ml simulate lacbed --random --output "$OUT/library/random" --shards "${SHARDS:-150}"

train() { # folder, network, further options
    local run="$OUT/$1" resume=()
    [[ -e "$run/checkpoint.safetensors" ]] && resume=(--resume)
    ml train lacbed --library "${folders[@]}" "$OUT/library/random" --output "$run" \
        --network "$2.$SIZE" --time-limit "$TIME" "${@:3}" "${resume[@]}"
}
train forward linenet.forward
train inverse linenet.inverse
train gan-forward pix2pix.forward
train gan-inverse pix2pix.inverse
train l1-forward pix2pix.forward --plain
train l1-inverse pix2pix.inverse --plain
SIZE=compact train vae vae.forward

ml fit lacbed --structures "${tables[@]}" --output "$OUT/atlas.safetensors"
ml evaluate lacbed --library "${folders[@]}" --weights "$OUT"/{forward,inverse,gan-*,l1-*,vae}/*.*.*.safetensors \
    --atlas "$OUT/atlas.safetensors" --refined 40 --output "$OUT/table.md"
