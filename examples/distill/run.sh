#!/usr/bin/env bash
# Prunes a model with Model Optimizer and distils what is left from the whole one, on real conversations, in its cpu
# image; then measures how far the answers of both are from the whole model's.
# DATA holds train.jsonl and validation.jsonl, MODEL is a Hugging Face checkpoint (the quickstart makes both). PROCS
# processes distil, 1 without it.
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 DATA MODEL WORK" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$(realpath "$1") model=$(realpath "$2")
mkdir -p "$3"
work=$(realpath "$3")

step() { launch --profile docker "optimize/modelopt/$1" --flavour cpu -c tiny "${@:2}"; }

step prune model="$model" calibration="$data/validation.jsonl" output="$work/pruned"
step distill teacher="$model" student="$work/pruned" train="$data/train.jsonl" validation="$data/validation.jsonl" \
    output="$work/student" --procs "${PROCS:-1}"

images run modelopt --flavour cpu --mount "$work" --mount "$model" --mount "$data" --mount "$here" -- \
    python "$here/verify.py" "$data/validation.jsonl" "$model" "$work/pruned" "$work/student"
