#!/usr/bin/env bash
# Runs a command where the mounts of a plan stand as in a container, without a container engine:
#   root.sh (--ro|--rw SOURCE TARGET)... -- COMMAND...
#
# In a mount namespace of its own: the root is an empty tmpfs into which the machine's folders are bound under their own
# names, then SOURCE at TARGET. It is the command that runs on, under this process's id, and nothing is left of it.
#
# Where namespaces are not permitted (in a container without CAP_SYS_ADMIN), TARGET is a link to SOURCE on the machine
# itself, which needs root, and goes away when the command ends; `--ro` is not enforced then. Says which of the two it is.
# Exit codes: the command's; 77 neither is possible; 78 something stands at TARGET.
set -euo pipefail

NEW=/run # hidden by the new root, in our namespace alone
MOUNTS=() # MODE SOURCE TARGET, one after another
LINKS=()  # made by us
FOLDERS=()
CHILD=''

main() {
    local how=${1:-}
    [[ $how != --inside && $how != --links ]] || shift
    parse "$@"
    shift "$((${#MOUNTS[@]} + 1))"
    case $how in
        --inside) inside "$@" ;;
        --links) links "$@" ;;
        *) choose "${MOUNTS[@]}" -- "$@" ;;
    esac
}

say() { printf 'root.sh: %s\n' "$*" >&2; }

parse() {
    while [[ ${1:-} == --ro || ${1:-} == --rw ]]; do
        MOUNTS+=("$1" "$2" "$3")
        shift 3
    done
    [[ ${1:-} == -- && $# -gt 1 ]] || { say 'expected (--ro|--rw SOURCE TARGET)... -- COMMAND...' && exit 64; }
}

choose() {
    local flags
    for flags in -m -rm; do
        if unshare "$flags" mount -t tmpfs tmpfs "$NEW" 2>/dev/null; then
            say "a mount namespace of its own (unshare $flags)"
            exec unshare "$flags" bash "$0" --inside "$@"
        fi
    done
    [[ $EUID == 0 ]] || { say 'mount namespaces are not permitted here, and links at / take root' && exit 77; }
    say 'links on the machine itself: mount namespaces are not permitted; what is read-only can be written'
    exec bash "$0" --links "$@"
}

inside() {
    local path
    mount -t tmpfs -o mode=755 tmpfs "$NEW"
    for path in /*; do
        if own "$path"; then continue; fi
        if [[ -L $path ]]; then cp -a "$path" "$NEW/"; else bind "$path" "$path"; fi
    done
    each bind
    exec chroot "$NEW" env --chdir=/run/slipway "$@"
}

# own PATH: whether the plan's mounts stand there or below; the machine's folder of that name is not seen then.
own() {
    local n
    for ((n = 2; n < ${#MOUNTS[@]}; n += 3)); do
        [[ ${MOUNTS[n]}/ != "$1"/* ]] || return 0
    done
    return 1
}

# each FUNCTION: with SOURCE TARGET MODE of every mount.
each() {
    local n
    for ((n = 0; n < ${#MOUNTS[@]}; n += 3)); do "$1" "${MOUNTS[n + 1]}" "${MOUNTS[n + 2]}" "${MOUNTS[n]}"; done
}

bind() {
    local place=$NEW$2 flags
    if [[ -d $1 ]]; then mkdir -p "$place"; else mkdir -p "${place%/*}" && : >"$place"; fi
    mount --rbind "$1" "$place"
    [[ ${3:-} == --ro ]] || return 0
    flags=$(findmnt -nro VFS-OPTIONS --target "$place") # a user namespace must not take any of them away
    mount -o "remount,bind,ro,${flags#r[ow],}" "$place"
}

links() {
    trap unlink_all EXIT
    trap 'tell TERM' TERM
    trap 'tell INT' INT
    each free
    each link
    set -m # a process group of its own, as with a shell's job: INT is not ignored
    (cd /run/slipway && exec "$@") </dev/null &
    CHILD=$!
    set +m
    while kill -0 "$CHILD" 2>/dev/null; do wait "$CHILD" || true; done
    wait "$CHILD"
}

tell() { [[ -z $CHILD ]] || kill -s "$1" "$CHILD" || true; }

free() { [[ ! -e $2 && ! -L $2 ]] || { say "$2 is there already, and would be hidden by the plan's" && exit 78; }; }

link() {
    local folder=${2%/*} missing=()
    while [[ -n $folder && ! -d $folder ]]; do
        missing=("$folder" "${missing[@]}")
        folder=${folder%/*}
    done
    for folder in "${missing[@]}"; do mkdir "$folder" && FOLDERS=("$folder" "${FOLDERS[@]}"); done
    ln -s "$1" "$2"
    LINKS+=("$2")
}

unlink_all() {
    [[ ${#LINKS[@]} -eq 0 ]] || rm -f "${LINKS[@]}"
    [[ ${#FOLDERS[@]} -eq 0 ]] || rmdir "${FOLDERS[@]}"
}

main "$@"
