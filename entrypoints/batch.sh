# shellcheck shell=bash
# What a Slurm job does around its one srun. Sourced by script.sh in the run directory, which sets IMAGE, NODES, GPUS,
# ATTEMPTS, REQUEUE, PLAN, RUN_ID, RUN_DIR, FOLDERS, SHARED, SECRETS, SETUP, ENV and SRUN; MADE where it needs that.
#
# Exit codes: the step's own, of whichever node failed first (srun hides it behind the 143 of those it ended);
# 69 the step was never launched; 76 it has not come to what was expected; 77 a declared secret is missing; 78 refused.
# Every attempt leaves its lines in attempts.jsonl.

# shellcheck source-path=SCRIPTDIR source=outside.sh
. slipway/outside.sh || return

ATTEMPT=0
SRUN_PID=''
TOLD=''      # why the step was told to leave: 'time limit', 'TERM' or 'preempted'; or why it had to: 'bad node'
ENDED=''     # Slurm told this script, too
SRUN_CODE='' # of srun itself
UNMADE=''    # nodes whose containers did not start
NONCES=()    # written by this script, for the nodes to find
BAD=''       # nodes that the next attempt does without, and why in WHY
WHY=''
NO_OTHERS='there are not enough other nodes on which this job could run'
GOES_ON=''   # the job was put back into the queue

# On every node; pyxis lets no ENROOT_DATA_PATH of a job through.
# shellcheck disable=SC2016 # for the shells there
LEFTOVERS='for name in $(enroot list | grep "^pyxis_${SLURM_JOB_ID}[._]"); do
    echo "slipway: $(uname -n): removing $name, which an earlier attempt left" >&2
    enroot remove -f "$name" || exit
done'

main() {
    check_place
    trap finish EXIT
    trap on_limit USR1
    trap on_cancel USR2
    trap on_term TERM
    check_image
    ATTEMPT=${SLURM_RESTART_COUNT:-0}
    record start "nodes=$SLURM_JOB_NODELIST"
    # shellcheck disable=SC2153 # set by script.sh
    ((ATTEMPT < ATTEMPTS)) || refuse "started $((ATTEMPT + 1)) times, the profile allows $ATTEMPTS (attempts)"
    check_secrets
    make_folders
    make_logs
    rm -rf container/failed container/*/status.json container/*/ranks container/nccl.* container/bad container/stalled
    describe_job
    check_made
    set_up
    remove_leftovers
    run_step "$@"
}

# The script finds everything beside itself, and pyxis cannot mount every path. Until this is known to be
# its own directory, nothing is written or removed here.
check_place() {
    [[ -n ${SLURM_JOB_ID:-} ]] || refuse "this is no job of Slurm's: submit it with sbatch, from inside its directory"
    type -P srun scontrol >/dev/null ||
        refuse "there is no srun here: PYXIS_* variables of the submitting shell put this script into a container; unset them"
    unset "${!PYXIS_@}"
    grep -qsxF "PLAN=$PLAN" script.sh ||
        refuse "$PWD on $(uname -n) is not the directory of this script: submit from inside the run directory"
    case $PWD in
        *[[:space:],:\"\$\`\\]*) refuse "$PWD: pyxis cannot mount a path with white space or one of , : \" \$ \` \\" ;;
    esac
}

check_image() {
    check_resolved
    [[ $IMAGE != /* || -f $IMAGE ]] || refuse "$IMAGE: there is no such file on $(uname -n)"
}

# What jobs before this one have made: their containers have left links, each to something in its own output.
check_made() {
    local index link top made pairs
    # shellcheck disable=SC2153 # set by script.sh, where there are any
    pairs=(${MADE[@]+"${MADE[@]}"})
    for ((index = 0; index < ${#pairs[@]}; index += 2)); do
        link=${pairs[index]}
        top=$(readlink -e "${pairs[index + 1]}")
        made=$(readlink -e "$link")
        [[ -n $top && -n $made ]] || refuse "$link: the run that was to make it has not said what it has made"
        [[ $made/ == "$top"/* ]] || refuse "$link: leads out of $top"
    done
}

# Slurm would make them by the step's umask; it appends to what is there.
make_logs() {
    local rank
    for ((rank = 0; rank < NODES; rank++)); do
        : >>"logs/node-$rank.log" || refuse "$PWD/logs: cannot be written"
    done
}

# What only the job knows.
describe_job() {
    local names ends
    names=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || refuse "scontrol cannot name the nodes"
    export SLIPWAY_ATTEMPT=$ATTEMPT SLIPWAY_NODE_NAMES=${names//$'\n'/ }
    SLIPWAY_HEAD=$(scontrol show node "${SLIPWAY_NODE_NAMES%% *}" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    SLIPWAY_NONCE=$SLURM_JOB_ID.$ATTEMPT.$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
    export SLIPWAY_HEAD SLIPWAY_NONCE
    ends=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.* EndTime=\([^ ]*T[^ ]*\).*/\1/p') # or Unknown
    [[ -z $ends ]] || SLIPWAY_DEADLINE=$(date -d "$ends" +%s) && export SLIPWAY_DEADLINE
    ((GPUS)) || export NVIDIA_VISIBLE_DEVICES=void # enroot's hook would want nvidia-container-cli for all and for none
}

# The profile's own lines, one after the other; a site's scripts are seldom written for a shell that is strict.
set_up() {
    local line
    umask "$CALLERS_UMASK" # which such a line may change
    set +u
    for line in "${SETUP[@]}"; do
        eval "$line" || refuse "setup: $line: ended with $?"
    done
    set -u
    CALLERS_UMASK=$(umask)
    umask 077
    cd "$RUN_DIR" || refuse "$RUN_DIR: cannot go back there after setup"
}

# pyxis unpacks an image below a name of job and step, and removes it at the end, unless it is killed meanwhile: an attempt
# more has the same job, counts its steps anew, and would die of what is left. So each takes as many steps before its own
# as there were attempts, and what is left goes, whichever number it has.
remove_leftovers() {
    local number
    for ((number = 0; number < ATTEMPT; number++)); do
        env -u ENROOT_DATA_PATH "$(type -P srun)" --nodes="$NODES" --ntasks="$NODES" --ntasks-per-node=1 --export=ALL \
            --mpi=none --input=none --job-name=leftovers bash -c "$LEFTOVERS" ||
            say "what earlier attempts have left on the nodes could not be removed"
    done
}

# Below each mount that the nodes have to share, before any of their containers is there to look for it.
leave_nonces() {
    local folder
    for folder in "${SHARED[@]}"; do
        rm -f "$folder/.slipway-nonce-$SLURM_JOB_ID."* # of attempts that were killed
        NONCES+=("$folder/.slipway-nonce-$SLIPWAY_NONCE")
        : 2>/dev/null >"${NONCES[-1]}" || refuse "$folder: cannot be written on $(uname -n)"
    done
}

# Starts srun and waits for its end, however often a signal interrupts the waiting. It is never signalled itself: TERM
# would make it kill the step. The step's variables are srun's alone: here, GPUS or PATH would mean something else.
run_step() {
    leave_nonces
    (umask "$CALLERS_UMASK" && exec env "${ENV[@]}" "$(type -P srun)" "${SRUN[@]}" "$@") &
    SRUN_PID=$!
    [[ -z $TOLD ]] || tell_step &
    while kill -0 "$SRUN_PID" 2>/dev/null; do
        wait "$SRUN_PID"
    done
    wait "$SRUN_PID"
    SRUN_CODE=$?
    ((SRUN_CODE >= 0)) || SRUN_CODE=143 # bash 5.2 loses it, and says -1, where a signal comes with srun's end
    rm -f "${NONCES[@]}"
    ((SRUN_CODE)) || never_started
    if ((SRUN_CODE)) && [[ -n $TOLD ]] && ! began; then # what makes a container ends with the signal, as if that were an error
        SRUN_CODE=143
        say "told to stop ($TOLD) before its container was made"
    fi
    ((SRUN_CODE == 0)) && exit 0
    [[ -n $TOLD || -s container/failed ]] || UNMADE=$(unmade)
    ! job_says PreemptTime=2 || TOLD=preempted
    # Who cancels a job that is near its limit does not want it back; Slurm would put it there.
    [[ $TOLD != 'time limit' || -z $ENDED ]] || job_says Reason=TimeLimit || TOLD=TERM
    case $TOLD in
        'time limit' | preempted) requeue ;;
        '') if [[ -s container/stalled && $(step_code) == "$TRY_AGAIN" ]]; then
            TOLD='it stood still'
            requeue
            TOLD=''
        else
            do_without
        fi ;;
    esac
    exit "$(step_code)"
}

# srun may say 0 of a step that was never launched: each node's entrypoint has to have told its end.
never_started() {
    local rank
    for ((rank = 0; rank < NODES; rank++)); do
        [[ -s container/$rank/status.json ]] && continue
        SAID="srun ended with 0, but on node $rank of $NODES (${SLIPWAY_NODE_NAMES}) nothing has run to its end"
        say "$SAID"
        SRUN_CODE=$UNAVAILABLE
    done
}

# On which nodes none has begun.
unmade() {
    local names rank found=()
    read -ra names <<<"$SLIPWAY_NODE_NAMES"
    for ((rank = 0; rank < NODES; rank++)); do
        [[ -d container/$rank/ranks ]] || found+=("${names[rank]}")
    done
    echo "${found[*]}"
}

# Nodes that are not fit, by what was looked at in their containers, or that made none while others did: this job's next
# attempt takes others, where there are enough.
do_without() {
    ((REQUEUE && ATTEMPT + 1 < ATTEMPTS)) || return 0
    find_bad
    [[ -n $BAD ]] || return 0
    if others_may_do; then
        TOLD='bad node'
        requeue
    else
        say "$WHY; $NO_OTHERS"
        [[ $(step_code) != "$TRY_AGAIN" ]] || SAID=$NO_OTHERS
    fi
    BAD='' WHY=''
}

# Only this job's own nodes are believed to be bad: whatever ran in a container can write there.
find_bad() {
    local name why
    local -A why_of=()
    if [[ $(step_code) == "$TRY_AGAIN" && -f container/bad && ! -L container/bad ]]; then
        while read -r name why && ((${#why_of[@]} < NODES)); do
            [[ " $SLIPWAY_NODE_NAMES " != *" $name "* || -n ${why_of[$name]:-} ]] || why_of[$name]=${why:0:400}
        done <container/bad
    fi
    if began && [[ $(step_code) == "$TRY_AGAIN" || -n $UNMADE ]]; then
        for name in $(unmade); do why_of[$name]=${why_of[$name]:-its container did not start}; done
    fi
    for name in $SLIPWAY_NODE_NAMES; do
        [[ -z ${why_of[$name]:-} ]] || { BAD+=,$name && WHY+="; node $name: ${why_of[$name]}"; }
    done
    BAD=${BAD#,} WHY=${WHY#; }
}

# Whether Slurm has other nodes that this job could ever run on; where it does not say that, it has.
others_may_do() {
    local said
    said=$(sbatch --test-only --exclude="$(excluded)" script.sh 2>&1) ||
        [[ $said != *'node configuration is not available'* ]]
}

# What the job does without already, and what it is to, with commas.
excluded() {
    local before
    before=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.* ExcNodeList=\([^ ]*\).*/\1/p')
    [[ -z $before || $before == '(null)' ]] || printf '%s,' "$before"
    printf '%s\n' "$BAD"
}

# Slurm takes this of a job that waits, and of its own user. The TERM that the requeue brings may come before it is
# ignored, but only once.
exclude() {
    for _ in 1 2; do
        (trap '' TERM && exec scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$(excluded)") && return
    done
    say "Slurm does not exclude $BAD: the next attempt may have it again"
}

# Whether an entrypoint has begun on any node.
began() { compgen -G 'container/*/ranks' >/dev/null; }

# The exit code of the node that failed first, which its entrypoint has written; else srun's.
step_code() {
    local code=''
    [[ ! -s container/failed ]] || read -r code _ <container/failed
    [[ $code =~ ^[0-9]+$ ]] || code=$SRUN_CODE
    echo "$code"
}

# Ahead of the time limit: the step is told, once there is one, and what it saved is where the next attempt goes on.
on_limit() {
    TOLD='time limit'
    say "the time limit is near: the step is told"
    [[ -z $SRUN_PID ]] || tell_step &
}

# Of `launch cancel`.
on_cancel() {
    TOLD=TERM
    say "the step is told to stop"
    [[ -z $SRUN_PID ]] || tell_step &
}

# To a step that has not started yet scancel sends nothing, and says so neither. URG reaches the entrypoints alone: all
# else ignores it, also what mounts the image where pyxis does not unpack it. What makes a container knows only TERM.
tell_step() {
    local step
    until step=$(find_step) && [[ -n $step ]]; do
        kill -0 "$$" 2>/dev/null || return
        sleep 1
    done
    scancel --signal="$(began && echo URG || echo TERM)" "$step"
}

# By its name: setup lines and removals have steps, too.
find_step() {
    squeue --steps --noheader --jobs="$SLURM_JOB_ID" --format='%i %j' | sed -n 's/ slipway$//p'
}

# Of scancel, or of a preemption: Slurm tells the step itself.
on_term() { TOLD=${TOLD:-TERM} ENDED=1; }

job_says() { [[ $(scontrol show job "$SLURM_JOB_ID") == *" $1"* ]]; }

# Whether Slurm itself has put the job back (a preemption without grace, a node that failed).
requeued() { [[ -n $TOLD ]] && ! job_says "Restarts=$ATTEMPT "; }

# Puts the job back into the queue, which ends this script; returns where it may not, or Slurm will not.
requeue() {
    ((REQUEUE && ATTEMPT + 1 < ATTEMPTS)) || return 0
    say "${WHY:-$TOLD}: back into the queue, to go on from the last checkpoint (attempt $((ATTEMPT + 2)) of $ATTEMPTS)"
    ENDED=''
    trap 'ENDED=1' TERM
    GOES_ON=1
    record end "exit=$(step_code)" "srun=$SRUN_CODE" "why=$TOLD" "excluded=$WHY" requeued=true
    # What Slurm then sends to all that belongs to this attempt may come before its answer.
    if (trap '' TERM && exec scontrol requeue "$SLURM_JOB_ID"); then
        [[ -z $BAD ]] || exclude
        await_term
        exit
    fi
    trap '' TERM
    GOES_ON=''
    say "Slurm did not requeue the job"
}

# Slurm ends the script of a job that it has put back; whoever leaves at once need not be killed for it.
await_term() {
    local pause
    sleep 600 &
    pause=$!
    [[ -n $ENDED ]] || wait "$pause"
    kill "$pause" 2>/dev/null
}

finish() {
    local code=$?
    trap '' TERM USR1 USR2
    trap - EXIT
    [[ -z $GOES_ON ]] || exit "$code"
    if requeued; then
        record end "exit=$code" "srun=$SRUN_CODE" "why=$TOLD" requeued=true
        exit "$code"
    fi
    remove_secrets
    record end "exit=$code" "srun=$SRUN_CODE" "why=$TOLD" "said=$SAID" "unmade=$UNMADE" requeued=false
    exit "$code"
}

# record WHAT NAME=VALUE...: one line of JSON in attempts.jsonl.
record() {
    local pair line
    line=$(printf '{"event": "%s", "attempt": %s, "job": "%s", "time": "%s"' \
        "$1" "$ATTEMPT" "$SLURM_JOB_ID" "$(now)")
    for pair in "${@:2}"; do
        line+=", \"${pair%%=*}\": $(json_string "${pair#*=}")"
    done
    printf '%s}\n' "$line" >>attempts.jsonl
}
