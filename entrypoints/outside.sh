# shellcheck shell=bash
# What batch.sh and enroot.sh share, which run around a container. They source it in the run directory, where script.sh
# has set IMAGE, RUN_ID, FOLDERS and SECRETS.

# shellcheck disable=SC2034 # for them
UNAVAILABLE=69
TRY_AGAIN=75
NOT_PERMITTED=77
REFUSED=78
# shellcheck disable=SC2153 # these are set by script.sh
SECRETS_DIR=../${SECRETS_FOLDER:-.secrets}/$RUN_ID

# What stands in the run directory is for its owner alone; what the step makes has the modes of the caller's own umask.
CALLERS_UMASK=$(umask)
umask 077

SAID='' # why this script ended by itself: its record has these words

say() { printf 'slipway: %s\n' "$*" >&2; }

# fail CODE WORDS...
fail() {
    SAID=${*:2}
    say "$SAID"
    exit "$1"
}

# refuse_as CODE WORDS...
refuse_as() {
    SAID=${*:2}
    say "refused: $SAID"
    exit "$1"
}

refuse() { refuse_as "$REFUSED" "$@"; }

json_string() {
    local s=$1
    s=${s//\\/\\\\}
    s=${s//\"/\\\"}
    printf '"%s"' "${s//[[:cntrl:]]/ }"
}

now() { TZ=UTC0 printf '%(%Y-%m-%dT%H:%M:%SZ)T' -1; }

check_resolved() {
    [[ $IMAGE != UNRESOLVED ]] || refuse "the image was not resolved when this script was written; write it again"
}

# Others may be able to make folders beside the run directory.
own_secrets() { [[ ! -L ${SECRETS_DIR%/*} && ! -L $SECRETS_DIR && -O $SECRETS_DIR ]]; }

check_secrets() {
    local name
    ((${#SECRETS[@]} == 0)) || [[ ! -e $SECRETS_DIR ]] || own_secrets ||
        refuse_as "$NOT_PERMITTED" "$SECRETS_DIR is not your own folder, but a link or somebody else's"
    for name in "${SECRETS[@]}"; do
        [[ -r $SECRETS_DIR/$name ]] ||
            refuse_as "$NOT_PERMITTED" "the secret $name is not in $SECRETS_DIR; submit this directory with: launch submit ${PWD@Q}"
    done
}

# Those outside the run directory are the caller's own data.
make_folders() {
    local folder mask
    mkdir -p container logs || refuse "$PWD: cannot make container and logs there"
    for folder in "${FOLDERS[@]}"; do
        mask=$CALLERS_UMASK
        [[ $folder != "$RUN_DIR"/* ]] || mask=077
        (umask "$mask" && mkdir -p "$folder") || refuse "cannot make the folders that are mounted: $folder"
    done
}

remove_secrets() {
    ((${#SECRETS[@]} == 0)) || ! own_secrets || rm -rf "$SECRETS_DIR" || say "cannot remove the secrets in $PWD/$SECRETS_DIR: remove them"
}
