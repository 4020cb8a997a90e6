#!/usr/bin/env bash
# Quantizes a model in three formats with Model Optimizer, calibrated on real conversations, in its cpu image; then reads
# weights and scales back and compares them with the model.
# Arguments: DATA MODEL WORK; see job.sh, which has `step` and `verify` too.
set -euo pipefail
# shellcheck source=examples/job.sh
. "$(dirname "$0")/../job.sh"

for format in fp8 int8 nvfp4; do
    step optimize/modelopt/quantize format=$format model="$model" calibration="$data/train.jsonl" \
        output="$work/$format"
    verify modelopt "$model" "$work/$format"
done
