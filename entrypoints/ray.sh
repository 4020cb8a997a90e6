# shellcheck shell=bash disable=SC2034 # common.sh reads some of it
# Ray around a step: sourced by common.sh where SLIPWAY_LAUNCHER=ray, before the nodes meet; replaces how it waits.
#
# Every node runs one `ray start --block`, with ports, a temporary directory and an environment of its own. The first is
# the head, and runs the step program as the driver once every node is there; the others leave when the head does.
# `ray stop` is never used: it ends the Ray of other jobs, too.
# Exit codes: the driver's own; 75 when nodes did not come within SLIPWAY_RAY_WAIT seconds, or one was lost: with other
# nodes the same run may work. The reason names the hosts.

RAY_PROGRAM=${PYTHON%/*}/ray
RAY_NODE=$SLIPWAY_DIR/ray_node.py
RAY_WAIT=${SLIPWAY_RAY_WAIT:-300}
RAY_LOGS=$NODE_DIR/ray
RAY_TEMP='' # short: the path of a socket below it may have 107 bytes
RAY_HOME='' # the head's HOME, made here by us: actors bring it to every node
RAY_OPTIONS=()
RAY_PID=''
RAY_KEEPER=''
RAY_WATCH=''
RAY_LOST='' # why the cluster is not whole any more
HEAD_DIR=$SLIPWAY_STATE_DIR/0
RAY_START=("$RAY_PROGRAM" start --block --disable-usage-stats --log-color=false)

# What actors will have: the plan's variables and the image's, and of Ray's own only these; what was declared stays.
clean_environment() {
    local names files limits
    mapfile -t names < <("$PYTHON" -B "$RAY_NODE" undeclared)
    ((${#names[@]} == 0)) || unset -v "${names[@]}"
    unset RAY_ADDRESS
    export RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_IMPORT_WARNING=1
    # The next three as NeMo RL's ray.sub: it makes virtual environments itself, hundreds of workers may register at once,
    # and Ray opens many files.
    export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
    mapfile -t limits < <("$PYTHON" -B "$RAY_NODE" limits)
    ((${#limits[@]} == 0)) || export "${limits[@]}"
    if ((NODE_RANK == 0)); then
        mapfile -t limits < <("$PYTHON" -B "$RAY_NODE" limits --head)
        RAY_START=(env "${limits[@]}" "${RAY_START[@]}")
    fi
    files=$(ulimit -Hn)
    ulimit -Sn "$([[ $files != unlimited && $files -lt 65535 ]] && echo "$files" || echo 65535)"
}

# claim_node HEAD: a directory and a block of ports for this node's Ray, whose logs are carried to RAY_LOGS from now on.
claim_node() {
    local lines
    RAY_TEMP=/tmp/ray-${MARK##*.} # Ray wants the same one on all nodes
    mkdir -m 700 "$RAY_TEMP" || refuse "$RAY_TEMP: cannot be made"
    mapfile -t lines < <(exec "$PYTHON" -B "$RAY_NODE" keep --rank="$NODE_RANK" --name="$(node_name)" --head="$1" \
        --temp="$RAY_TEMP" --logs="$RAY_LOGS" 2>"$RAY_LOGS/keep.log")
    RAY_KEEPER=$!
    ((${#lines[@]} > 1)) || unavailable "Ray on $(node_name): $(last_line keep.log)"
    ((NODE_RANK)) || MASTER_PORT=${lines[0]}
    RAY_OPTIONS=("${lines[@]:1}")
    # Two programs of the head whose ports Ray has no options for.
    export AUTOSCALER_METRIC_PORT=$((lines[0] + 9)) DASHBOARD_METRIC_PORT=$((lines[0] + 10))
}

# last_line FILE: why a process has ended; `ray start` says it of its own before the last line.
last_line() {
    local line
    line=$(grep -sm 1 'exit code=' "$RAY_LOGS/$1" || grep -sv '^[[:space:]]*$' "$RAY_LOGS/$1" | tail -n 1)
    line=${line##* -- }
    echo "${line:-it said nothing}"
}

# build_ray_command PROGRAM [ARGUMENT...]: on the head the driver, once Ray is whole; elsewhere this node's Ray.
build_ray_command() {
    if ((NODE_RANK)); then
        await_head && claim_node "$SLIPWAY_HEAD:$MASTER_PORT"
        : >"$RAY_LOGS/start.log" # by our umask
        # shellcheck disable=SC2016 # the inner shell's own
        COMMAND=(bash -c 'exec "$@" >"$0" 2>&1' "$RAY_LOGS/start.log" "${RAY_START[@]}" "${RAY_OPTIONS[@]}")
        return
    fi
    set -m # process groups of their own: what the driver is told, Ray is not
    SLIPWAY_MARK=$MARK as_step "${RAY_START[@]}" "${RAY_OPTIONS[@]}" </dev/null >"$RAY_LOGS/start.log" 2>&1 &
    RAY_PID=$!
    set +m
    COMMAND=("$PYTHON" "$@")
    await_nodes_of_ray
}

# The head: until every node is in the cluster, by Ray's own word; or until it is told to stop.
await_nodes_of_ray() {
    local names address
    address=$(printf '%s\n' "${RAY_OPTIONS[@]}" | sed -n 's/^--node-ip-address=//p'):$MASTER_PORT
    read -ra names <<<"${SLIPWAY_NODE_NAMES:-$(node_name)}"
    say "Ray's head is coming up at $address; up to $RAY_WAIT s for: ${names[*]}"
    set -m
    SLIPWAY_MARK=$MARK "$PYTHON" -B "$RAY_NODE" watch --address="$address" --units="$SLIPWAY_PROCS" \
        --seconds="$RAY_WAIT" --ready="$RAY_LOGS/ready" "${names[@]}" \
        </dev/null >"$RAY_LOGS/lost" 2>"$RAY_LOGS/watch.log" &
    RAY_WATCH=$!
    set +m
    until ((STOPS)) || [[ -e $RAY_LOGS/ready ]]; do
        ray_is_whole || unavailable "$RAY_LOST"
        pause 0.2
    done
    export RAY_ADDRESS=$address
}

ray_is_whole() {
    if ! kill -0 "$RAY_PID" 2>/dev/null; then
        RAY_LOST="Ray on $(node_name) has ended: $(last_line start.log)"
    elif [[ -n $RAY_WATCH ]] && ! kill -0 "$RAY_WATCH" 2>/dev/null; then
        RAY_LOST=$(<"$RAY_LOGS/lost")
        RAY_LOST=${RAY_LOST:-what watches the nodes of Ray has ended: $(last_line watch.log)}
    fi
    [[ -z $RAY_LOST ]]
}

# Another node: until the head's Ray takes connections; or until it is told to stop.
await_head() {
    local deadline=$((SECONDS + RAY_WAIT)) head
    head="Ray's head on $(node_name 0), $SLIPWAY_HEAD:$MASTER_PORT"
    # shellcheck disable=SC2016 # the inner shell's own
    until ((STOPS)) || timeout 5 bash -c ': >"/dev/tcp/$0/$1"' "$SLIPWAY_HEAD" "$MASTER_PORT" 2>/dev/null; do
        ! head_has_left || unavailable "$head, has left before $(node_name) could join"
        ((SECONDS < deadline)) || unavailable "$(node_name): $head, did not answer within $RAY_WAIT s"
        pause 0.5
    done
    RAY_HOME=$(<"$HEAD_DIR/ray/home")
    mkdir "$RAY_HOME" 2>/dev/null || RAY_HOME=''
}

head_has_left() { [[ -e $HEAD_DIR/ray/ended || -s $HEAD_DIR/status.json ]]; }

# In place of common.sh's: the head waits for its driver, or until the cluster is not whole any more.
await_step() {
    local tries
    while kill -0 "$STEP_PID" 2>/dev/null; do
        if ray_is_whole; then
            wait -n "$STEP_PID" "$RAY_PID" "$RAY_WATCH" 2>/dev/null
        elif ((STOPS)); then # Slurm's TERM reaches Ray, too, and without it the driver can only leave
            ((STOPS > 1)) || { STOPS=2 && stop_step; }
            wait "$STEP_PID" 2>/dev/null
        else
            unavailable "$RAY_LOST"
        fi
    done
    wait "$STEP_PID" 2>/dev/null
    STEP_CODE=$?
    # A driver may fail because a node was lost, which those who watch notice a little later.
    for ((tries = STEP_CODE && !STOPS ? 20 + 30 * (NODES > 1) : 0; tries; tries--)); do
        ray_is_whole || unavailable "$RAY_LOST"
        [[ ! -e $SLIPWAY_STATE_DIR/failed ]] || break
        pause 0.1
    done
}

if ((NODE_RANK)); then
    await_step() {
        RAY_PID=$STEP_PID
        until head_has_left; do
            ray_is_whole || ((STOPS)) || unavailable "$RAY_LOST"
            ray_is_whole || break
            pause 0.5
        done
        STEP_CODE=0
    }

    tell_step() {
        say "$STOPPED_BY: Ray stays for the driver on $(node_name 0), up to ${SLIPWAY_STOP_SECONDS:-30} s"
    }
fi

# Ray ends its own processes in order when it is told, which takes seconds; workers of its that are left then are idle.
finish_ray() {
    local code=$? tries
    trap '' TERM INT URG
    : >"$RAY_LOGS/ended"
    [[ -z $RAY_WATCH ]] || kill "$RAY_WATCH" 2>/dev/null
    [[ -z $STEP_PID ]] || kill -- "-$STEP_PID" 2>/dev/null
    [[ -z $RAY_PID ]] || kill "$RAY_PID" 2>/dev/null
    for ((tries = RAY_PID ? KILL_AFTER * 10 : 0; tries; tries--)); do
        kill -0 "$RAY_PID" 2>/dev/null || break
        sleep 0.1
    done
    signal_all KILL
    if [[ -n $RAY_KEEPER ]]; then # it carries the last lines
        kill "$RAY_KEEPER" 2>/dev/null
        wait "$RAY_KEEPER" 2>/dev/null
    fi
    rm -rf "${RAY_TEMP:-/nonexistent}" "${RAY_HOME:-/nonexistent}"
    (exit "$code")
    finish
}

[[ -x $RAY_PROGRAM ]] || refuse "$RAY_PROGRAM: the image has no Ray"
# An actor has the driver's environment, the head's mark in it: so all nodes have the same one.
((NODES == 1)) || MARK=ray.$SLIPWAY_NONCE
{ rm -rf "$RAY_LOGS" && mkdir "$RAY_LOGS"; } || refuse "$RAY_LOGS: cannot be made"
trap finish_ray EXIT
node_name >"$RAY_LOGS/host"
clean_environment
if ((NODE_RANK == 0)); then # what it tells the others when they meet carries the port of the cluster
    claim_node "${SLIPWAY_HEAD:-}"
    printf '%s\n' "$HOME" >"$RAY_LOGS/home"
fi
