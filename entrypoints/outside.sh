# shellcheck shell=bash
# What batch.sh and enroot.sh share, which run around a container. They source it in the run directory, where script.sh
# has set IMAGE, RUN_ID, FOLDERS and SECRETS.

# shellcheck disable=SC2034 # for them
UNAVAILABLE=69
NOT_PERMITTED=77
REFUSED=78
# shellcheck disable=SC2153 # these are set by script.sh
SECRETS_DIR=../.secrets/$RUN_ID

say() { printf 'slipway: %s\n' "$*" >&2; }

# fail CODE WORDS...
fail() {
    say "${*:2}"
    exit "$1"
}

refuse() { fail "$REFUSED" "refused: $*"; }

now() { TZ=UTC0 printf '%(%Y-%m-%dT%H:%M:%SZ)T' -1; }

check_resolved() {
    [[ $IMAGE != UNRESOLVED ]] || refuse "the image was not resolved when this script was written; write it again"
}

check_secrets() {
    local name
    for name in "${SECRETS[@]}"; do
        [[ -r $SECRETS_DIR/$name ]] ||
            fail "$NOT_PERMITTED" "refused: the secret $name is not in $SECRETS_DIR; submit this directory with: launch submit ${PWD@Q}"
    done
}

make_folders() {
    mkdir -p container logs "${FOLDERS[@]}" || refuse "cannot make the folders that are mounted: ${FOLDERS[*]}"
}
