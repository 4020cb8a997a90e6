#!/usr/bin/env bash
# `make test-gpu`: run.sh PYTHON WHEELS [OPTION...]
#
# Makes one environment for each library over the torch that PYTHON has, and runs check.py in them with the OPTIONs.
# WHEELS: a folder that pip takes everything from; where it is empty, pip asks its own index. See docs/gpu.md.
set -euo pipefail

PYTHON=$1 WHEELS=$2
shift 2
REPO=$(cd "$(dirname "$0")/../.." && pwd)
PLACE=$REPO/.slipway/gpu
OWN=(--quiet --no-deps --disable-pip-version-check)
[[ -z $WHEELS ]] || OWN+=(--no-index --find-links "$(realpath "$WHEELS")")

# environment LIBRARY REQUIREMENTS...: its packages first, then all that PYTHON sees.
environment() {
    local folder=$PLACE/$1 packages made
    made=$(cat "${@:2}" "$REPO"/entrypoints/cpu/slipway_cpu.py "$0" | sha256sum)
    [[ ! -f $folder/made || $(<"$folder/made") != "$made $PYTHON" ]] || return 0
    echo "making $folder"
    "$PYTHON" -m venv --without-pip --clear "$folder"
    for file in "${@:2}"; do
        "$PYTHON" -m pip --python "$folder/bin/python" install "${OWN[@]}" --requirement "$file"
    done
    packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # Not --system-site-packages: of an environment that is the packages of its own base, and not its own.
    "$PYTHON" -c '
import sys
for path in sys.path:
    if path.endswith(("site-packages", "dist-packages")):
        print(f"import site; site.addsitedir({path!r})")' >"$packages/machine.pth"
    if [[ -d $REPO/entrypoints/cpu/$1 ]]; then # as in a cpu image; they are inactive where CUDA is
        cp "$REPO/entrypoints/cpu/slipway_cpu.py" "$REPO/entrypoints/cpu/$1"/slipway_cpu_* "$packages"
    fi
    echo "$made $PYTHON" >"$folder/made"
}

"$PYTHON" -c 'import torch' || { echo "$PYTHON has no torch; name one that has: make test-gpu PYTHON=…" >&2 && exit 69; }
environment automodel "$REPO"/images/automodel/0.7.0-cpu/requirements-automodel.txt "$REPO"/tests/gpu/requirements.txt &
environment modelopt "$REPO"/images/modelopt/0.47.0-cpu/requirements-modelopt.txt
wait $!

export PYTHONPATH=$REPO:$REPO/tests
exec "$PLACE/automodel/bin/python" -m gpu.check --work "$PLACE/work" --json "$PLACE/results.json" \
    --docs "$REPO/docs/gpu.md" --python "automodel=$PLACE/automodel/bin/python" \
    --python "modelopt=$PLACE/modelopt/bin/python" "$@"
