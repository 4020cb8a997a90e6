"""`launch profiles doctor` on a real Slurm: what its commands really print, and what its nodes really share."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ..support import PROJECT, Done, Running, until
from .cluster import Cluster, running, stand_in

pytestmark = pytest.mark.real
LINES = "schema: 1\nkind: slurm\nflavour: cpu\nmount_wait: 3\n"


# dac_read_search: so that it can read our Python.
USER = ("setpriv", "--reuid=12345", "--regid=23456", "--clear-groups", "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=+dac_read_search", "--")  # fmt: skip


def examine(cluster: Cluster, place: Path, lines: str, *words: str, prefix: tuple[str, ...] = ()) -> Done:
    """Runs the doctor for a profile of these lines, in a project that is `place`."""
    profile = place / "slipway.d" / "profiles" / "site.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text(LINES + lines)
    for name in ("versions.lock", "entrypoints/probe.sh"):
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, place / name)
    shutil.copytree(PROJECT / "launcher" / "steps", place / "launcher" / "steps", dirs_exist_ok=True)
    program = str(Path(sys.executable).parent / "launch")
    env = cluster.env | {"HOME": str(place), "USER": "root"}
    return Running([*prefix, program, "profiles", "doctor", "site", "--json", *words], place, env).finish()


def results(done: Done) -> dict[str, list[dict[str, Any]]]:
    """By check."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in json.loads(done.out):
        found.setdefault(result["check"], []).append(result)
    return found


def states(done: Done) -> dict[str, list[str]]:
    return {check: [r["state"] for r in rs] for check, rs in results(done).items()}


@pytest.fixture
def place(slurm: Cluster, request: pytest.FixtureRequest) -> Path:
    """A folder that all nodes share."""
    made = slurm.folder / f"doctor-{request.node.name.partition('[')[0]}"
    (made / "shared").mkdir(parents=True)
    return made


def test_a_site_that_is_as_its_profile_says(slurm: Cluster, place: Path) -> None:
    lines = f"partition: batch\ntime: '30'\nshared: [{place}]\nsquash: {place}/shared\nruns: {place}/runs\n"
    done = examine(slurm, place, lines)
    found = results(done)
    well = ("sbatch", "slurmctld", "pyxis", "partition", "time", "mpi", "requeue", "TaskProlog", "GPUs", "squash",
            "runs", "shared")  # fmt: skip
    assert done.code == 0 and {c: set(states(done)[c]) for c in well} == {c: {"ok"} for c in well}, done
    assert found["sbatch"][0]["seen"].startswith("slurm")
    assert found["partition"][0]["seen"] == "batch, 3 nodes, UP"
    assert found["time"][0]["seen"] == "30 of at most 01:00:00"
    assert found["requeue"][0]["seen"].endswith("start up to 3 times (attempts; JobRequeue = 1)")
    assert re.match(r"pyxis \S+ unpacks the image on each node for every attempt; ", found["pyxis"][1]["seen"])
    scancel, preempted, _ = found["saving"]
    assert scancel["seen"].startswith("a step that scancel ends has 30 s to save (KillWait); peft/automodel and 2 more")
    assert (
        "jobs of urgent preempt this one (PreemptMode = REQUEUE): its step has 30 s to save (KillWait"
        in preempted["seen"]
    )
    assert preempted["remedy"] == "ask for GraceTime=300 on partition batch, or save more often"
    assert found["accounting"][0]["state"] == "warning" and "sacct knows nothing" in found["accounting"][0]["seen"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_need_not_write_to_what_is_shared(slurm: Cluster, place: Path) -> None:
    runs = place / "runs"
    runs.mkdir()
    os.chown(runs, 12345, 23456)
    lines = f"shared: [{place}]\nsquash: {place}/shared\nruns: {runs}\n"
    done = examine(slurm, place, lines, prefix=USER)
    assert done.code == 0 and {c: states(done)[c] for c in ("shared", "squash", "pyxis", "saving", "requeue")} == {
        "shared": ["ok"], "squash": ["ok"], "pyxis": ["ok", "ok"], "saving": ["warning", "warning", "ok"],
        "requeue": ["ok"],
    }, done  # fmt: skip
    runs.chmod(0o500)
    done = examine(slurm, place, lines, prefix=USER)
    assert (done.code, states(done)["runs"]) == (73, ["failed"]), done


def test_a_site_that_is_not(slurm: Cluster, place: Path) -> None:
    lines = f"partition: bacth\nreservation: none\naccount: dept\nmpi: pmx\nshared: [{place}]\nruns: /tmp/elsewhere\n"
    done = examine(slurm, place, lines.replace("bacth", "batch") + "time: '61'\n")
    assert (done.code, states(done)["time"]) == (78, ["failed"]), done
    assert states(done)["mpi"] == states(done)["runs"][1:] == ["failed"]
    assert states(done)["account"] == ["unknown", "failed"]
    done = examine(slurm, place, lines)
    (partition,) = results(done)["partition"]
    assert (partition["seen"], partition["remedy"]) == ("there is no partition 'bacth'", "did you mean 'batch'?")


def test_a_controller_that_is_not_there(slurm: Cluster, place: Path) -> None:
    config = (place / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=9\n")
    assert config
    silent = Cluster(slurm.folder, slurm.nodes, slurm.env | {"SLURM_CONF": str(place / "slurm.conf")})
    done = examine(silent, place, "")
    found = states(done)
    assert (done.code, found["sbatch"], found["slurmctld"], found["partition"]) == (69, ["ok"], ["failed"], ["unknown"])


def test_each_node_of_a_probe_job_sees_what_is_shared_and_is_named_where_it_does_not(
    slurm: Cluster,
    place: Path,
) -> None:
    slurm.wait_for_idle()
    done = examine(slurm, place, f"shared: [{place}]\nruns: {place}/shared\n", "--probe", "3")
    seen = [r["seen"] for r in results(done)["probe"]]
    assert done.code == 0, done
    assert seen[0] == "n1, n2, n3 answered, of 3"
    assert seen[1:3] == [f"{p}: the same here and on n1, n2, n3" for p in (place, place / "shared")]
    done = examine(slurm, place, f"shared: [{slurm.folder}]\nruns: {slurm.local}\n", "--probe", "3")
    wrong = [r for r in results(done)["probe"] if r["state"] == "failed"]
    assert done.code == 78 and len(wrong) == 1, done
    assert all(f"on {n} it does not show what was written elsewhere" in wrong[0]["seen"] for n in slurm.nodes)
    assert not list(slurm.folder.rglob(".slipway-doctor-*"))
    assert slurm.call("squeue", "--noheader").out == ""


def test_a_probe_job_that_cannot_start_is_explained(slurm: Cluster, place: Path) -> None:
    done = examine(slurm, place, f"runs: {place}/shared\n", "--probe", "4")
    assert [r["seen"] for r in results(done)["probe"]] == ["4 nodes asked for, the partition has 3"]
    assert done.code == 64
    done = examine(slurm, place, f"runs: {place}/shared\nconstraint: gold\n", "--probe")
    (answered,) = [r for r in results(done)["probe"] if "answered" in r["seen"]]
    assert (done.code, answered["state"]) == (69, "failed")
    assert "nvalid feature specification" in answered["seen"] and answered["remedy"].startswith("the nodes' are: sinfo")
    assert slurm.call("squeue", "--noheader").out == ""


@stand_in
def test_what_a_sites_settings_do_to_saving_is_said_and_true(tmp_path: Path, tiny: Path) -> None:
    prolog = tmp_path / "site" / "prolog.sh"
    prolog.parent.mkdir()
    prolog.write_text("#!/bin/sh\necho export BY_PROLOG=yes\n")
    prolog.chmod(0o755)
    lines = ("RequeueExit=7,143", f"TaskProlog={prolog}", "UnkillableStepTimeout=20")
    with running(tmp_path / "slurm", nodes=1, lines=lines, pyxis="use_squashfuse=true container_scope=job") as site:
        place = site.folder / "project"
        place.mkdir()
        done = examine(site, place, f"runs: {place}/runs\nsecrets: {{TOKEN: env}}\n")
        found = results(done)
        assert (done.code, states(done)["saving"]) == (0, ["warning", "warning", "ok", "warning"]), done
        seen = {
            check: " | ".join(r["seen"] for r in found[check]) for check in ("pyxis", "saving", "requeue", "TaskProlog")
        }
        assert "pyxis 0.24.0 mounts images (use_squashfuse)" in seen["pyxis"]
        assert "a step that scancel ends cannot save" in seen["saving"] and "it cannot save" in seen["saving"]
        assert "still writes 20 s after KILL" in seen["saving"]
        assert (
            "RequeueExit = 7,143: a job that ends with such a code starts anew, without its secrets" in seen["requeue"]
        )
        assert seen["TaskProlog"].startswith(f"{prolog} runs inside the container")

        contained = ("srun", f"--container-image={tiny}", "--container-env=PATH")
        without = site.call(*contained, "true")
        assert without.code == 1 and "TaskProlog failed" in without.err
        given = site.call(*contained, f"--container-mounts={prolog.parent}", "sh", "-c", "echo by prolog: $BY_PROLOG")
        assert (given.code, given.out) == (0, "by prolog: yes\n"), given
        job = site.submit("exit 7", "--no-requeue")
        until("put back", lambda: site.job(job).get("Restarts") == "1")
        assert site.call("scancel", job).code == 0


def test_accounts_and_qos_are_those_of_the_sites_database(accounted: Cluster) -> None:
    for words in (("account", "dept"), ("qos", "high"), ("user", "root", "account=dept", "qos=normal")):
        done = accounted.call("sacctmgr", "--immediate", "add", *words)
        assert done.code == 0, done
    place = accounted.folder / "project"
    place.mkdir()
    done = examine(accounted, place, "account: dept\nqos: normal\n")
    assert [r["seen"] for r in results(done)["account"]] == ["account dept", "qos normal"], done
    assert results(done)["accounting"][0]["seen"] == "accounting_storage/slurmdbd, sacct answers"
    done = examine(accounted, place, "account: depts\nqos: high\n")
    assert done.code == 78
    assert [r["remedy"] for r in results(done)["account"]] == ["did you mean 'dept'?", "known: normal"]
