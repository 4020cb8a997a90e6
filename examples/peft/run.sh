#!/usr/bin/env bash
# LoRA with AutoModel on real conversations, in its cpu image; the adapter is merged into its base, and what came out is
# computed again from base and adapter.
# Arguments: DATA MODEL WORK; see job.sh, which has `step` and `verify` too.
set -euo pipefail
# shellcheck source=examples/job.sh
. "$(dirname "$0")/../job.sh"

step peft/automodel train="$data/train.jsonl" validation="$data/validation.jsonl" model="$model" output="$work/lora" \
    lora_rank=8 lora_alpha=32
step convert/merge_lora_hf adapter="$work/lora/LATEST/model" base="$model" output="$work/merged"

verify automodel "$model" "$work/lora/LATEST/model" "$work/merged"
