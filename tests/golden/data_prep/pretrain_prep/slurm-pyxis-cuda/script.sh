#!/usr/bin/env bash
# data_prep/pretrain_prep with megatron-bridge 1.0-cuda, plan 000000000000; made by `launch`.
# Submit it from inside its own directory: sbatch script.sh
#SBATCH --exclusive
#SBATCH --export=NONE
#SBATCH --gpus-per-node=4
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --no-requeue
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=logs/job.log
#SBATCH --signal=B:USR1@100

set -u
RUN_DIR=$PWD
RUN_ID=${PWD##*/}
IMAGE=/shared/squash/image.sqsh
NODES=1
GPUS=4
ATTEMPTS=3
REQUEUE=0
PLAN=0000000000000000000000000000000000000000000000000000000000000000
FOLDERS=(/home/user/hf/datasets "${RUN_DIR}"/hf /data/out "${RUN_DIR}"/container)
SHARED=()
SECRETS=()
SETUP=()

# What the step is given, and this script is not: srun's --export and --container-env name every one.
ENV=(
    HF_DATASETS_CACHE=/cache/datasets
    HF_HOME=/cache/hf
    HF_HUB_CACHE=/cache/hf/hub
    HF_HUB_OFFLINE=1
    HF_TOKEN_PATH=/run/secrets/HF_TOKEN
    SLIPWAY_LAUNCHER=python
    SLIPWAY_MOUNT_WAIT=90
    SLIPWAY_NODES=1
    SLIPWAY_PROCS=4
    SLIPWAY_RUN="${RUN_ID}"
    SLIPWAY_SECRETS=''
    SLIPWAY_SHARED=''
    SLIPWAY_STEP=data_prep/pretrain_prep
    SLIPWAY_STOP_SECONDS=10
    SLIPWAY_STOP_SIGNAL=TERM
    SLIPWAY_STOP_TO=group
    ENROOT_LOGIN_SHELL=n
)

# shellcheck disable=SC2054 # commas are the options' own
SRUN=(
    --container-env=HF_DATASETS_CACHE,HF_HOME,HF_HUB_CACHE,HF_HUB_OFFLINE,HF_TOKEN_PATH,NVIDIA_VISIBLE_DEVICES,SLIPWAY_ATTEMPT,SLIPWAY_DEADLINE,SLIPWAY_HEAD,SLIPWAY_LAUNCHER,SLIPWAY_MOUNT_WAIT,SLIPWAY_NODES,SLIPWAY_NODE_NAMES,SLIPWAY_NONCE,SLIPWAY_PROCS,SLIPWAY_RUN,SLIPWAY_SECRETS,SLIPWAY_SHARED,SLIPWAY_STEP,SLIPWAY_STOP_SECONDS,SLIPWAY_STOP_SIGNAL,SLIPWAY_STOP_TO
    --container-image=/shared/squash/image.sqsh
    --container-mounts=/home/user/hf/datasets:/cache/datasets:rw,"${RUN_DIR}"/hf:/cache/hf:rw,/data/tokenizer:/inputs/tokenizer-cccccccc:ro,/data/train:/inputs/train-cccccccc/train:ro,/data/out:/output:rw,"${RUN_DIR}"/container:/run/slipway:rw,"${RUN_DIR}"/slipway:/slipway:ro
    --container-workdir=/run/slipway
    --cpu-bind=none
    --export=ENROOT_LOGIN_SHELL,HF_DATASETS_CACHE,HF_HOME,HF_HUB_CACHE,HF_HUB_OFFLINE,HF_TOKEN_PATH,NVIDIA_VISIBLE_DEVICES,SLIPWAY_ATTEMPT,SLIPWAY_DEADLINE,SLIPWAY_HEAD,SLIPWAY_LAUNCHER,SLIPWAY_MOUNT_WAIT,SLIPWAY_NODES,SLIPWAY_NODE_NAMES,SLIPWAY_NONCE,SLIPWAY_PROCS,SLIPWAY_RUN,SLIPWAY_SECRETS,SLIPWAY_SHARED,SLIPWAY_STEP,SLIPWAY_STOP_SECONDS,SLIPWAY_STOP_SIGNAL,SLIPWAY_STOP_TO
    --job-name=slipway
    --kill-on-bad-exit=1
    --mpi=none
    --no-container-entrypoint
    --no-container-mount-home
    --no-container-remap-root
    --nodes=1
    --ntasks-per-node=1
    --open-mode=append
    --output=logs/node-%n.log
)

. slipway/batch.sh || { echo "slipway: refused: $PWD holds no slipway/: submit from inside the run directory" >&2; exit 78; }
main bash /slipway/entrypoint.sh python /slipway/steps/pretrain_prep.py
