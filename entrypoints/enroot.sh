# shellcheck shell=bash
# What a run with enroot does around its one container. Sourced by script.sh in the run directory, which sets IMAGE,
# NAME, DATA, WRITABLE, RUN_ID, FOLDERS, SECRETS and START.
#
# The file `process` says which process this is, `ended` how it ended; whoever makes the first has the run directory.
# Exit codes: the container's own; 69 there is no enroot; 73 the image could not be unpacked; 77 a declared secret is
# missing; 78 refused; 130 or 143 when it was told to stop by INT or TERM before the entrypoint was there.

# shellcheck source-path=SCRIPTDIR source=outside.sh
. slipway/outside.sh || return
CANNOT_WRITE=73

# What a site's enroot.conf or the user's shell may say otherwise; the environment wins.
export ENROOT_LOGIN_SHELL=n ENROOT_MOUNT_HOME=n ENROOT_REMAP_ROOT=n ENROOT_ROOTFS_WRITABLE=n
export ENROOT_UNSHARE_IPC=n ENROOT_UNSHARE_NET=n ENROOT_UNSHARE_PID=n ENROOT_UNSHARE_UTS=n

MARK=''  # in the environment of all that belongs to this run
CHILD='' # becomes enroot, which becomes the entrypoint
TOLD=''  # by which signal first
OWN=''   # a root file system of this run alone

main() {
    trap 'on_signal TERM' TERM
    trap 'on_signal INT' INT
    claim
    trap finish EXIT
    check_place
    check_secrets
    make_folders
    rm -rf container/failed container/0/ranks container/*/status.json ended.said
    run_container "$@"
}

# A pid is used again, also after a restart of the machine; with its start and the boot it is one process.
claim() {
    local stat fields boot
    read -r stat <"/proc/$$/stat"
    read -ra fields <<<"${stat##*) }"
    read -r boot </proc/sys/kernel/random/boot_id
    MARK=$$.${fields[19]}
    # shellcheck disable=SC2153
    ((!WRITABLE)) || OWN=$NAME-$RUN_ID
    [[ ! -e ended ]] || rm -f process ended # by hand, once more
    printf '{"pid": %s, "start": "%s", "boot": "%s", "host": "%s", "mark": "%s", "own": "%s", "started": "%s"}\n' \
        $$ "${fields[19]}" "$boot" "$(uname -n)" "$MARK" "$OWN" "$(now)" >"process.$$"
    ln "process.$$" process 2>/dev/null || { rm -f "process.$$" && refuse "$PWD/process: this run was already started"; }
    rm -f "process.$$"
}

check_place() {
    command -v enroot >/dev/null || fail "$UNAVAILABLE" "there is no enroot here"
    [[ -f slipway/plan.json ]] || refuse "$PWD holds no slipway/plan.json: run this from inside the run directory"
    case $PWD in
        *[[:space:],:\\]*) refuse "$PWD: enroot cannot mount a path with white space, a comma, colon or backslash" ;;
    esac
    check_resolved
}

# Starts the container and waits for its end, however often a signal interrupts the waiting.
run_container() {
    set -m # a process group of its own, and INT is not ignored as in background jobs otherwise
    container "$@" </dev/null &
    CHILD=$!
    set +m
    [[ -z $TOLD ]] || tell "$TOLD" # between the trap and now
    while kill -0 "$CHILD" 2>/dev/null; do
        wait "$CHILD"
    done
    wait "$CHILD"
    exit
}

container() {
    trap '[[ -z $SAID ]] || printf "%s" "$SAID" >ended.said' EXIT # this is a shell of its own
    export SLIPWAY_CONTAINER=$MARK ENROOT_DATA_PATH=$DATA
    umask "$CALLERS_UMASK" # others may use the same root file systems, and what the step makes is the caller's own
    mkdir -p "$DATA" || fail "$CANNOT_WRITE" "$DATA: cannot be made; name another folder (profile: data)"
    make_root "${OWN:-$NAME}"
    kill -0 $$ 2>/dev/null || exit # nobody would hear of its end
    exec enroot start "${START[@]}" --env "SLIPWAY_CONTAINER=$MARK" "${OWN:-$NAME}" "$@"
}

# make_root NAME: the image's root file system, made once by whoever comes first, and there only when it is whole. The
# lock is inherited by what enroot starts: while that still writes, nobody takes its place.
make_root() {
    local lock new=$DATA/.$1.new
    [[ ! -d $DATA/$1 ]] || return 0
    exec {lock}>"$DATA/.$1.lock" || fail "$CANNOT_WRITE" "$DATA/.$1.lock: cannot be written"
    flock --nonblock "$lock" || {
        say "waiting for another run that unpacks $1"
        flock "$lock" || fail "$CANNOT_WRITE" "$DATA/.$1.lock: cannot be locked"
    }
    if [[ ! -d $DATA/$1 ]]; then
        say "unpacking $IMAGE into $DATA, for this run and those to come"
        discard "$new"
        if ! { mkdir "$new" && ENROOT_DATA_PATH=$new enroot create --name "$1" "$IMAGE" >&2 && sync -f "$new" &&
            mv -T "$new/$1" "$DATA/$1"; }; then
            discard "$new"
            fail "$CANNOT_WRITE" "cannot unpack $IMAGE into $DATA: free space there, or name another folder (profile: data)"
        fi
        rmdir "$new"
    fi
    exec {lock}>&-
}

# An image may have folders that its owner may not write to.
discard() { rm -rf "$1" 2>/dev/null || { chmod -R u+rwX "$1" && rm -rf "$1"; }; }

on_signal() {
    TOLD=${TOLD:-$1}
    [[ -z $CHILD ]] || tell "$1"
}

# The entrypoint passes on what it is told; before it is there, nothing can be saved, and enroot's own processes end.
tell() {
    if [[ -d container/0/ranks ]]; then
        kill -s "$1" "$CHILD"
    else
        kill -s TERM -- "-$CHILD"
    fi 2>/dev/null
}

# Every process of this run, whatever its parent, group or session.
members() { grep -lsFxz "SLIPWAY_CONTAINER=$MARK" /proc/[0-9]*/environ | cut -d/ -f3; }

# There is no process namespace that would end with its first process.
end_leftovers() {
    local pids tries
    for ((tries = 100; tries > 0; tries--)); do
        mapfile -t pids < <(members)
        ((${#pids[@]})) || return 0
        kill -s KILL -- "${pids[@]}" 2>/dev/null
        sleep 0.1
    done
    say "still there: ${pids[*]}"
}

finish() {
    local code=$?
    trap '' TERM INT
    trap - EXIT
    end_leftovers
    [[ ! -d container/0/ranks ]] || TOLD='' # the entrypoint tells
    case $TOLD in
        TERM) code=143 ;;
        INT) code=130 ;;
    esac
    [[ ! -s ended.said ]] || SAID=$(<ended.said)
    [[ -z $OWN ]] || discard "$DATA/$OWN"
    remove_secrets
    printf '{"exit": %s, "finished": "%s", "told": "%s", "said": %s}\n' "$code" "$(now)" "$TOLD" \
        "$(json_string "$SAID")" >ended.part && mv ended.part ended
    exit "$code"
}
