#!/usr/bin/env bash
# LoRA with AutoModel on real conversations, in its cpu image; the adapter is merged into its base, and what came out is
# computed again from base and adapter.
# DATA holds train.jsonl and validation.jsonl, MODEL is a Hugging Face checkpoint (the quickstart makes both).
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 DATA MODEL WORK" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$(realpath "$1") model=$(realpath "$2")
mkdir -p "$3"
work=$(realpath "$3")

step() { launch --profile docker "$1" --flavour cpu -c tiny "${@:2}"; }

step peft/automodel train="$data/train.jsonl" validation="$data/validation.jsonl" model="$model" output="$work/lora" \
    lora_rank=8 lora_alpha=32
step convert/merge_lora_hf adapter="$work/lora/LATEST/model" base="$model" output="$work/merged"

images run automodel --flavour cpu --mount "$work" --mount "$model" --mount "$here" -- \
    python "$here/verify.py" "$model" "$work/lora/LATEST/model" "$work/merged"
