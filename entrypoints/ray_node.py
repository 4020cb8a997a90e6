"""What one node's Ray needs beside it; ray.sh starts this. Any Python from 3.9 on, and for `watch` Ray itself.

ray_node.py undeclared  names of variables that neither the plan, the image nor the site's fabric asked for, one a line
ray_node.py limits      what Ray is told beside its defaults, NAME=VALUE, one a line, but for what is set here already
ray_node.py keep        takes a block of ports, prints the options of this node's `ray start` (the first line is the
                        port of the cluster), and until TERM carries Ray's logs into the run directory
ray_node.py watch       waits until all nodes are in the cluster, makes the file --ready, and ends as soon as one is not

`keep` and `watch` end with 1 when there is nothing to be had; why is one line on stdout (`watch`) or stderr (`keep`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

# Between NeMo RL's own ports (11001 to 28000, see its ray.sub) and those that the kernel gives to clients (from 32768).
BLOCK, FIRST, LAST = 512, 28160, 32768
FIXED = 16  # of them: the first is the lock, others are named below; the rest is for Ray's workers
LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by an address that others reach
CPUS_PER_WORKER = 8  # on the cpu flavour, where Ray's resources are but counters: what NeMo RL's groups ask for
POLL = 1.0  # seconds
# So that hundreds of workers can register at once. The values are those of ray.sub on NeMo RL's main branch, where pull
# requests 3089 and 3158 set them in July 2026; in brackets Ray's defaults, as it says there. Ray 2.55.1 knows every
# name, and a Ray that does not ignores it. Left out is health_check_period_ms=10000 (3000): by it the head notices that
# a node is lost, which is named and ends the run, and it would take 50 s instead of 15.
LIMITS = {
    "worker_register_timeout_seconds": 120,  # (60), after which a raylet ends a worker that has not registered
    "gcs_rpc_server_connect_timeout_s": 120,  # (5)
    "gcs_rpc_server_reconnect_timeout_s": 120,  # (60)
    "gcs_server_request_timeout_seconds": 120,  # (60)
    "raylet_report_resources_period_milliseconds": 500,  # (100)
    "task_events_report_interval_ms": 5000,  # (1000)
    "grpc_keepalive_time_ms": 60000,  # (10000), of the head's connections
    "grpc_keepalive_timeout_ms": 60000,  # (20000)
    "ray_syncer_message_refresh_interval_ms": 10000,  # (3000)
    "core_worker_internal_heartbeat_ms": 5000,  # (1000)
    "enable_timeline": "false",  # (true): an event for each actor, to the head
    "event_stats": "false",  # (true)
}
IDLE = 16  # num_workers_soft_limit (a node's CPUs): task workers that a node keeps
HEAD_RPCS = 200  # gcs_max_active_rpcs_per_handler, by core (100 by thread, of which it has one for four cores)
# What a node's own services set, and no secret is named.
FABRIC = ("CUDA_", "FI_", "GLOO_", "LC_", "MELLANOX_", "NCCL_", "NVIDIA_", "OMPI_", "PMIX_", "SLIPWAY_", "SLURM",
          "UCX_")  # fmt: skip
OURS = (  # and what the entrypoint sets
    "CUDA_CACHE_PATH DG_JIT_CACHE_DIR FLASHINFER_WORKSPACE_BASE HF_MODULES_CACHE HOME HOSTNAME LANG LD_LIBRARY_PATH "
    "LOGNAME MPLCONFIGDIR NUMBA_CACHE_DIR OMP_NUM_THREADS PATH PWD PYTHONUNBUFFERED SHELL SHLVL TERM "
    "TILELANG_CACHE_DIR TMPDIR TORCHINDUCTOR_CACHE_DIR TORCH_EXTENSIONS_DIR TRITON_CACHE_DIR TZ USER "
    "VLLM_CACHE_ROOT XDG_CACHE_HOME _"
)


def main() -> int:
    args = parser().parse_args()
    return {"undeclared": undeclared, "limits": limits, "keep": keep, "watch": watch}[args.verb](args)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = made.add_subparsers(dest="verb", required=True)
    names = verbs.add_parser("undeclared")
    names.add_argument("--image", type=Path, default=Path("/etc/environment"))
    told = verbs.add_parser("limits")
    told.add_argument("--head", action="store_true", help="those of the cluster's server alone")
    node = verbs.add_parser("keep")
    node.add_argument("--rank", type=int, required=True)
    node.add_argument("--name", required=True)
    node.add_argument("--head", required=True, help="HOST of the first node, HOST:PORT on the others; empty: one node")
    node.add_argument("--temp", type=Path, required=True)
    node.add_argument("--logs", type=Path, required=True)
    cluster = verbs.add_parser("watch")
    cluster.add_argument("--address", required=True)
    cluster.add_argument("--units", type=int, required=True, help="of each node")
    cluster.add_argument("--seconds", type=int, required=True)
    cluster.add_argument("--ready", type=Path, required=True)
    cluster.add_argument("names", nargs="+")
    return made


def plan() -> dict:
    return json.loads(Path(os.environ.get("SLIPWAY_DIR", "/slipway"), "plan.json").read_text(encoding="utf-8"))


def undeclared(args: argparse.Namespace) -> int:
    """NeMo RL gives its whole environment to every actor. Docker starts a container with the image's variables and the
    plan's alone; enroot and Slurm add those of the user's and the site's files."""
    planned = plan()
    if planned["profile"]["kind"] == "docker":
        return 0
    lines = args.image.read_text(encoding="utf-8", errors="replace") if args.image.is_file() else ""
    known = set(OURS.split()).union(planned["env"], planned["secrets"], re.findall(r"^([A-Za-z_]\w*)=", lines, re.M))
    for name in sorted(os.environ):
        if name not in known and not name.startswith(FABRIC):
            print(name)
    return 0


def limits(args: argparse.Namespace) -> int:
    """Of the head's server the numbers of threads follow its cores, as in ray.sub. Workers would take them, too, where
    they have the same variables: so these are for `ray start` on the head alone."""
    found = {**LIMITS, "num_workers_soft_limit": min(IDLE, cpus())}
    if args.head:
        found = {
            "gcs_server_rpc_server_thread_num": cores(),
            "gcs_server_rpc_client_thread_num": cores(),
            "num_server_call_thread": max(1, cores() // 2),
            "gcs_max_active_rpcs_per_handler": HEAD_RPCS * cores(),
        }
    for name, value in found.items():
        if f"RAY_{name}" not in os.environ:
            print(f"RAY_{name}={value}")
    return 0


def keep(args: argparse.Namespace) -> int:
    taken = claim()
    if not taken:
        print(f"none of the {(LAST - FIRST) // BLOCK} blocks of ports from {FIRST} on is free", file=sys.stderr)
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    base = taken.getsockname()[1]
    print(base + 1, *options(args, base), sep="\n", flush=True)
    os.close(1)  # whoever reads has all of it
    copied: dict = {}
    parent = os.getppid()
    told = None
    while told is None and os.getppid() == parent:
        told = signal.sigtimedwait([signal.SIGTERM], POLL)
        carry(args.temp, args.logs, copied)
    return 0


def claim() -> socket.socket | None:
    """The lock of a free block: a port that this process listens on, so that no other job of this node takes it."""
    for base in range(FIRST, LAST, BLOCK):
        lock = listening(base)
        probes = [listening(port) for port in range(base + 1, base + FIXED)] if lock else []
        free = lock is not None and all(probes)
        for probe in [*probes, *([] if free else [lock])]:
            if probe:
                probe.close()
        if free:
            return lock
    return None


def listening(port: int) -> socket.socket | None:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # where only the ends of old connections are
    try:
        made.bind(("", port))
        made.listen(1)
    except OSError:
        made.close()
        return None
    return made


def options(args: argparse.Namespace, base: int) -> list[str]:
    """Of `ray start`: nothing is left to chance or to another cluster's files."""
    host, _, port = args.head.partition(":")
    names = ("node-manager", "object-manager", "runtime-env-agent", "dashboard-agent-grpc", "dashboard-agent-listen",
             "metrics-export")  # fmt: skip
    first, last = base + FIXED, base + BLOCK - 1
    said = [f"--{name}-port={base + 4 + n}" for n, name in enumerate(names)]
    said += [f"--min-worker-port={first}", f"--max-worker-port={last}", f"--node-name={args.name}"]
    said += [f"--resources={json.dumps(resources(args.rank))}", f"--num-gpus={units(args.rank)}"]
    said.append(f"--num-cpus={cpus()}")
    if port:
        head = socket.gethostbyname(host)
        return [*said, f"--address={head}:{port}", f"--node-ip-address={towards(head, int(port))}"]
    own = socket.gethostbyname(host) if host else LOOPBACK
    shown = str(bool(os.environ.get("SLIPWAY_RAY_DASHBOARD"))).lower()
    return [*said, "--head", f"--port={base + 1}", f"--node-ip-address={own}", f"--ray-client-server-port={base + 2}",
            f"--dashboard-port={base + 3}", f"--include-dashboard={shown}", f"--temp-dir={args.temp}"]  # fmt: skip


def units(rank: int) -> int:
    """Workers of a node: its GPUs, or on the cpu flavour as many counters of that name; of a dedicated head none."""
    return 0 if is_dedicated(rank) else int(os.environ["SLIPWAY_PROCS"])


def is_dedicated(rank: int) -> bool:
    """Whether this node is the head of a cluster whose head runs no workers (profile: ray_head)."""
    return rank == 0 and os.environ.get("SLIPWAY_RAY_HEAD") == "dedicated"


def cores() -> int:
    return int(os.environ.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0)))


def cpus() -> int:
    return cores() if plan()["shape"]["gpus"] else max(cores(), CPUS_PER_WORKER * int(os.environ["SLIPWAY_PROCS"]))


def resources(rank: int) -> dict:
    """What NeMo RL's own ray.sub declares: worker_units and slurm_managed_ray_cluster at v0.4.0 to v0.6.0, at v0.7.0
    topo_rank and the NVLink domain, too, by which nemo_rl/distributed/virtual_cluster.py sorts the ranks; and of a
    dedicated head, on the main branch, nothing that a worker could be placed by."""
    if is_dedicated(rank):
        return {"slurm_managed_ray_cluster": 1, "ray_head": 1}
    return {"worker_units": units(rank), "slurm_managed_ray_cluster": 1, "topo_rank": place(rank), **domain()}


def place(rank: int) -> int:
    """From 1 on, since Ray drops a resource of 0: by Slurm's topology where that names block and node, else by rank."""
    block, dot, node = os.environ.get("SLURM_TOPOLOGY_ADDR", "").rpartition(".")
    digits = [re.sub(r"\D", "", part) for part in (block.partition(".")[0], node)]
    by_block = os.environ.get("SLURM_TOPOLOGY_ADDR_PATTERN") == "block.node"
    return int(digits[0]) * 10**10 + int(digits[1]) if dot and by_block and all(digits) else rank + 1


def domain() -> dict:
    """Of GPUs that share an NVLink fabric, its ClusterUUID; of others nothing."""
    with contextlib.suppress(OSError):
        said = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"ClusterUUID\s*:\s*(\S+)", said)
        return {f"nvlink_domain_{found[1]}": 1} if found else {}
    return {}


def towards(host: str, port: int) -> str:
    """This node's address on the way to the head; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((host, port))
        return str(s.getsockname()[0])


def carry(temp: Path, logs: Path, copied: dict) -> None:
    """Appends what Ray has written since to the same files below `logs`, where it outlives the container.

    Ray cannot write there itself: it makes sockets and locks beside its logs, which shared storage may refuse.
    """
    with contextlib.suppress(OSError):
        for path in sorted(temp.glob("session_2*/logs/**/*")):
            size = path.stat().st_size if path.is_file() else 0
            done = copied.get(path, 0)
            if size < done:
                done = 0  # it was turned over
            if size > done:
                target = logs.joinpath(*path.relative_to(temp).parts[2:])
                target.parent.mkdir(parents=True, exist_ok=True)
                with path.open("rb") as source, target.open("ab") as f:
                    source.seek(done)
                    f.write(source.read(size - done))
                copied[path] = size


def watch(args: argparse.Namespace) -> int:
    """As one more client of the cluster, and by public functions alone: they are the same from Ray 2.46 to 2.55."""
    import ray

    deadline, said, seen = time.monotonic() + args.seconds, "", {}
    while True:
        try:
            if not ray.is_initialized():
                ray.init(args.address, namespace="slipway", log_to_driver=False, logging_level="error")
            seen = {n["NodeName"]: n["Resources"].get("worker_units", 0) for n in ray.nodes() if n["Alive"]}
            said = missing(args.names, args.units, seen)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as e:  # it is not there yet
            said = f"Ray's head on {args.names[0]} does not answer: {' '.join(str(e).split())[:200]}"
        if not said:
            break
        if time.monotonic() > deadline:
            print(f"{said} within {args.seconds} s (profile: ray_wait)", flush=True)
            return 1
        time.sleep(POLL / 2)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # Ray's own way out of it may abort
    args.ready.touch()
    while True:
        seen = {n["NodeName"] for n in ray.nodes() if n["Alive"]}
        gone = [name for name in args.names if name not in seen]
        if gone:
            print(f"Ray has lost {', '.join(gone)}", flush=True)
            return 1
        time.sleep(POLL)


def missing(names: list[str], units: int, seen: dict[str, float]) -> str:
    """Which hosts are not in the cluster, or not with all they should have; empty where all is there."""
    absent = [name for name in names if name not in seen]
    if absent:
        return f"{len(absent)} of {len(names)} node(s) did not join Ray: {', '.join(absent)}: not there"
    working = names[is_dedicated(0) :]
    less = [f"{name} has {seen[name]:g} of {units} workers" for name in working if seen[name] < units]
    return ", ".join(less)


if __name__ == "__main__":
    sys.exit(main())
