#!/usr/bin/env bash
# sft/automodel with automodel 1.0-cpu, plan 000000000000; made by `launch`.
# Run it from inside its own directory: bash script.sh

set -u
RUN_DIR=$PWD
RUN_ID=${PWD##*/}
PLAN=0000000000000000000000000000000000000000000000000000000000000000
IMAGE=/squash/boats-1.0-cpu-111111111111.sqsh
NAME=boats-1.0-cpu-111111111111
DATA=/data/enroot
WRITABLE=0
FOLDERS=(/home/user/hf/datasets "${RUN_DIR}"/hf /data/out "${RUN_DIR}"/container)
SECRETS=()
export MELLANOX_VISIBLE_DEVICES=void
export NVIDIA_VISIBLE_DEVICES=void

START=(
    --mount /home/user/hf/datasets:/cache/datasets:none:x-create=auto,rbind,rw:0:0
    --mount "${RUN_DIR}"/hf:/cache/hf:none:x-create=auto,rbind,rw:0:0
    --mount /data/llama:/inputs/model-bbbbbbbb:none:x-create=auto,rbind,ro:0:0
    --mount /data/chats.jsonl:/inputs/train-aaaaaaaa/chats.jsonl:none:x-create=auto,rbind,ro:0:0
    --mount /data/out:/output:none:x-create=auto,rbind,rw:0:0
    --mount "${RUN_DIR}"/container:/run/slipway:none:x-create=auto,rbind,rw:0:0
    --mount "${RUN_DIR}"/slipway:/slipway:none:x-create=auto,rbind,ro:0:0
    --env ATEN_CPU_CAPABILITY=avx2
    --env EMPTY=
    --env HF_DATASETS_CACHE=/cache/datasets
    --env HF_HOME=/cache/hf
    --env HF_HUB_CACHE=/cache/hf/hub
    --env HF_HUB_OFFLINE=1
    --env HF_TOKEN_PATH=/run/secrets/HF_TOKEN
    --env MELLANOX_VISIBLE_DEVICES=void
    --env MKL_CBWR=COMPATIBLE
    --env NVIDIA_VISIBLE_DEVICES=void
    --env OMP_NUM_THREADS=1
    --env ONEDNN_MAX_CPU_ISA=AVX2
    --env SLIPWAY_LAUNCHER=torchrun
    --env SLIPWAY_NODES=1
    --env SLIPWAY_PROCS=2
    --env SLIPWAY_RUN="${RUN_ID}"
    --env SLIPWAY_SECRETS=
    --env SLIPWAY_SHARED=
    --env SLIPWAY_STEP=sft/automodel
    --env SLIPWAY_STOP_SECONDS=120
    --env SLIPWAY_STOP_SIGNAL=TERM
    --env SLIPWAY_STOP_TO=ranks
)

. slipway/enroot.sh
main env --chdir=/run/slipway 'NASTY="it'"'"'s here", $HOME `id` \ *
=;"' bash /slipway/entrypoint.sh python /slipway/steps/automodel_finetune.py
