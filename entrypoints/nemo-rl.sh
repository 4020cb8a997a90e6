#!/usr/bin/env bash
# Made by `images render` from templates/entrypoint.sh.j2; do not edit.
# Starts one step of nemo-rl inside its container: entrypoint.sh python PROGRAM [ARGUMENT...]

# The interpreter of the image's main environment; `python` in the command stands for it.
PYTHON=/opt/nemo_rl_venv/bin/python

# shellcheck source-path=SCRIPTDIR source=common.sh
. "${SLIPWAY_DIR:-/slipway}/common.sh"
main "$@"
