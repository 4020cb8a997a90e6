#!/usr/bin/env bash
# The quickstart's job: real data, a tiny model, supervised fine-tuning in the image, and a look at what came out.
# `make quickstart` calls it; `launch` and `images` are on PATH then, the engine answers and the image is built.
set -euo pipefail
cd "$(dirname "$0")"
work=$PWD/work

if [ ! -f "$work/model/config.json" ]; then
    python3 make_data.py "$work/data"
    images run automodel --flavour cpu --mount "$PWD" -- python make_model.py work/data work/model
fi

launch --profile docker sft/automodel --flavour cpu \
    train="$work/data/train.jsonl" validation="$work/data/validation.jsonl" model="$work/model" \
    -c tiny max_steps=120 checkpoint_every=60 validate_every=60

# What the record of that run says of its result.
record=$(launch show last --json)
run=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["directory"])' <<<"$record")
checkpoint=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["outcome"]["checkpoint"])' <<<"$record")
images run automodel --flavour cpu --mount "$PWD" --mount "$run" -- \
    python verify.py "$checkpoint" "$run/container/result.json"

# Where the next hour begins.
cat >&2 <<END

Next:
  export PATH=$(dirname "$(command -v launch)"):\$PATH   # launch and images, from any folder
  launch runs                   # this run, and those to come: $(dirname "$run")
  launch show last              # what ran, on what, and what came of it
  launch steps                  # what else there is; launch steps sft/automodel says all of one
END
