#!/usr/bin/env bash
# CBLEED from nothing to a reader and the table of figures, on one machine with a GPU or without:
#
#   OUT=runs TIME=3600 bash benchmarks/cbleed_recipe.sh
#
# TIME: seconds for the autoencoder; the direct regressor and the paper's split take a fifth of it, each of the
# seven latent sizes a twentieth. ENERGIES: how many of each other physics. PYTHON: needs torch, numpy, scipy, h5py,
# safetensors, scikit-learn and matplotlib.
# Broken off? The same line again: shards that are there are kept, and runs go on from their checkpoint.
set -euo pipefail
OUT=${OUT:-runs} TIME=${TIME:-3600} ENERGIES=${ENERGIES:-8} PYTHON=${PYTHON:-python3}
ml() { "$PYTHON" -m py4dstem_ml.cli "$@"; }
random() { # folder, energies, seed, further options
    ml simulate cbleed --output "$OUT/$1" --sampling random --drawn-energies "$2" --seed "$3" "${@:4}"
}
train() { # folder, seconds, further options
    local resume=()
    [[ -n "$(find "$OUT/$1" -name checkpoint.safetensors 2> /dev/null)" ]] && resume=(--resume)
    ml train cbleed --library "$OUT/grid" --output "$OUT/$1" --channels 8 16 32 --time-limit "$2" \
        "${@:3}" "${resume[@]}"
}
fit() { # run, reader
    ml fit cbleed --library "$OUT/grid" --network "$OUT/$1/autoencoder.safetensors" --output "$OUT/$2.safetensors"
}

ml simulate cbleed --output "$OUT/grid"
random off 71 1
shifts=(exchange absorption deeper shallower warmer mistilt kinematic)
for physics in "${shifts[@]}"; do
    random "$physics" "$ENERGIES" 2 --physics "$physics"
done
random faster "$ENERGIES" 2 --energies 102 115 1
shifts+=(faster)

train lead "$TIME"
train direct "$((TIME / 5))" --network direct
train paper "$((TIME / 5))" --split paper
train sweep "$((TIME / 20))" --sweep
fit lead cbleed
fit paper cbleed-paper
ml evaluate cbleed --library "$OUT/grid" --weights "$OUT"/cbleed{,-paper}.safetensors \
    --direct "$OUT/direct/direct.safetensors" --off-grid "$OUT/off" --shifts "${shifts[@]/#/$OUT/}" \
    --figures "$OUT/figures" --sweep "$OUT/sweep/sweep.json" --run "$OUT/lead" --output "$OUT/table.md"
