#!/usr/bin/env bash
# Quantizes a model in three formats with Model Optimizer, calibrated on real conversations, in its cpu image; then reads
# weights and scales back and compares them with the model.
# DATA holds train.jsonl, MODEL is a Hugging Face checkpoint (the quickstart makes both).
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 DATA MODEL WORK" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$(realpath "$1") model=$(realpath "$2")
mkdir -p "$3"
work=$(realpath "$3")

for format in fp8 int8 nvfp4; do
    launch --profile docker optimize/modelopt/quantize --flavour cpu -c tiny format=$format model="$model" \
        calibration="$data/train.jsonl" output="$work/$format"
    images run modelopt --flavour cpu --mount "$work" --mount "$model" --mount "$here" -- \
        python "$here/verify.py" "$model" "$work/$format"
done
