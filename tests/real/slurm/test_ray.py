"""Ray under one srun on a real three-node Slurm: its nodes, their environment, and what comes of it when one fails."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import squash
from ..ray.site import RAY, driven, processes
from ..support import Run, Tree, until
from .cluster import ENDED
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]
THREE = ("--nodes", "3", "--procs", "1")
CROWD = int(os.environ.get("SLIPWAY_TEST_ACTORS", "500"))  # fewer on a smaller machine
ACTOR = 64 << 20  # bytes that an idle actor takes, as measured


def free_memory() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


@pytest.fixture(scope="session")
def _dock(_lab: Lab, _pier: Tree, address: str) -> Lab:
    """The lab, in the project that has NeMo RL's image, as a .sqsh."""
    lab = _lab.tree.path / "launcher" / "profiles" / "lab.yaml"
    (_pier.path / "launcher" / "profiles" / "lab.yaml").write_text(lab.read_text())
    squash("nemo-rl/v0.7.0-cpu", _pier, address)
    return Lab(_lab.slurm, dataclasses.replace(_pier, env=_lab.tree.env))


@pytest.fixture
def dock(_dock: Lab) -> Iterator[Lab]:
    yield _dock
    _dock.slurm.call("scancel", "--user=root")
    _dock.slurm.wait_for_idle()
    _dock.tree.end_all()


def texts(run: Run) -> str:
    return "".join(path.read_text() for path in sorted((run.path / "logs").glob("*.log")))


def seen(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "seen.json").read_text()))


def test_three_nodes_are_one_cluster(dock: Lab, place: Path) -> None:
    canary = "canary-91ab"
    dock.profile("declared", "secrets: {TOKEN: env}", f"setup: ['export CANARY={canary}']", "time: '20'")
    done = dock.launch(
        "--profile", "declared", *driven(place / "out"), *THREE, "--env", "ASKED=for", "--follow",
        TOKEN="the-secret", OTHER_TOKEN=canary,
    )  # fmt: skip
    run = Run(dock.tree.runs / done.out.splitlines()[0])
    assert (done.code, run.ended) == (0, (0, "step")), texts(run)
    said = seen(place / "out")
    nodes = {n["NodeName"]: n["Resources"] for n in said["nodes"]}
    assert {name: (r["worker_units"], r["GPU"], r["topo_rank"]) for name, r in nodes.items()} == {
        "n1": (1, 1, 1), "n2": (1, 1, 2), "n3": (1, 1, 3),
    }  # fmt: skip
    assert said["resources"]["slurm_managed_ray_cluster"] == 3
    assert len({a["node"] for a in said["actors"]}) == 3
    for actor in said["actors"]:
        given = actor["env"]
        assert (given["DECLARED"], given["ASKED"], given["TOKEN"]) == ("by the step", "for", "the-secret")
        assert actor["sees"] == "by the driver\n" and actor["plan"] and actor["home"]
        assert actor["register_seconds"] == 120, "by Ray's own word"
        assert not {name for name, value in given.items() if canary in value}
        assert abs(int(given["SLIPWAY_DEADLINE"]) - ends(dock, run)) <= 1
    assert len(list((place / "out").glob("actor-*"))) == 3
    shown = dock.launch("logs", run.id, "--ray")
    heads = set(re.findall(r"^==> (.+) <==$", shown.out, re.M))
    assert {"n1 gcs_server.out", "n1 raylet.out", "n2 raylet.out", "n3 raylet.out", "driver"} <= heads


@pytest.mark.long
def test_a_dedicated_head_works_for_the_others(dock: Lab, place: Path) -> None:
    dock.profile("headed", "ray_head: dedicated")
    words = (*driven(place / "out"), "--nodes", "2", "--procs", "1", "--follow")
    done = dock.launch("--profile", "headed", *words, "--env", "RAY_worker_register_timeout_seconds=300")
    run = Run(dock.tree.runs / done.out.splitlines()[0])
    assert (done.code, run.ended) == (0, (0, "step")), texts(run)
    said = seen(place / "out")
    nodes = {n["NodeName"]: n["Resources"] for n in said["nodes"]}
    assert {name: (r.get("worker_units"), r.get("GPU")) for name, r in nodes.items()} == {
        "n1": (None, None), "n2": (1, 1), "n3": (1, 1),
    }  # fmt: skip
    ids = {n["NodeID"]: n["NodeName"] for n in said["nodes"]}
    assert {ids[a["node"]] for a in said["actors"]} == {"n2", "n3"}
    assert [a["register_seconds"] for a in said["actors"]] == [300, 300], "what is declared stays"


@pytest.mark.long
@pytest.mark.skipif(free_memory() < CROWD * ACTOR, reason=f"{CROWD} actors take {CROWD * ACTOR >> 30} GiB")
def test_hundreds_of_actors_register_at_once(dock: Lab, place: Path) -> None:
    dock.profile("crowded", "time: '60'")
    words = (*driven(place / "out"), *THREE, f"actors={CROWD}")
    run = Run(dock.tree.runs / dock.launch("--profile", "crowded", *words).out.strip())
    for number in range(1, CROWD + 1, 20):  # each few for themselves, since all of them take minutes
        until(f"{number} of {CROWD} actors", lambda n=number: ended(dock, run) or here(place) >= n)
    dock.await_end(run)
    assert dock.collected(run).ended == (0, "step"), texts(run)
    said = seen(place / "out")["storm"]
    print(CROWD, "actors on three nodes:", said)  # pytest -rP shows it
    assert sum(said["of"].values()) == CROWD and len(said["of"]) == 3 and min(said["of"].values()) > CROWD // 6


def here(place: Path) -> int:
    """How many actors have answered."""
    return len(list((place / "out" / "crowd").glob("*")))


def ended(dock: Lab, run: Run) -> bool:
    return dock.slurm.job(dock.job(run))["JobState"] in ENDED


def ends(dock: Lab, run: Run) -> int:
    """When the job would have been ended, in epoch seconds: 20 minutes after its start."""
    start = dock.slurm.job(dock.job(run))["StartTime"]
    return int(dock.slurm.call("date", "-d", start, "+%s").out) + 20 * 60


def waiting(dock: Lab, place: Path, *words: str) -> Run:
    """A job on three nodes whose driver waits."""
    run = dock.submit(*driven(place / "out"), *THREE, "wait=true", *words)
    dock.await_file(place / "out" / "waiting")
    return run


def on_node(pids: list[int], node: str) -> list[int]:
    """Those of the processes that run on a node, which is a host name here."""
    return [pid for pid in pids if f"SLURMD_NODENAME={node}".encode() in Path(f"/proc/{pid}/environ").read_bytes()]


@pytest.mark.long
def test_a_worker_that_dies_ends_the_job_and_is_named(dock: Lab, place: Path) -> None:
    run = waiting(dock, place)
    (raylet,) = on_node(processes(run, RAY), "n3")
    os.kill(raylet, signal.SIGKILL)
    dock.await_end(run)
    assert dock.collected(run).ended == (75, "node"), texts(run)
    said = ("Ray on n3 has ended: raylet [exit code=-9]", "Ray has lost n3")
    assert run.outcome["reason"] in [f"a node failed: {what}" for what in said]
    assert processes(run) == []


def test_a_host_that_does_not_come_is_named(dock: Lab, place: Path) -> None:
    dock.profile("hasty", "ray_wait: 20")
    done = dock.launch("--profile", "hasty", *driven(place / "out"), *THREE)
    run = Run(dock.tree.runs / done.out.strip())
    until("n3", (run.path / "container" / "2" / "there").exists)  # before that, nobody waits for its Ray
    frozen = on_node(entrypoints(run), "n3")
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    dock.await_end(run)
    assert dock.collected(run).ended == (75, "node"), texts(run)
    wanted = "a node failed: 1 of 3 node(s) did not join Ray: n3: not there within 20 s (profile: ray_wait)"
    assert run.outcome["reason"] == wanted


def entrypoints(run: Run) -> list[int]:
    """The entrypoints of a run that have begun."""
    begun = (run.path / "container" / "0").exists()
    return processes(run, "supervisor/__main__.py", marked=False) if begun else []


@pytest.mark.long
def test_a_container_that_does_not_start_ends_the_job(dock: Lab, place: Path) -> None:
    """Of a disk that one node has not: no node waits for it."""
    disk = dock.slurm.local / "disk"
    for node in ("n1", "n2"):
        dock.slurm.write_local(node, "disk/there", "")
    disk.mkdir(exist_ok=True)  # so that it can be planned
    dock.profile("partial", "shared: []", f"mounts: [{{source: {disk}, target: /disk}}]")
    done = dock.launch("--profile", "partial", *driven(place / "out"), *THREE, "--follow")
    run = Run(dock.tree.runs / done.out.splitlines()[0])
    assert (done.code, run.ended) == (69, (69, "engine")), texts(run)
    assert f"source path does not exist: {disk}" in run.outcome["reason"]
    assert processes(run) == []


@pytest.mark.long
def test_cancel_ends_the_job_in_time(dock: Lab, place: Path) -> None:
    """Slurm tells every process of the step, Ray's with them: what the driver saves then, it has to save without."""
    run = waiting(dock, place)
    done = dock.launch("cancel", run.id)
    assert done.code == 0 and run.ended == (143, "cancelled"), done
    assert processes(run) == []
    assert [json.loads(line)["requeued"] for line in (run.path / "attempts.jsonl").read_text().splitlines()[1:]] == [
        "false"
    ]
