#!/usr/bin/env bash
# Prunes a model with Model Optimizer and distils what is left from the whole one, on real conversations, in its cpu
# image; then measures how far the answers of both are from the whole model's.
# PROCS processes distil, 1 without it.
# Arguments: DATA MODEL WORK; see job.sh, which has `step` and `verify` too.
set -euo pipefail
# shellcheck source=examples/job.sh
. "$(dirname "$0")/../job.sh"

step optimize/modelopt/prune model="$model" calibration="$data/validation.jsonl" output="$work/pruned"
step optimize/modelopt/distill teacher="$model" student="$work/pruned" train="$data/train.jsonl" \
    validation="$data/validation.jsonl" output="$work/student" --procs "${PROCS:-1}"

verify modelopt "$data/validation.jsonl" "$model" "$work/pruned" "$work/student"
