# shellcheck shell=bash
# What every example's run.sh needs: `run.sh DATA MODEL WORK` as $data, $model and $work, its own folder as $here.
# DATA holds train.jsonl and validation.jsonl, MODEL is a Hugging Face checkpoint (the quickstart makes both).
[ $# -eq 3 ] || { echo "usage: $0 DATA MODEL WORK" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=$(realpath "$1") model=$(realpath "$2")
mkdir -p "$3"
work=$(realpath "$3")

# step STEP WORD...: launches it on tiny data, in its cpu image.
step() { launch --profile docker "$1" --flavour cpu -c tiny "${@:2}"; }

# verify LIBRARY ARGUMENT...: the example's verify.py, in that library's image.
verify() {
    images run "$1" --flavour cpu --mount "$work" --mount "$model" --mount "$data" --mount "$here" -- \
        python "$here/verify.py" "${@:2}"
}
