"""Runs with Ray, as test_entrypoint.py runs others: the whole entrypoint, and a stand-in of Ray (standins/ray)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_entrypoint import PATIENCE, READY, WAIT, Container, gone, wait_for

HERE = Path(__file__).parent
MAIN = HERE.parent
NAME = os.uname().nodename


class Site(Container):
    """A container whose image has Ray beside its Python."""

    server: socket.socket | None = None  # of the head that it is to join

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.bin, self.place = root / "bin", root / "standin"
        for folder in (self.bin, self.place):
            folder.mkdir()
        (self.bin / "python").symlink_to(sys.executable)
        (self.bin / "ray").write_text(f'#!/bin/sh\nexec {self.bin}/python -P -m ray "$@"\n')
        (self.bin / "ray").chmod(0o755)
        self.use(str(self.bin / "python"))
        self.entry()
        shutil.copy(MAIN / "entrypoints" / "ray_watch.py", self.slipway)
        self.plan |= {"profile": {"kind": "docker"}, "env": {}, "secrets": []}
        self.env |= {
            "SLIPWAY_LAUNCHER": "ray", "SLIPWAY_STOP_TO": "group", "SLIPWAY_RAY_WAIT": "20",
            "PYTHONPATH": str(HERE / "standins"), "RAY_STANDIN": str(self.place),
        }  # fmt: skip

    def many(self, rank: int, nodes: int = 2) -> None:
        """Makes it one of several nodes."""
        names = " ".join(f"n{n + 1}" for n in range(nodes))
        self.env |= {
            "SLIPWAY_NODES": str(nodes), "SLURM_NODEID": str(rank), "SLIPWAY_NODE_NAMES": names,
            "SLIPWAY_HEAD": "127.0.0.1", "SLIPWAY_NONCE": f"7.0.{os.urandom(8).hex()}",
        }  # fmt: skip
        nonce = self.env["SLIPWAY_NONCE"]
        (self.state / f".slipway-nonce-{nonce}").touch()
        for other in {*range(nodes)} - {rank}:
            (self.state / str(other)).mkdir()
            (self.state / str(other) / "there").write_text(f"{nonce}\n")

    def has(self, **nodes: int) -> None:
        """What Ray says of its nodes: workers of each, 0 where it is dead."""
        (self.place / "part").write_text(json.dumps(nodes))
        (self.place / "part").replace(self.place / "nodes.json")

    @property
    def ray(self) -> dict[str, Any]:
        return dict(json.loads((self.place / "ray.json").read_text()))

    @property
    def options(self) -> dict[str, str]:
        return dict(word.removeprefix("--").split("=", 1) for word in self.ray["argv"] if "=" in word)

    def status_of(self, rank: int) -> tuple[int, str, str]:
        said = json.loads((self.state / str(rank) / "status.json").read_text())
        return said["exit_code"], said["cause"], said["reason"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.end()
    if made.server:
        made.server.close()


def test_one_node_is_a_head_whose_driver_starts_when_it_is_there(site: Site) -> None:
    site.env["SLIPWAY_PROCS"] = "2"
    process = site.start("import os; print('driver', os.environ['RAY_ADDRESS']); raise SystemExit(7)", "word")
    wait_for((site.place / "started").exists)
    site.has(**{NAME: 1})
    wait_for((site.state / "0" / "ray" / "raylet.out").exists)
    assert "driver" not in site.out, "one of two workers is there"
    site.has(**{NAME: 2})
    assert process.wait(PATIENCE) == 7
    assert site.status["cause"] == "step"
    said = site.options
    assert f"driver {said['node-ip-address']}:{said['port']}" in site.out
    assert json.loads(said["resources"]) == {"worker_units": 2, "slurm_managed_ray_cluster": 1, "topo_rank": 1}
    assert (said["num-gpus"], said["include-dashboard"], said["node-name"]) == ("2", "false", NAME)
    assert "--block" in site.ray["argv"] and "--disable-usage-stats" in site.ray["argv"]
    assert len(f"{said['temp-dir']}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store") <= 107
    assert not Path(said["temp-dir"]).exists() and gone(site.ray["pid"])
    assert (site.state / "0" / "ray" / "raylet.out").read_text() == "raylet: is up\n"


def test_every_port_is_of_the_nodes_own_block(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # another job's already
            stack.enter_context(socket.create_server(("", 28160)))
        site.has(**{NAME: 1})
        assert site.run("") == 0
    ports = {name: int(value) for name, value in site.options.items() if name.endswith("port")}
    base = min(ports.values()) - 1
    assert (base % 512, base > 28160) == (0, True), "the first block was another's"
    workers = range(ports.pop("min-worker-port"), ports.pop("max-worker-port") + 1)
    env = site.ray["env"]
    ports |= {name: int(env[name]) for name in ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")}
    assert len(set(ports.values())) == len(ports) and not set(ports.values()) & set(workers)
    assert len(workers) > 400 and workers[-1] < base + 512
    asked = {"port", "ray-client-server-port", "dashboard-port", "node-manager-port", "object-manager-port",
             "runtime-env-agent-port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port",
             "metrics-export-port"}  # fmt: skip
    assert asked <= set(ports)


def test_without_a_free_block_it_says_so(site: Site) -> None:
    taken = []
    for port in range(28160, 32768, 512):
        try:
            taken.append(socket.create_server(("", port)))
        except OSError:  # another job's
            continue
    try:
        assert site.run("") == 75
    finally:
        for server in taken:
            server.close()
    assert site.status["reason"] == f"Ray on {NAME}: none of the 9 blocks of ports from 28160 on is free"


def test_hosts_that_do_not_come_are_named(site: Site) -> None:
    site.many(0, nodes=4)
    site.env["SLIPWAY_RAY_WAIT"] = "1"
    site.has(n1=1, n3=1)
    assert site.run("print('driver')") == 75
    reason = "2 of 4 node(s) did not join Ray: n2, n4: not there within 1 s (profile: ray_wait)"
    assert site.status_of(0) == (75, "node", reason)
    assert (site.state / "failed").read_text() == "75 0 n1\n"
    assert "driver" not in site.out and gone(site.ray["pid"])


def test_a_host_with_too_few_workers_is_named(site: Site) -> None:
    site.many(0)
    site.env |= {"SLIPWAY_RAY_WAIT": "1", "SLIPWAY_PROCS": "8"}
    site.has(n1=8, n2=4)
    assert site.run("") == 75
    assert site.status_of(0)[2] == "n2 has 4 of 8 workers within 1 s (profile: ray_wait)"


def test_a_head_that_does_not_start_says_why(site: Site) -> None:
    (site.place / "broken").touch()
    assert site.run("") == 75
    assert site.status["reason"].startswith(f"Ray on {NAME} has ended: ")
    assert site.status["reason"].endswith("no raylet for you")


def test_a_node_that_is_lost_ends_the_driver_and_is_named(site: Site) -> None:
    site.many(0)
    site.has(n1=1, n2=1)
    process = site.start_ready("import signal\nprint('ready', flush=True)\n" + WAIT)
    site.has(n1=1, n2=0)
    assert process.wait(PATIENCE) == 75
    assert site.status_of(0) == (75, "node", "Ray has lost n2")


def test_a_driver_that_fails_because_of_a_lost_node_does_not_hide_it(site: Site) -> None:
    site.many(0)
    site.has(n1=1, n2=1)
    nodes = str(site.place / "nodes.json")
    assert site.run(f"open({nodes!r}, 'w').write('{{\"n1\": 1, \"n2\": 0}}'); raise SystemExit(1)") == 75
    assert site.status_of(0)[2] == "Ray has lost n2"


def test_ray_that_dies_ends_the_driver(site: Site) -> None:
    site.has(**{NAME: 1})
    process = site.start_ready("import signal\nprint('ready', flush=True)\n" + WAIT)
    os.kill(site.ray["pid"], signal.SIGKILL)
    assert process.wait(PATIENCE) == 75
    assert site.status["reason"] == f"Ray on {NAME} has ended: Ray runtime started."


def test_the_driver_alone_is_told(site: Site) -> None:
    """While it saves, Ray is there."""
    site.has(**{NAME: 1})
    saves = "signal.signal(signal.SIGTERM, lambda *_: (os.kill(RAY, 0), print('saved', flush=True), sys.exit(0)))\n"
    ray = f"import json\nRAY = json.load(open({str(site.place / 'ray.json')!r}))['pid']\n"
    process = site.start_ready(READY + ray + saves + "print('ready', flush=True)\n" + WAIT)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert "saved" in site.out and (site.status["cause"], site.status["step_exit_code"]) == ("signal", 0)
    assert gone(site.ray["pid"])


def test_a_signal_while_ray_comes_up_keeps_the_driver_from_starting(site: Site) -> None:
    process = site.start("print('driver')")
    wait_for((site.place / "started").exists)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert site.status["reason"] == "told to stop by TERM before the step started"
    assert "driver" not in site.out and gone(site.ray["pid"])


class Head:
    """What another node sees of the first: a port that answers, and files in the run's state."""

    def __init__(self, site: Site) -> None:
        self.folder = site.state / "0"
        self.server = site.server = socket.create_server(("127.0.0.1", 0))
        (self.folder / "ray").mkdir(parents=True)
        (self.folder / "ray" / "home").write_text(f"{site.root / 'home'}\n")
        self.port = self.server.getsockname()[1]
        (self.folder / "go").write_text(f"{site.env['SLIPWAY_NONCE']} {self.port}\n")

    def leaves(self) -> None:
        (self.folder / "ray" / "ended").touch()
        (self.folder / "status.json").write_text("{}")


def test_another_node_joins_and_leaves_with_the_head(site: Site) -> None:
    site.many(1)
    head = Head(site)
    process = site.start("print('driver')")
    wait_for((site.place / "started").exists)
    assert site.options["address"] == f"127.0.0.1:{head.port}"
    assert (site.options["node-name"], json.loads(site.options["resources"])["topo_rank"]) == ("n2", 2)
    assert "--head" not in site.ray["argv"] and "temp-dir" not in site.options
    assert (site.root / "home").is_dir(), "actors bring it along"
    head.leaves()
    assert process.wait(PATIENCE) == 0
    assert "driver" not in site.out and not (site.root / "home").exists() and gone(site.ray["pid"])


def test_another_node_whose_ray_dies_names_itself(site: Site) -> None:
    site.many(1)
    Head(site)
    process = site.start("")
    wait_for((site.place / "started").exists)
    os.kill(site.ray["pid"], signal.SIGKILL)
    assert process.wait(PATIENCE) == 75
    assert site.status_of(1)[2].startswith("Ray on n2 has ended: ")
    assert (site.state / "failed").read_text() == "75 1 n2\n"


def test_another_node_stays_until_the_driver_has_saved(site: Site) -> None:
    site.many(1)
    head = Head(site)
    process = site.start("")
    wait_for((site.place / "started").exists)
    process.terminate()
    wait_for(lambda: "Ray stays for the driver on n1" in site.err)
    assert not gone(site.ray["pid"])
    head.leaves()
    assert process.wait(PATIENCE) == 143 and gone(site.ray["pid"])


@pytest.mark.parametrize("left", [False, True])
def test_another_node_without_a_head_gives_up(site: Site, left: bool) -> None:
    site.many(1)
    site.env["SLIPWAY_RAY_WAIT"] = "20" if left else "1"
    head = Head(site)
    head.server.close()
    if left:
        head.leaves()
    assert site.run("") == 75
    said = f"Ray's head on n1, 127.0.0.1:{head.port}, "
    why = f"{said}has left before n2 could join" if left else f"n2: {said}did not answer within 1 s"
    assert site.status_of(1) == (75, "node", why)


def test_what_nobody_declared_does_not_reach_ray(site: Site, tmp_path: Path) -> None:
    """A variable of the site's own files, on an engine that passes those on."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "TOKEN").write_text("declared")
    site.plan |= {"profile": {"kind": "slurm"}, "env": {"ASKED": {}, "RAY_STANDIN": {}, "PYTHONPATH": {}}}
    site.plan["secrets"] = ["TOKEN"]
    site.env |= {
        "ASKED": "for", "CANARY": "of the site", "WANDB_API_KEY": "of the site", "RAY_ADDRESS": "10.0.0.9:6379",
        "NCCL_SOCKET_IFNAME": "eth0", "SLIPWAY_SECRETS": "TOKEN", "SLIPWAY_SECRETS_DIR": str(secrets),
    }  # fmt: skip
    site.has(**{NAME: 1})
    assert site.run("import json, os; print(json.dumps(dict(os.environ)))") == 0
    driver = json.loads(site.out.splitlines()[-1])
    for given in (site.ray["env"], driver):
        assert (given["ASKED"], given["TOKEN"], given["NCCL_SOCKET_IFNAME"]) == ("for", "declared", "eth0")
        assert not {"CANARY", "WANDB_API_KEY"} & given.keys() and given["HOME"] and given["PATH"]
        assert {n for n in given if re.match("RAY_[A-Z]", n)} - {"RAY_ADDRESS", "RAY_STANDIN"} == {
            "RAY_USAGE_STATS_ENABLED", "RAY_DISABLE_IMPORT_WARNING", "RAY_ENABLE_UV_RUN_RUNTIME_ENV",
        }  # fmt: skip
    assert "RAY_ADDRESS" not in site.ray["env"]


def limits(env: dict[str, str]) -> dict[str, str]:
    """Ray's own settings in an environment."""
    return {name: value for name, value in env.items() if re.match("RAY_[a-z]", name)}


def test_hundreds_of_workers_may_register_at_once(site: Site) -> None:
    """All processes have more time and less to tell; threads are the head's server's alone."""
    site.env["SLURM_CPUS_PER_TASK"] = "112"
    site.has(**{NAME: 1})
    assert site.run("import json, os; print(json.dumps(dict(os.environ)))") == 0
    driver, head = limits(json.loads(site.out.splitlines()[-1])), limits(site.ray["env"])
    assert driver["RAY_worker_register_timeout_seconds"] == driver["RAY_gcs_rpc_server_connect_timeout_s"] == "120"
    assert driver["RAY_num_workers_soft_limit"] == "16" and "RAY_health_check_period_ms" not in head
    assert {name: head[name] for name in head.keys() - driver.keys()} == {
        "RAY_gcs_server_rpc_server_thread_num": "112", "RAY_gcs_server_rpc_client_thread_num": "112",
        "RAY_num_server_call_thread": "56", "RAY_gcs_max_active_rpcs_per_handler": "22400",
    }  # fmt: skip
    assert head.items() >= driver.items()


def test_other_nodes_have_the_same_limits_but_the_servers(site: Site) -> None:
    site.many(1)
    head = Head(site)
    process = site.start("")
    wait_for((site.place / "started").exists)
    said = limits(site.ray["env"])
    assert said["RAY_worker_register_timeout_seconds"] == "120" and "RAY_num_server_call_thread" not in said
    head.leaves()
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("kind", ["docker", "slurm"])
def test_limits_that_are_declared_stay(site: Site, kind: str) -> None:
    """And a node's own, which nobody declared, do not come instead of ours."""
    declared = {"RAY_worker_register_timeout_seconds": "600", "RAY_gcs_max_active_rpcs_per_handler": "9"}
    site.plan |= {"profile": {"kind": kind}, "env": {name: {} for name in (*declared, "RAY_STANDIN", "PYTHONPATH")}}
    site.env |= declared | ({"RAY_event_stats": "true"} if kind == "slurm" else {})
    site.has(**{NAME: 1})
    assert site.run("") == 0
    said = limits(site.ray["env"])
    assert said.items() >= {**declared, "RAY_event_stats": "false"}.items()


def test_a_dedicated_head_has_no_workers(site: Site) -> None:
    site.many(0, nodes=3)
    site.env |= {"SLIPWAY_PROCS": "8", "SLIPWAY_RAY_HEAD": "dedicated"}
    site.has(n1=1, n2=8, n3=8)
    assert site.run("print('driver')") == 0, site.err
    assert json.loads(site.options["resources"]) == {"slurm_managed_ray_cluster": 1, "ray_head": 1}
    assert site.options["num-gpus"] == "0" and "driver" in site.out


def test_the_other_nodes_of_a_dedicated_head_have_all_of_theirs(site: Site) -> None:
    site.many(1, nodes=3)
    head = Head(site)
    site.env |= {"SLIPWAY_PROCS": "8", "SLIPWAY_RAY_HEAD": "dedicated"}
    process = site.start("")
    wait_for((site.place / "started").exists)
    assert json.loads(site.options["resources"])["worker_units"] == 8 and site.options["num-gpus"] == "8"
    head.leaves()
    assert process.wait(PATIENCE) == 0


def test_the_images_variables_are_kept(site: Site, tmp_path: Path) -> None:
    """enroot and pyxis have them in /etc/environment."""
    (tmp_path / "environment").write_text('UV_CACHE=/x\nODD="a b"\nnot a variable\n')
    declared = {"PYTHONPATH": {}, "RAY_STANDIN": {}}
    site.plan |= {"profile": {"kind": "enroot"}, "env": declared, "secrets": []}
    image = str(tmp_path / "environment")
    site.env |= {"SLIPWAY_IMAGE_ENVIRONMENT": image, "UV_CACHE": "/x", "ODD": "a", "OTHER": "1"}
    site.has(**{NAME: 1})
    assert site.run("import json, os; print(json.dumps(dict(os.environ)))") == 0
    driver = json.loads(site.out.splitlines()[-1])
    assert (driver["UV_CACHE"], driver["ODD"], driver.get("OTHER")) == ("/x", "a", None)


@pytest.mark.parametrize(
    ("address", "pattern", "rank"),
    [("block07.node012", "block.node", 70000000012), ("s1.s2.n4", "switch.switch.node", 4), ("", "", 4)],
)
def test_the_rank_follows_slurms_topology(site: Site, address: str, pattern: str, rank: int) -> None:
    site.many(3, nodes=4)
    Head(site)
    site.env |= {"SLURM_TOPOLOGY_ADDR": address, "SLURM_TOPOLOGY_ADDR_PATTERN": pattern}
    process = site.start("")
    wait_for((site.place / "started").exists)
    assert json.loads(site.options["resources"])["topo_rank"] == rank
    (site.state / "0" / "ray" / "ended").touch()
    assert process.wait(PATIENCE) == 0


def test_gpus_of_one_fabric_say_so(site: Site) -> None:
    (site.bin / "nvidia-smi").write_text("#!/bin/sh\necho '        ClusterUUID                   : 1f-2e'\n")
    (site.bin / "nvidia-smi").chmod(0o755)
    site.env["PATH"] = f"{site.bin}:{site.env['PATH']}"
    site.plan["shape"]["gpus"] = 1
    site.has(**{NAME: 1})
    assert site.run("") == 0
    assert json.loads(site.options["resources"])["nvlink_domain_1f-2e"] == 1
    assert site.options["num-cpus"] == str(len(os.sched_getaffinity(0))), "real resources are not counted up"
