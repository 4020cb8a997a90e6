#!/usr/bin/env bash
# Megatron-Bridge from conversations to Hugging Face checkpoints, on tiny real data, in its cpu image: packing,
# conversion, fine-tuning in two processes, LoRA, merging, conversion back, pretraining on mock data; then a look at all.
# DATA holds train.jsonl and validation.jsonl, MODEL is a Hugging Face checkpoint (the quickstart makes both).
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 DATA MODEL WORK" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$(realpath "$1") model=$(realpath "$2")
mkdir -p "$3"
work=$(realpath "$3")

step() { launch --profile docker "$1" --flavour cpu -c tiny "${@:2}"; }

head -n 200 "$data/train.jsonl" >"$work/train.jsonl"
head -n 40 "$data/validation.jsonl" >"$work/validation.jsonl"

step data_prep/sft_packing train="$work/train.jsonl" validation="$work/validation.jsonl" tokenizer="$model" \
    output="$work/packed"
step convert/hf_to_megatron model="$model" output="$work/base"
step sft/megatron_bridge train="$work/packed" validation="$work/packed" model="$work/base" tokenizer="$model" \
    output="$work/sft" --procs 2
step peft/megatron_bridge train="$work/packed" validation="$work/packed" model="$work/base" tokenizer="$model" \
    output="$work/lora"
step convert/merge_lora adapter="$work/lora" base="$model" output="$work/merged"
step convert/megatron_to_hf model="$work/base" config="$model" output="$work/back"
step convert/megatron_to_hf model="$work/sft" config="$model" output="$work/tuned"
step pretrain/megatron_bridge output="$work/pretrained"

images run megatron-bridge --flavour cpu --mount "$work" --mount "$model" --mount "$here" -- \
    python "$here/verify.py" "$model" "$work"
