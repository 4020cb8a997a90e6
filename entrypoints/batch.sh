# shellcheck shell=bash
# What a Slurm job does around its one srun. Sourced by script.sh in the run directory, which sets IMAGE, NODES, GPUS,
# ATTEMPTS, REQUEUE, PLAN, RUN_ID, FOLDERS, SECRETS, SRUN and setup().
#
# Exit codes: the step's own, of whichever node failed first (srun hides it behind the 143 of those it ended);
# 69 the step was never launched; 77 a declared secret is missing; 78 refused. Every attempt leaves its lines in attempts.jsonl.

UNAVAILABLE=69
NOT_PERMITTED=77
REFUSED=78
# shellcheck disable=SC2153 # set by script.sh
SECRETS_DIR=../.secrets/$RUN_ID

ATTEMPT=0
SRUN_PID=''
TOLD=''      # why the step was told to leave: 'time limit' or 'TERM'
SRUN_CODE='' # of srun itself
GOES_ON=''   # the job was put back into the queue

main() {
    trap finish EXIT
    trap on_limit USR1
    trap on_term TERM
    check_place
    ATTEMPT=${SLURM_RESTART_COUNT:-0}
    record start "nodes=$SLURM_JOB_NODELIST"
    # shellcheck disable=SC2153 # set by script.sh
    ((ATTEMPT < ATTEMPTS)) || refuse "started $((ATTEMPT + 1)) times, the profile allows $ATTEMPTS (attempts)"
    check_secrets
    mkdir -p container logs "${FOLDERS[@]}" || refuse "cannot make the folders that are mounted: ${FOLDERS[*]}"
    rm -f container/failed container/*/status.json
    describe_job
    setup || refuse "the profile's setup lines ended with $?"
    run_step "$@"
}

say() { printf 'slipway: %s\n' "$*" >&2; }

refuse() {
    say "refused: $*"
    exit "$REFUSED"
}

# The script finds everything beside itself, and pyxis has no way to write a comma or a colon.
check_place() {
    command -v srun scontrol >/dev/null ||
        refuse "there is no srun here: PYXIS_* variables of the submitting shell put this script into a container; unset them"
    unset "${!PYXIS_@}"
    [[ -f slipway/plan.json ]] || refuse "$PWD on $(uname -n) holds no slipway/plan.json: submit from inside the run directory"
    case $PWD in
        *[,:]*) refuse "$PWD: pyxis cannot mount a path with a comma or a colon" ;;
    esac
    [[ $IMAGE != UNRESOLVED ]] || refuse "the image was not resolved when this script was written; write it again"
    [[ $IMAGE != /* || -f $IMAGE ]] || refuse "$IMAGE: there is no such file on $(uname -n)"
}

check_secrets() {
    local name
    for name in "${SECRETS[@]}"; do
        [[ -r $SECRETS_DIR/$name ]] && continue
        say "refused: the secret $name is not in $SECRETS_DIR; submit this directory with: launch submit ${PWD@Q}"
        exit "$NOT_PERMITTED"
    done
}

# What only the job knows.
describe_job() {
    local names
    names=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || refuse "scontrol cannot name the nodes"
    export SLIPWAY_ATTEMPT=$ATTEMPT SLIPWAY_NODE_NAMES=${names//$'\n'/ }
    SLIPWAY_HEAD=$(scontrol show node "${SLIPWAY_NODE_NAMES%% *}" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    SLIPWAY_NONCE=$SLURM_JOB_ID.$ATTEMPT.$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
    export SLIPWAY_HEAD SLIPWAY_NONCE
    ((GPUS)) || export NVIDIA_VISIBLE_DEVICES=void # enroot's hook would want nvidia-container-cli for all and for none
}

# Starts srun and waits for its end, however often a signal interrupts the waiting. It is never signalled itself: TERM
# would make it kill the step.
run_step() {
    srun "${SRUN[@]}" "$@" &
    SRUN_PID=$!
    while kill -0 "$SRUN_PID" 2>/dev/null; do
        wait "$SRUN_PID"
    done
    wait "$SRUN_PID"
    SRUN_CODE=$?
    ((SRUN_CODE)) || never_started
    ((SRUN_CODE == 0)) && exit 0
    [[ -n $TOLD ]] || ! preempted || TOLD=preempted
    case $TOLD in
        'time limit') requeue ;;
        TERM) ! preempted || requeue ;;
        preempted) requeue ;;
    esac
    exit "$(step_code)"
}

# srun may say 0 of a step that was never launched: each node's entrypoint has to have told its end.
never_started() {
    local rank
    for ((rank = 0; rank < NODES; rank++)); do
        [[ -s container/$rank/status.json ]] && continue
        say "srun ended with 0, but on node $rank of $NODES (${SLIPWAY_NODE_NAMES}) nothing has run to its end"
        SRUN_CODE=$UNAVAILABLE
    done
}

# The exit code of the node that failed first, which its entrypoint has written; else srun's.
step_code() {
    local code=''
    [[ ! -s container/failed ]] || read -r code _ <container/failed
    [[ $code =~ ^[0-9]+$ ]] || code=$SRUN_CODE
    echo "$code"
}

# Ahead of the time limit: the step is told, and what it saved is where the next attempt goes on.
on_limit() {
    TOLD='time limit'
    say "the time limit is near: the step is told"
    tell_step &
}

tell_step() {
    until scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null || ! kill -0 "$SRUN_PID" 2>/dev/null; do
        sleep 1 # it may not have started yet
    done
}

# Of scancel, or of a preemption: Slurm itself tells the step, too.
on_term() { TOLD=${TOLD:-TERM}; }

preempted() { [[ $(scontrol show job "$SLURM_JOB_ID") == *PreemptTime=[0-9]* ]]; }

# Puts the job back into the queue, which ends this script; returns where it may not, or Slurm will not.
requeue() {
    ((REQUEUE && ATTEMPT + 1 < ATTEMPTS)) || return 0
    say "$TOLD: back into the queue, to go on from the last checkpoint (attempt $((ATTEMPT + 2)) of $ATTEMPTS)"
    trap '' TERM
    GOES_ON=1
    record end "exit=$(step_code)" "srun=$SRUN_CODE" "why=$TOLD" requeued=true
    if scontrol requeue "$SLURM_JOB_ID"; then
        sleep 600
    fi
    GOES_ON=''
    say "Slurm did not requeue the job"
}

finish() {
    local code=$?
    trap '' TERM USR1
    trap - EXIT
    [[ -z $GOES_ON ]] || exit "$code"
    rm -rf "$SECRETS_DIR"
    record end "exit=$code" "srun=$SRUN_CODE" "why=$TOLD" requeued=false
    exit "$code"
}

# record WHAT NAME=VALUE...: one line of JSON in attempts.jsonl.
record() {
    local pair line
    line=$(printf '{"event": "%s", "attempt": %s, "job": "%s", "time": "%s"' \
        "$1" "$ATTEMPT" "$SLURM_JOB_ID" "$(TZ=UTC0 printf '%(%Y-%m-%dT%H:%M:%SZ)T' -1)")
    for pair in "${@:2}"; do
        line+=", \"${pair%%=*}\": \"${pair#*=}\""
    done
    printf '%s}\n' "$line" >>attempts.jsonl
}
