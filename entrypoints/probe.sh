#!/usr/bin/env bash
# What `launch profiles doctor` asks of a machine, here or on each node of its probe job; in no container.
# Arguments: a nonce, seconds to wait for it, and the folders that every node should see. Prints NODE, KEY, VALUE, with
# tabs between. A folder in which the nonce is readable is given this node's own file.

nonce=$1 patience=$2
shift 2
node=${SLURMD_NODENAME:-$(hostname)}

say() { printf '%s\t%s\t%s\n' "$node" "$1" "$2"; }

# A folder, or its nearest parent that is there.
nearest() {
    local folder=$1
    until [[ -d $folder || $folder == / ]]; do folder=$(dirname "$folder"); done
    echo "$folder"
}

# Kibibytes free on the filesystem of a folder.
room() { df -Pk "$1" | awk 'END { print $4 }'; }

# enroot's value of a setting: the first line that sets it, evaluated as enroot does; else its default.
setting() {
    local line
    line=$(awk -v name="$1" '$1 == name { sub(/^[^ \t]+[ \t]+/, ""); print; exit }' \
        /etc/enroot/enroot.conf /etc/enroot/enroot.conf.d/*.conf 2>/dev/null)
    eval "printf %s \"${line:-$2}\""
}

for root; do
    file=$root/.slipway-doctor-$nonce
    # Listing the folder refreshes what a network filesystem remembers of it.
    until ls -a "$root" >/dev/null 2>&1 && [[ -r $file ]] || ((SECONDS >= patience)); do sleep 0.5; done
    if [[ ! -d $root ]]; then
        say "root $root" "is not there"
    elif [[ $(cat "$file" 2>/dev/null) != "$nonce" ]]; then
        say "root $root" "does not show what was written elsewhere"
    elif ! printf %s "$nonce" 2>/dev/null >"$file-$node"; then
        say "root $root" "cannot be written"
    else
        say "root $root" ok
    fi
done

if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | sort | uniq -c |
        while read -r count what; do say "gpus" "$count x $what"; done
elif [[ -r /proc/driver/nvidia/version ]]; then
    say "gpus" "driver $(grep -oEm1 '[0-9]+\.[0-9.]+' /proc/driver/nvidia/version)"
fi

say "arch" "$(uname -m)"
command -v enroot >/dev/null && say "enroot" "$(enroot version 2>&1)"
[[ -z ${SLURM_JOB_ID:-} ]] || unset XDG_RUNTIME_DIR # a login's own, which no job of ours has
for folder in \
    "runtime $(setting ENROOT_RUNTIME_PATH "${XDG_RUNTIME_DIR:-/run}/enroot")" \
    "cache $(setting ENROOT_CACHE_PATH "${XDG_CACHE_HOME:-$HOME/.cache}/enroot")" \
    "data $(setting ENROOT_DATA_PATH "${XDG_DATA_HOME:-$HOME/.local/share}/enroot")" \
    "temp $(setting ENROOT_TEMP_PATH "${TMPDIR:-/tmp}")"; do
    place=$(nearest "${folder#* }")
    [[ -w $place ]] || say "closed $folder" "$place"
    say "free $folder" "$(room "$place")"
    say "filesystem $folder" "$(stat -f -c %T "$place")"
done
