"""Ray in one container on a real engine: what a driver and its actors see, its end, and two jobs at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .ray.site import RAY, driven, processes
from .support import Run, Tree, until

pytestmark = pytest.mark.real


@pytest.fixture
def pier(_pier: Tree) -> Iterator[Tree]:
    yield _pier
    _pier.end_all()


def seen(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "seen.json").read_text()))


def test_the_driver_has_a_cluster_of_its_own(pier: Tree, place: Path) -> None:
    words = (*driven(place / "output"), "--procs", "2", "--env", "ASKED=for", "code=7")
    done = pier.launch(*words, CANARY="of-the-shell")
    run = pier.run_of(done)
    assert (done.code, run.ended) == (7, (7, "step")), done
    said = seen(place / "output")
    (node,) = said["nodes"]
    wanted = {"worker_units": 2, "slurm_managed_ray_cluster": 1, "topo_rank": 1, "GPU": 2}
    assert {name: node["Resources"][name] for name in wanted} == wanted
    assert sorted(a["gpu"] for a in said["actors"]) == [["0"], ["1"]]
    for actor in said["actors"]:
        given = actor["env"]
        assert (given["DECLARED"], given["ASKED"], actor["sees"]) == ("by the step", "for", "by the driver\n")
        assert actor["plan"] and actor["home"]
        assert not {name for name, value in given.items() if "of-the-shell" in value}
        assert given["RAY_USAGE_STATS_ENABLED"] == "0"
    logs = run.path / "container" / "0" / "ray"
    assert "worker" in (logs / "raylet.out").read_text() and (logs / "gcs_server.out").stat().st_size
    shown = pier.launch("logs", run.id, "--ray")
    assert shown.code == 0, shown
    heads = [line for line in shown.out.splitlines() if line.startswith("==> ")]
    assert {f"==> {os.uname().nodename} {name} <==" for name in ("gcs_server.out", "raylet.out")} <= set(heads)
    assert heads[-1] == "==> driver <=="
    assert "the driver has asked 2 actors" in shown.out


def test_two_jobs_at_once_do_not_meet(pier: Tree, place: Path) -> None:
    """Of one machine's network; the first goes on when the second ends."""
    runs = []
    for name in ("one", "two"):
        done = pier.launch(*driven(place / name), "wait=true", "--detach")
        assert done.code == 0, done
        runs.append(Run(pier.runs / done.out.strip()))
    for name in ("one", "two"):
        until(f"{name} waits", (place / name / "waiting").exists)
    assert [seen(place / name)["resources"]["worker_units"] for name in ("one", "two")] == [1, 1]
    assert seen(place / "one")["address"] != seen(place / "two")["address"]
    (place / "two" / "go").touch()
    assert pier.launch("logs", "-f", runs[1].id).code == 0
    assert processes(runs[1]) == [] and processes(runs[0])
    (place / "one" / "go").touch()
    assert pier.launch("logs", "-f", runs[0].id).code == 0
    assert [pier.launch("show", run.id).code for run in runs] == [0, 0]
    assert [run.ended for run in runs] == [(0, "step"), (0, "step")]


def test_cancel_tells_the_driver_while_its_actors_are_there(pier: Tree, place: Path) -> None:
    done = pier.launch(*driven(place / "out"), "wait=true", "--detach")
    run = Run(pier.runs / done.out.strip())
    until("waiting", (place / "out" / "waiting").exists)
    cancelled = pier.launch("cancel", run.id)
    assert cancelled.code == 0 and run.ended == (143, "cancelled"), cancelled
    assert (place / "out" / "saved").exists()
    assert processes(run) == []


@pytest.mark.long
def test_a_raylet_that_dies_ends_the_run(pier: Tree, place: Path) -> None:
    done = pier.launch(*driven(place / "out"), "wait=true", "--detach")
    run = Run(pier.runs / done.out.strip())
    until("waiting", (place / "out" / "waiting").exists)
    for pid in processes(run, RAY):
        os.kill(pid, 9)
    pier.launch("logs", "-f", run.id)
    assert pier.launch("show", run.id).code == 0
    assert run.ended == (75, "node")
    assert run.outcome["reason"] == f"a node failed: Ray on {os.uname().nodename} has ended: raylet [exit code=-9]"
