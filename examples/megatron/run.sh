#!/usr/bin/env bash
# Megatron-Bridge from conversations to Hugging Face checkpoints, on tiny real data, in its cpu image: packing,
# conversion, fine-tuning in two processes, LoRA, merging, conversion back; tokenized documents of their texts, and
# pretraining on these; then a look at all.
# Arguments: DATA MODEL WORK; see job.sh, which has `step` and `verify` too.
set -euo pipefail
# shellcheck source=examples/job.sh
. "$(dirname "$0")/../job.sh"

head -n 200 "$data/train.jsonl" >"$work/train.jsonl"
head -n 40 "$data/validation.jsonl" >"$work/validation.jsonl"

python3 -c '
import json, sys
for line in sys.stdin:
    print(json.dumps({"content": "\n".join(m["content"] for m in json.loads(line)["messages"])}))
' <"$data/train.jsonl" >"$work/texts.jsonl"

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
step data_prep/pretrain_prep train="$work/texts.jsonl" text_field=content tokenizer="$model" output="$work/documents"
step pretrain/megatron_bridge data="$work/documents" tokenizer="$model" output="$work/pretrained"

verify megatron-bridge "$model" "$work"
