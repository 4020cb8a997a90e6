#!/usr/bin/env bash
# Made by `images render` from templates/entrypoint.sh.j2; do not edit.
# Starts one step of automodel inside its container: entrypoint.sh python PROGRAM [ARGUMENT...]

# The interpreter of the image's main environment; `python` in the command stands for it. It runs the supervisor, too.
PYTHON=/opt/venv/bin/python

shopt -s execfail
[[ ! -x $PYTHON ]] || exec "$PYTHON" -I -S -B -X utf8 "${SLIPWAY_DIR:-/slipway}/supervisor/__main__.py" "$@"

# It cannot be started: what the supervisor would say of a run that is refused (docs/ends.md).
say() { printf 'slipway: refused: %s\n' "$1" >&2; }
umask 077
rank=$([[ ${SLIPWAY_NODES:-1} == 1 ]] && echo 0 || echo "${SLURM_NODEID:-0}")
state=${SLIPWAY_STATE_DIR:-/run/slipway}
mkdir -p "$state/$rank/ranks" || {
    say "$state: uid $UID gid ${GROUPS[0]} cannot write there; mount the run's container/ directory writable"
    exit 78
}
if [[ -x $PYTHON ]]; then
    why='cannot be started'
elif ! leads=$(readlink "$PYTHON"); then
    why='the image has no such interpreter'
else
    why="leads to $leads, which uid $UID does not see: something is mounted over it, such as a home on /root, or a \
folder above it is closed to others; \`images build\` opens those of an official image"
fi
say "$PYTHON: $why"
reason="$PYTHON: $why"
reason=${reason//\\/\\\\}
now=$(TZ=UTC0 printf '%(%Y-%m-%dT%H:%M:%SZ)T' -1)
cat >"$state/$rank/status.json.part" <<END && mv -f "$state/$rank/status.json.part" "$state/$rank/status.json"
{"exit_code": 78, "cause": "entrypoint", "reason": "${reason//\"/\\\"}", "signal": null, "step_exit_code": null, "started": "$now", "finished": "$now"}
END
read -ra names <<<"${SLIPWAY_NODE_NAMES:-}"
(set -C && echo "78 $rank ${names[rank]:-$(uname -n)}" >"$state/failed") 2>/dev/null # the first to fail tells the code
exit 78
