"""What one node's Ray is told: ports of its own, resources, limits, and the environment that actors will have."""

from __future__ import annotations

import json
import os
import re
import socket

from supervisor.node import Node

# Between NeMo RL's own ports (11001 to 28000, see its ray.sub) and those that the kernel gives to clients (from 32768).
BLOCK, FIRST, LAST = 512, 28160, 32768
FIXED = 16  # of them: the first is the lock, others are named below; the rest is for Ray's workers
LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by an address that others reach
CPUS_PER_WORKER = 8  # on the cpu flavour, where Ray's resources are but counters: what NeMo RL's groups ask for
# So that hundreds of workers can register at once. The values are those of ray.sub on NeMo RL's main branch, where pull
# requests 3089 and 3158 set them in July 2026; in brackets Ray's defaults, as it says there. Ray 2.55.1 knows every
# name, and a Ray that does not ignores it. Left out is health_check_period_ms=10000 (3000): by it the head notices that
# a node is lost, which is named and ends the run, and it would take 50 s instead of 15.
LIMITS: dict[str, object] = {
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


class Ports:
    """A block of this node's ports. `lock`: the first, which this process listens on, so that no other job of this node
    takes the block."""

    def __init__(self, lock: socket.socket) -> None:
        self.lock = lock
        self.base = int(lock.getsockname()[1])
        self.cluster = self.base + 1
        self.client, self.dashboard = self.base + 2, self.base + 3
        names = ("node-manager", "object-manager", "runtime-env-agent", "dashboard-agent-grpc",
                 "dashboard-agent-listen", "metrics-export")  # fmt: skip
        self.named = {name: self.base + 4 + n for n, name in enumerate(names)}
        # Two programs of the head whose ports Ray has no options for.
        self.variables = {"AUTOSCALER_METRIC_PORT": self.base + 10, "DASHBOARD_METRIC_PORT": self.base + 11}
        self.workers = self.base + FIXED, self.base + BLOCK - 1


def claim() -> Ports | None:
    """A free block, where there is one."""
    for base in range(FIRST, LAST, BLOCK):
        lock = _listening(base)
        probes = [_listening(port) for port in range(base + 1, base + FIXED)] if lock else []
        free = lock is not None and all(probes)
        for probe in [*probes, *([] if free else [lock])]:
            if probe:
                probe.close()
        if lock and free:
            return Ports(lock)
    return None


def _listening(port: int) -> socket.socket | None:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # where only the ends of old connections are
    try:
        made.bind(("", port))
        made.listen(1)
    except OSError:
        made.close()
        return None
    return made


class Options:
    """Of this node, as the plan has it."""

    def __init__(self, node: Node) -> None:
        self._node, self._env, self._settings = node, node.env, node.settings
        with open(f"{self._settings.slipway}/plan.json", encoding="utf-8") as f:
            self._plan = json.load(f)

    def undeclared(self) -> list[str]:
        """Names of variables that neither the plan, the image nor the site's fabric asked for.

        NeMo RL gives its whole environment to every actor. Docker starts a container with the image's variables and the
        plan's alone; enroot and Slurm add those of the user's and the site's files."""
        if self._plan["profile"]["kind"] == "docker":
            return []
        try:
            with open(self._settings.image_environment, encoding="utf-8", errors="replace") as f:
                lines = f.read()
        except OSError:
            lines = ""
        names = re.findall(r"^([A-Za-z_]\w*)=", lines, re.M)
        known = set(OURS.split()).union(self._plan["env"], self._plan["secrets"], names)
        return [name for name in self._env if name not in known and not name.startswith(FABRIC)]

    def limits(self) -> dict[str, str]:
        """What Ray is told beside its defaults, but for what is set here already."""
        return self._unset(LIMITS | {"num_workers_soft_limit": min(IDLE, self._cpus())})

    def head_limits(self) -> dict[str, str]:
        """Of the head's server the numbers of threads follow its cores, as in ray.sub. Workers would take them, too,
        where they have the same variables: so these are for `ray start` on the head alone."""
        cores = self._cores()
        return self._unset({
            "gcs_server_rpc_server_thread_num": cores,
            "gcs_server_rpc_client_thread_num": cores,
            "num_server_call_thread": max(1, cores // 2),
            "gcs_max_active_rpcs_per_handler": HEAD_RPCS * cores,
        })  # fmt: skip

    def _unset(self, values: dict[str, object]) -> dict[str, str]:
        named = {f"RAY_{name}": str(value) for name, value in values.items()}
        return {name: value for name, value in named.items() if name not in self._env}

    def of_head(self, ports: Ports, address: str, temp: str) -> list[str]:
        """Of `ray start`: nothing is left to chance or to another cluster's files."""
        shown = str(self._settings.ray_dashboard).lower()
        return [*self._of_node(ports), "--head", f"--port={ports.cluster}", f"--node-ip-address={address}",
                f"--ray-client-server-port={ports.client}", f"--dashboard-port={ports.dashboard}",
                f"--include-dashboard={shown}", f"--temp-dir={temp}"]  # fmt: skip

    def of_worker(self, ports: Ports, head: str, port: str) -> list[str]:
        """The same of a node that joins the head's."""
        address = socket.gethostbyname(head)
        own = _towards(address, int(port))
        return [*self._of_node(ports), f"--address={address}:{port}", f"--node-ip-address={own}"]

    def _of_node(self, ports: Ports) -> list[str]:
        first, last = ports.workers
        said = [f"--{name}-port={port}" for name, port in ports.named.items()]
        said += [f"--min-worker-port={first}", f"--max-worker-port={last}", f"--node-name={self._settings.name}"]
        said += [f"--resources={json.dumps(self._resources())}", f"--num-gpus={self._units()}"]
        return [*said, f"--num-cpus={self._cpus()}"]

    def _is_dedicated(self) -> bool:
        """Whether this node is the head of a cluster whose head runs no workers (profile: ray_head)."""
        return self._settings.rank == 0 and self._settings.ray_head_is_dedicated

    def _units(self) -> int:
        """Workers of a node: its GPUs, or on the cpu flavour as many counters of that name. A dedicated head: 0."""
        return 0 if self._is_dedicated() else self._settings.procs

    def _cores(self) -> int:
        return int(self._env.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0)))

    def _cpus(self) -> int:
        cores = self._cores()
        return cores if self._plan["shape"]["gpus"] else max(cores, CPUS_PER_WORKER * self._settings.procs)

    def _resources(self) -> dict[str, int]:
        """What NeMo RL's own ray.sub declares: worker_units and slurm_managed_ray_cluster at v0.4.0 to v0.6.0; at
        v0.7.0 topo_rank and the NVLink domain, too, by which nemo_rl/distributed/virtual_cluster.py sorts the ranks;
        and of a dedicated head, on the main branch, nothing that a worker could be placed by."""
        if self._is_dedicated():
            return {"slurm_managed_ray_cluster": 1, "ray_head": 1}
        place = {"topo_rank": self._place(), **self._domain()}
        return {"worker_units": self._units(), "slurm_managed_ray_cluster": 1, **place}

    def _place(self) -> int:
        """From 1 on, since Ray drops a resource of 0: by Slurm's topology where that names block and node, else by
        rank."""
        block, dot, node = self._env.get("SLURM_TOPOLOGY_ADDR", "").rpartition(".")
        digits = [re.sub(r"\D", "", part) for part in (block.partition(".")[0], node)]
        by_block = self._env.get("SLURM_TOPOLOGY_ADDR_PATTERN") == "block.node"
        return int(digits[0]) * 10**10 + int(digits[1]) if dot and by_block and all(digits) else self._settings.rank + 1

    def _domain(self) -> dict[str, int]:
        """Of GPUs that share an NVLink fabric, its ClusterUUID; of others nothing."""
        try:
            _, said = self._node.children.output_of(["nvidia-smi", "-q"], self._env)
        except OSError:
            return {}
        found = re.search(r"ClusterUUID\s*:\s*(\S+)", said)
        return {f"nvlink_domain_{found[1]}": 1} if found else {}


def own_address(host: str) -> str:
    """Where the head is reached; of a single node, by itself alone."""
    return socket.gethostbyname(host) if host else LOOPBACK


def _towards(host: str, port: int) -> str:
    """This node's address on the way to the head; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((host, port))
        return str(s.getsockname()[0])
