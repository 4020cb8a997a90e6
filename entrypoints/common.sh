# shellcheck shell=bash
# What every entrypoint does, in order; sourced by entrypoint.sh, which sets PYTHON. It installs nothing.
#
# Exit codes: the step's own; 143 or 130 when the container was told to stop by TERM or INT; 78 when the run is refused;
# 75 when another node did not come.
# Whatever happens, /run/slipway/<node rank>/status.json says how it ended and whose exit code it was.

SLIPWAY_DIR=${SLIPWAY_DIR:-/slipway}
SLIPWAY_STATE_DIR=${SLIPWAY_STATE_DIR:-/run/slipway}
SLIPWAY_ENTRY_FILE=${SLIPWAY_ENTRY_FILE:-/etc/slipway/entry.json}
SLIPWAY_SECRETS_DIR=${SLIPWAY_SECRETS_DIR:-/run/secrets}
SLIPWAY_PROCS=${SLIPWAY_PROCS:-1}

NODES=${SLIPWAY_NODES:-1}
NODE_RANK=0
((NODES == 1)) || NODE_RANK=${SLURM_NODEID:-0}
NODE_DIR=$SLIPWAY_STATE_DIR/$NODE_RANK
REFUSED=78
TRY_AGAIN=75
START_WAIT=${SLIPWAY_START_WAIT:-1800} # seconds between the first node's container and the last one's
KILL_AFTER=${SLIPWAY_KILL_SECONDS:-5} # between TERM and KILL for what is still there

COMMAND=()
CACHES=()
STEP_UMASK=022
STEP_PID=''   # the step's process: python, or torchrun
STEP_CODE=''  # its exit code
OWN_HOME=''   # made by us, hence removed by us
OWN_CACHE=''
MARK=$$.$EPOCHREALTIME # in the environment of all that the step starts
WATCHDOG=''   # ends the step when it takes too long to stop
OOM_KILLS=0   # of the kernel, before the step began
STOPS=0       # how often the container was told to stop
STOPPED_BY='' # by which signal first
TOLD_AT=''    # in SECONDS, when last
MASTER_PORT=''
HEARD=''       # what another node has told
CAUSE=entrypoint
REASON='the entrypoint ended before it started the step'

main() {
    set -u
    trap finish EXIT
    trap 'on_signal TERM' TERM URG # where pyxis mounts the image, a TERM to the step ends what mounts it, too
    trap 'on_signal INT' INT
    started=$(now)
    own_umask
    prepare_state
    hear_early
    check_shape
    verify
    older_driver
    writable_home
    check_secrets
    # shellcheck source-path=SCRIPTDIR source=ray.sh
    [[ ${SLIPWAY_LAUNCHER:-} != ray ]] || . "$SLIPWAY_DIR/ray.sh"
    meet_nodes
    find_converted
    build_command "$@"
    run_step
}

say() { printf 'slipway: %s\n' "$*" >&2; }

now() { TZ=UTC0 printf '%(%Y-%m-%dT%H:%M:%SZ)T' -1; }

# refuse REASON...: ends the run with 78; each reason is one line.
refuse() {
    local reason
    CAUSE=entrypoint
    REASON=$(printf '; %s' "$@")
    REASON=${REASON#; }
    for reason in "$@"; do say "refused: $reason"; done
    exit "$REFUSED"
}

# unavailable REASON: ends the run with 75: with other nodes the same run may work.
unavailable() {
    CAUSE=node
    REASON=$1
    say "$1"
    exit "$TRY_AGAIN"
}

prepare_state() {
    if ! mkdir -p "$NODE_DIR/ranks" || ! [[ -w $NODE_DIR/ranks ]]; then
        NODE_DIR=''
        refuse "$SLIPWAY_STATE_DIR: uid $UID gid ${GROUPS[0]} cannot write there; mount the run's container/ directory writable"
    fi
    rm -f "$NODE_DIR"/ranks/*.pid "$NODE_DIR"/{status.json,reason,refused,there,go}
    export SLIPWAY_NODE_DIR=$NODE_DIR
}

# What a launcher had to say before this could hear it is in writing (launcher/engines/early.py): whoever moves the file
# away has it.
hear_early() {
    mv "$SLIPWAY_STATE_DIR/told" "$NODE_DIR/told" 2>/dev/null && on_signal "$(<"$NODE_DIR/told")"
}

check_shape() {
    [[ ${SLIPWAY_PROCS:-1} =~ ^[1-9][0-9]*$ ]] ||
        refuse "SLIPWAY_PROCS=$SLIPWAY_PROCS: expected the number of processes of this node"
    [[ $NODES =~ ^[1-9][0-9]*$ ]] || refuse "SLIPWAY_NODES=$NODES: expected the number of nodes"
    ((NODES == 1)) || [[ -n ${SLIPWAY_NONCE:-} && -n ${SLIPWAY_HEAD:-} ]] ||
        refuse "SLIPWAY_NODES=$NODES: the job has to say how nodes find each other: SLIPWAY_NONCE, SLIPWAY_HEAD"
}

# Says what runs, and refuses an image, mounts, a driver or GPUs that are not what was planned.
verify() {
    [[ -x $PYTHON ]] || refuse "$PYTHON: $(no_python)"
    compare verify.py run --entry "$SLIPWAY_ENTRY_FILE" --driver-file "$(driver_file)"
    ! command -v nvidia-smi >/dev/null || compare gpus.py
}

# compare PROGRAM [ARGUMENT...]: its findings refuse the run, where it says so, else they are printed.
compare() {
    local code findings lines program=$1
    shift
    # Its stdout is ours; its findings, on stderr, are kept for the status.
    {
        findings=$("$PYTHON" "$SLIPWAY_DIR/$program" "$@" --plan "$SLIPWAY_DIR/plan.json" \
            --out "$NODE_DIR/versions.json" 2>&1 >&3)
        code=$?
    } 3>&1
    mapfile -t lines <<<"$findings"
    case $code in
        0) [[ -z $findings ]] || printf 'slipway: %s\n' "${lines[@]}" >&2 ;;
        "$REFUSED") refuse "${lines[@]}" ;;
        "$TRY_AGAIN") unavailable "${findings//$'\n'/; }" ;;
        *) refuse "$program ended with exit code $code:" "${lines[@]}" ;;
    esac
}

# Why it cannot be started: it may be a link to where this user may not look, or over which something is mounted.
no_python() {
    local leads
    leads=$(readlink "$PYTHON") || { echo 'the image has no such interpreter' && return; }
    echo "leads to $leads, which uid $UID does not see: something is mounted over it, such as a home on /root, or a \
folder above it is closed to others; \`images build\` opens those of an official image"
}

# NVIDIA's entrypoint, which does not run here, lets an image's CUDA run on an older driver: by a link that it makes in
# the image. The libraries behind that come first here instead, which takes no writable root.
older_driver() {
    [[ -z ${SLIPWAY_LIBRARIES:-} ]] || export LD_LIBRARY_PATH="$SLIPWAY_LIBRARIES${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    local compat=${_CUDA_COMPAT_PATH:-/usr/local/cuda/compat}/lib.real here said
    here=$(grep -oEm1 '[0-9]+\.[0-9.]+' "$(driver_file)" 2>/dev/null) || return 0
    [[ -n ${CUDA_DRIVER_VERSION:-} ]] && ((${here%%.*} < ${CUDA_DRIVER_VERSION%%.*})) || return 0
    said="the driver, $here, is older than the one of the image's CUDA, $CUDA_DRIVER_VERSION"
    [[ -d $compat ]] || { say "warning: $said, and the image has no $compat" && return; }
    export LD_LIBRARY_PATH="$compat${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    say "$said: $compat comes first, which serves GPUs of data centres"
}

# Where the driver's version stands: the kernel's file, or, in WSL2, which has none, what nvidia-smi says.
driver_file() {
    local file=${SLIPWAY_DRIVER_FILE:-/proc/driver/nvidia/version} version
    if ! [[ -e $file ]] && version=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null); then
        file=$NODE_DIR/driver
        printf 'Kernel Module  %s\n' "${version%%$'\n'*}" >"$file"
    fi
    printf '%s\n' "$file"
}

# What is written to the run directory is for its owner alone. The step keeps the umask that was inherited, unless that
# lets everybody write, or takes rights from the owner.
own_umask() {
    STEP_UMASK=$(umask)
    case $STEP_UMASK in
        *[0145] | 0[1-7]??) STEP_UMASK=022 ;;
    esac
    umask 077
}

# Any uid works: a user without an entry in passwd has HOME=/ and no name, and most caches live below HOME.
writable_home() {
    local base name
    name=$(id -un 2>/dev/null) || name=uid$UID # id prints the number, too, where it finds no name
    if [[ ${HOME:-/} == / || ! -d $HOME || ! -w $HOME ]]; then
        for base in "${TMPDIR:-/tmp}" /tmp "$NODE_DIR"; do
            [[ -d $base && -w $base ]] && break
        done
        OWN_HOME=$(mktemp -d "$base/slipway-home.XXXXXX") || refuse "$base: cannot make a home there"
        export HOME=$OWN_HOME
    fi
    export USER="${USER:-$name}"
    export LOGNAME="${LOGNAME:-$USER}"
    if [[ -z ${XDG_CACHE_HOME:-} ]] && ! is_of_this_node "$HOME"; then
        OWN_CACHE=$(mktemp -d "${TMPDIR:-/tmp}/slipway-cache.XXXXXX") || refuse "${TMPDIR:-/tmp}: cannot make a cache there"
        say "caches are in $OWN_CACHE: HOME, $HOME, is on other nodes, too"
    fi
    default_cache XDG_CACHE_HOME "${OWN_CACHE:-$HOME/.cache}"
    default_cache TRITON_CACHE_DIR "$XDG_CACHE_HOME/triton"
    default_cache TORCHINDUCTOR_CACHE_DIR "$XDG_CACHE_HOME/torchinductor"
    default_cache TORCH_EXTENSIONS_DIR "$XDG_CACHE_HOME/torch_extensions"
    default_cache CUDA_CACHE_PATH "$XDG_CACHE_HOME/nv"
    default_cache MPLCONFIGDIR "$XDG_CACHE_HOME/matplotlib"
    default_cache NUMBA_CACHE_DIR "$XDG_CACHE_HOME/numba"
    default_cache FLASHINFER_WORKSPACE_BASE "$XDG_CACHE_HOME/flashinfer"
    default_cache VLLM_CACHE_ROOT "$XDG_CACHE_HOME/vllm"
    default_cache DG_JIT_CACHE_DIR "$XDG_CACHE_HOME/deep_gemm"
    default_cache TILELANG_CACHE_DIR "$XDG_CACHE_HOME/tilelang"
    # Code of models: HF_HOME would share it among nodes, each of which writes it.
    default_cache HF_MODULES_CACHE "$XDG_CACHE_HOME/huggingface-modules"
    mkdir -p "${CACHES[@]}" || refuse "${CACHES[*]}: cannot be made; mount a writable /tmp"
    export PYTHONUNBUFFERED=1
}

# Whether a folder is on a file system that no other node writes to. Workers lock files in their caches, which network
# file systems answer with stale handles where there are many.
is_of_this_node() {
    [[ $(stat -f -c %T "$1" 2>/dev/null) =~ ^(btrfs|ext2/ext3|f2fs|overlayfs|ramfs|reiserfs|tmpfs|xfs|zfs)$ ]]
}

# default_cache NAME DEFAULT: the variable keeps a directory that can be written, else it gets DEFAULT.
default_cache() {
    local dir=${!1:-}
    [[ -d $dir && -w $dir ]] || dir=$2
    export "$1=$dir"
    CACHES+=("$dir")
}

check_secrets() {
    local name
    for name in ${SLIPWAY_SECRETS:-}; do
        [[ -r $SLIPWAY_SECRETS_DIR/$name ]] || refuse "the secret $name is not in $SLIPWAY_SECRETS_DIR"
    done
}

# as_step WORDS...: becomes that program, with the step's umask and its secrets. Those are files, and libraries want
# variables; in this shell such a name might be a variable of ours.
as_step() {
    local name_of_secret
    umask "$STEP_UMASK"
    for name_of_secret in ${SLIPWAY_SECRETS:-}; do
        export "$name_of_secret=$(<"$SLIPWAY_SECRETS_DIR/$name_of_secret")"
    done
    exec "$@"
}

# Nodes have to share what they write to, and start together: their containers may take minutes to make, one longer than
# another. So nobody waits for a file of a node that may not be there yet, until it has to be there.
meet_nodes() {
    local rank
    ((NODES > 1)) || return 0
    find_shared
    tell_nodes there
    if ((NODE_RANK)); then
        await_node 0 go
        MASTER_PORT=${HEARD:-$MASTER_PORT}
    else
        for ((rank = 1; rank < NODES; rank++)); do await_node "$rank" there; done
        MASTER_PORT=${MASTER_PORT:-$(free_port)}
        tell_nodes go
    fi
}

# Below each such mount the job's script has written a file before any container was made; every node has to find it
# there, through mounts of its own. NFS shows a new file after up to a minute.
find_shared() {
    local place deadline=$((SECONDS + ${SLIPWAY_MOUNT_WAIT:-90}))
    for place in "$SLIPWAY_STATE_DIR" ${SLIPWAY_SHARED:-}; do
        until ((STOPS)) || [[ -e $place/.slipway-nonce-$SLIPWAY_NONCE ]]; do
            ((SECONDS < deadline)) || refuse "node $(node_name) does not see in $place what $(node_name 0) wrote there, \
looked for it for ${SLIPWAY_MOUNT_WAIT:-90} s: it is not the same storage on both"
            look_again "$place"
        done
    done
}

# tell_nodes WHAT: this node is that far in this attempt; the first says the port with it.
tell_nodes() {
    { printf '%s %s\n' "$SLIPWAY_NONCE" "$MASTER_PORT" >"$NODE_DIR/$1.part" && mv "$NODE_DIR/$1.part" "$NODE_DIR/$1"; } ||
        refuse "$NODE_DIR: cannot be written"
}

# has_told RANK WHAT: whether that node is that far; HEARD is what it says with it.
has_told() {
    local nonce=''
    { read -r nonce HEARD <"$SLIPWAY_STATE_DIR/$1/$2"; } 2>/dev/null
    [[ $nonce == "$SLIPWAY_NONCE" ]]
}

# await_node RANK WHAT: for as long as images may take to unpack.
await_node() {
    local said='' begun=$SECONDS
    until ((STOPS)) || has_told "$1" "$2"; do
        ((SECONDS - begun < START_WAIT)) ||
            unavailable "$(node_name "$1") was not there within $START_WAIT s, $(node_name) was: its container is not made"
        ((SECONDS - begun < 3)) || [[ -n $said ]] ||
            { said=1 && say "$(node_name) waits for $(node_name "$1"), whose container may take up to $START_WAIT s"; }
        look_again "$SLIPWAY_STATE_DIR/$1"
    done
}

# Asks the server of a network file system again, after a moment.
look_again() {
    sleep 0.2
    ls "$1" >/dev/null 2>&1
}

# What was converted for this run, by another one, ends with a marker. NFS may show it late. Without it the library
# would convert by itself, on every node at once.
find_converted() {
    local folder place=${NRL_MEGATRON_CHECKPOINT_DIR:-}
    local deadline=$((SECONDS + ${SLIPWAY_MOUNT_WAIT:-0}))
    [[ -n ${SLIPWAY_CONVERTED:-} ]] || return 0
    while read -r folder; do
        until [[ -s $place/$folder/slipway.json ]]; do
            ((SECONDS < deadline)) || refuse "$place/$folder: the model is not there, or not whole: its conversion did \
not finish; see \`launch cache list\`, and launch this anew"
            look_again "$place/$folder"
        done
    done <<<"$SLIPWAY_CONVERTED"
}

# node_name [RANK]: as the scheduler calls it.
node_name() {
    local names
    read -ra names <<<"${SLIPWAY_NODE_NAMES:-}"
    echo "${names[${1:-$NODE_RANK}]:-$(uname -n)}"
}

# build_command python PROGRAM [ARGUMENT...]: one process, or torchrun for more.
build_command() {
    [[ ${1:-} == python && -n ${2:-} ]] || refuse "entrypoint.sh: expected \`python PROGRAM [ARGUMENT...]\`, found: $*"
    shift
    [[ -f $1 ]] || refuse "$1: there is no such step program"
    [[ ${SLIPWAY_LAUNCHER:-} != ray ]] || { build_ray_command "$@" && return; }
    if ((NODES * SLIPWAY_PROCS == 1)); then
        COMMAND=("$PYTHON" "$@")
        return
    fi
    [[ ${SLIPWAY_LAUNCHER:-python} == torchrun ]] ||
        refuse "SLIPWAY_LAUNCHER=$SLIPWAY_LAUNCHER with $((NODES * SLIPWAY_PROCS)) processes: expected torchrun"
    # Not --standalone: its rendezvous wants a name service, and hangs in a container without a network.
    COMMAND=("$PYTHON" -m torch.distributed.run --nnodes="$NODES" --node-rank="$NODE_RANK"
        --nproc-per-node="$SLIPWAY_PROCS" --master-addr="${SLIPWAY_HEAD:-127.0.0.1}"
        --master-port="${MASTER_PORT:-$(free_port)}" "$@")
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # torchrun's own default, without its warning
}

# Below the range from which the kernel serves outgoing connections, so that it is still free in some seconds.
free_port() {
    "$PYTHON" -c '
import random, socket
while True:
    port = random.randrange(20000, 32768)
    with socket.socket() as s:
        if s.connect_ex(("127.0.0.1", port)):
            break
print(port)'
}

# Starts the step and waits for its end, however often a signal interrupts the waiting.
run_step() {
    OOM_KILLS=$(out_of_memory)
    if ((STOPS)); then
        CAUSE=signal
        REASON="told to stop by $STOPPED_BY before the step started"
        exit
    fi
    set -m # the step gets a process group of its own, and does not ignore INT as background jobs do otherwise
    SLIPWAY_MARK=$MARK as_step "${COMMAND[@]}" </dev/null &
    STEP_PID=$!
    set +m
    ((STOPS == 0)) || stop_step # told between the question above and now
    await_step
    describe_end
    [[ $CAUSE != entrypoint ]] || exit "$REFUSED" # torchrun makes 1 of it
    exit "$STEP_CODE"
}

await_step() {
    while kill -0 "$STEP_PID" 2>/dev/null; do
        wait "$STEP_PID" 2>/dev/null # a signal to us ends this early, with a code that is not the step's
    done
    wait "$STEP_PID" 2>/dev/null
    STEP_CODE=$?
}

describe_end() {
    local name
    CAUSE=step
    REASON="exit code $STEP_CODE"
    if ((STEP_CODE > 128)) && name=$(kill -l "$STEP_CODE" 2>/dev/null); then
        REASON="ended by signal $name"
        [[ $name != KILL ]] || (($(out_of_memory) <= OOM_KILLS)) || CAUSE=memory
    fi
    if [[ -s $NODE_DIR/refused ]]; then # a step program says no before it starts the library
        CAUSE=entrypoint
        REASON=$(<"$NODE_DIR/refused")
    elif [[ -s $NODE_DIR/reason ]]; then
        REASON+=": $(<"$NODE_DIR/reason")"
    fi
    if ((STOPS)); then
        CAUSE=signal
        REASON="told to stop by $STOPPED_BY; $REASON"
    fi
}

# How often the kernel has killed for want of memory since this machine started, at any limit.
out_of_memory() { sed -n 's/^oom_kill //p' /proc/vmstat 2>/dev/null | grep . || echo 0; }

# Slurm tells its srun, too, which then tells the step once more: within 3 s it is the same signal.
on_signal() {
    [[ -z ${SLURM_JOB_ID:-} || -z $TOLD_AT ]] || ((SECONDS - TOLD_AT > 3)) || return 0
    TOLD_AT=$SECONDS
    STOPS=$((STOPS + 1))
    STOPPED_BY=${STOPPED_BY:-$1}
    [[ -z $STEP_PID ]] || stop_step
}

# The first signal lets the step save, the second ends it, the third kills it.
stop_step() {
    end_watchdog
    case $STOPS in
        1)
            tell_step
            watchdog "${SLIPWAY_STOP_SECONDS:-30}" "$KILL_AFTER" &
            ;;
        2) watchdog 0 "$KILL_AFTER" & ;;
        *) watchdog 0 0 & ;;
    esac
    WATCHDOG=$!
}

tell_step() {
    local signal=${SLIPWAY_STOP_SIGNAL:-TERM} ranks
    mapfile -t ranks < <(rank_pids)
    if [[ ${SLIPWAY_STOP_TO:-group} == ranks && ${#ranks[@]} -gt 0 ]]; then
        say "$STOPPED_BY: $signal to ${#ranks[@]} rank(s), up to ${SLIPWAY_STOP_SECONDS:-30} s to save"
        kill -s "$signal" -- "${ranks[@]}"
    else
        say "$STOPPED_BY: $signal to the step, up to ${SLIPWAY_STOP_SECONDS:-30} s to end"
        kill -s "$signal" -- "-$STEP_PID"
    fi
}

# The ranks that wrote their pid and are still processes of this step.
rank_pids() {
    local file pid
    for file in "$NODE_DIR"/ranks/*.pid; do
        [[ -f $file ]] && pid=$(<"$file") && grep -qsFxz "SLIPWAY_MARK=$MARK" "/proc/$pid/environ" && echo "$pid"
    done
}

# watchdog GRACE KILL_AFTER: in the background, so that no signal can come too early or too late for the waiting.
watchdog() {
    trap 'kill "${!:-}" 2>/dev/null; exit' TERM
    trap '' INT
    pause "$1"
    say "ending what is left of the step"
    signal_all TERM
    pause "$2"
    say "killing what is left of the step"
    signal_all KILL
}

pause() {
    sleep "$1" &
    wait $!
}

end_watchdog() {
    [[ -n $WATCHDOG ]] || return 0
    kill "$WATCHDOG" 2>/dev/null
    wait "$WATCHDOG" 2>/dev/null
    WATCHDOG=''
}

# Every process of the step, also those in other sessions (torchrun's workers) and orphans: they inherit the mark.
members() {
    grep -lsFxz "SLIPWAY_MARK=$MARK" /proc/[0-9]*/environ | cut -d/ -f3
}

signal_all() {
    local pids
    mapfile -t pids < <(members)
    [[ ${#pids[@]} -eq 0 ]] || kill -s "$1" -- "${pids[@]}" 2>/dev/null
}

# What outlives the step's own process is ended too.
end_leftovers() {
    local signal tries left
    for signal in TERM KILL; do
        mapfile -t left < <(members)
        ((${#left[@]})) || return 0
        say "${#left[@]} process(es) outlived the step: $signal"
        signal_all "$signal"
        for ((tries = KILL_AFTER * 10; tries > 0; tries--)); do
            [[ -n $(members) ]] || return 0
            sleep 0.1
        done
    done
}

finish() {
    local code=$?
    trap '' TERM INT URG
    trap - EXIT
    end_watchdog
    [[ -z $STEP_PID ]] || end_leftovers
    case $STOPPED_BY in
        TERM) code=143 ;;
        INT) code=130 ;;
    esac
    rm -rf "${OWN_HOME:-/nonexistent}" "${OWN_CACHE:-/nonexistent}"
    write_status "$code"
    await_nodes
    exit "$code"
}

# A node that has left after a TERM makes srun end the others, which may still be saving: so all that are there leave
# together.
await_nodes() {
    local node left
    ((NODES > 1 && STOPS == 1)) || return 0
    local deadline=$((SECONDS + ${SLIPWAY_STOP_SECONDS:-30}))
    while ((SECONDS < deadline)) && [[ ! -e $SLIPWAY_STATE_DIR/failed ]]; do
        left=0
        for ((node = 0; node < NODES; node++)); do
            ! has_told "$node" there || [[ -s $SLIPWAY_STATE_DIR/$node/status.json ]] || left=$((left + 1))
        done
        ((left)) || return 0
        sleep 0.2
    done
}

write_status() {
    local signal=null step_code=${STEP_CODE:-null}
    [[ -z $STOPPED_BY ]] || signal=$(json_string "$STOPPED_BY")
    [[ -n $NODE_DIR ]] || return 0
    printf '{"exit_code": %s, "cause": %s, "reason": %s, "signal": %s, "step_exit_code": %s, "started": %s, "finished": %s}\n' \
        "$1" "$(json_string "$CAUSE")" "$(json_string "$REASON")" "$signal" "$step_code" \
        "$(json_string "$started")" "$(json_string "$(now)")" >"$NODE_DIR/status.json.part" &&
        mv -f "$NODE_DIR/status.json.part" "$NODE_DIR/status.json"
    # The first node that fails by itself tells the job's exit code: those that it takes along only know their signal.
    [[ $1 == 0 || -n $STOPPED_BY ]] ||
        (set -C && printf '%s %s %s\n' "$1" "$NODE_RANK" "$(node_name)" >"$SLIPWAY_STATE_DIR/failed") 2>/dev/null
}

json_string() {
    local s=$1
    s=${s//\\/\\\\}
    s=${s//\"/\\\"}
    s=${s//[[:cntrl:]]/ }
    printf '"%s"' "$s"
}
