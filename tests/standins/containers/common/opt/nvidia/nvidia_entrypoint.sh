#!/bin/bash
# Stands for NVIDIA's: says what it is, takes its time, leaves a file below CUDA's folder, and becomes the command.
echo "== a stand-in of an NVIDIA container =="
sleep "${SLOW:-0}"
mkdir -p /usr/local/cuda/compat && touch /usr/local/cuda/compat/.checked
exec "$@"
