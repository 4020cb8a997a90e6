"""Launches with GPUs on Slurm's nodes: eight by GRES, four by GRES, and GPUs of which Slurm knows nothing.

The cuda image is built over what stands in for its base, since this machine has none of NVIDIA's.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from images.locking import lock as locks
from slipway.project import Root

from ..conftest import TOY, Variant, facts, installed, link_tar, toy
from ..support import PROJECT, Done, Run, Tree, told, until
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]


def with_toy(docker: Any, image: str) -> str:
    """An image with what NVIDIA's have and the toy needs: PyYAML, and the configuration that it starts from."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(Path(yaml.__file__).parent, "usr/lib/python3/dist-packages/yaml")
        tar.add(TOY / "step" / "base.yaml", "opt/toy.yaml")
    container = docker.containers.create(image, "true")
    try:
        container.put_archive("/", content.getvalue())
        return str(container.commit().id)
    finally:
        container.remove()


@pytest.fixture(scope="module")
def _gpus(_lab: Lab, ground: Path, docker: Any, debian: str, variant: Variant) -> Iterator[Lab]:
    """The lab, in a checkout of its own with a cuda image as .sqsh, and a toy that wants all GPUs of a node."""
    cuda = locks.select(locks.load_lock(Root(PROJECT)), "automodel", "cuda")
    path = ground / "gpus"
    shutil.copytree(_lab.tree.path, path, copy_function=link_tar)
    whole = path / "launcher" / "steps" / "test" / "whole"
    shutil.copytree(whole.with_name("toy"), whole)
    step = whole / "step.yaml"
    step.write_text(step.read_text().replace("shape: {nodes: 1, gpus: 0}", "shape: {nodes: 1, gpus: 8}"))
    tree: Tree = dataclasses.replace(_lab.tree, path=path)
    stand_in = f"{cuda.base.reference}={variant(with_toy(docker, debian), installed(cuda))}"
    before = {t for i in docker.images.list() for t in i.tags}
    for words in (("build", "automodel", "--flavour", "cuda", "--base", stand_in), ("squash", cuda.name)):
        done = tree.images(*words)
        assert done.code == 0, done
    yield dataclasses.replace(_lab, tree=tree)
    for name in {t for i in docker.images.list() for t in i.tags if t.startswith(cuda.tag)} - before:
        docker.images.remove(name)


@pytest.fixture
def gpus(_gpus: Lab) -> Iterator[Lab]:
    yield _gpus
    _gpus.slurm.call("scancel", "--user=root")
    _gpus.tree.end_all()


def wants_all(output: Path, *more: str) -> tuple[str, ...]:
    """The toy, as a step that asks for a whole node; it is one process all the same."""
    words = ["cuda" if word == "cpu" else word for word in toy(output, "--procs", "1", "--allow-drift", *more)]
    return ("test/whole", *words[1:])


def ran(lab: Lab, profile: str, output: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """What Slurm tells of the job, and what the step has seen, once it has run to its end."""
    done: Done = lab.launch("--profile", profile, *wants_all(output), "--follow")
    assert done.code == 0, done
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    assert (run.ended, (output / "written").exists()) == ((0, "step"), True)
    return lab.slurm.job(lab.job(run)), facts((run.path / "logs" / "node-0.log").read_text())


@pytest.mark.parametrize(
    ("name", "lines", "node", "asked"),
    [
        ("eight", ["gpu_type: h100", "gpus: 8"], "n[12]", "gres:gpu:h100:8"),
        ("four", ["gpus: 4", "gpus_by: gres", "sbatch: {nodelist: n3}"], "n3", "gres:gpu:4"),
    ],
)
def test_a_step_that_wants_a_whole_node_has_all_gpus_of_one(
    gpus: Lab, place: Path, name: str, lines: list[str], node: str, asked: str
) -> None:
    gpus.profile(name, *lines, "flavour: cuda")
    job, _ = ran(gpus, name, place / "out")
    assert Path(job["NodeList"]).match(node)
    assert job["TresPerNode"] == asked


def test_where_slurm_knows_of_no_gpus_a_job_has_the_node_for_itself(gpus: Lab, place: Path) -> None:
    """The partition refuses whoever asks for GPUs."""
    gpus.profile("bare", "partition: bare", "gpus: 4", "flavour: cuda", "gpus_by: none")
    job, seen = ran(gpus, "bare", place / "out")
    assert (job["NodeList"], job["OverSubscribe"], job["NumCPUs"]) == ("bare", "NO", "4")
    assert "TresPerNode" not in job and seen["given"]["NVIDIA_VISIBLE_DEVICES"] != "void"
    gpus.profile("asks", "partition: bare", "gpus: 4", "flavour: cuda")
    refused = gpus.launch("--profile", "asks", *wants_all(place / "other"))
    assert "Requested node configuration is not available" in refused.err, refused
    assert refused.code == 69 and not (place / "other").exists()


SMI = PROJECT / "tests" / "standins" / "gpus" / "nvidia-smi"
ECC = "ecc.errors.uncorrected.volatile.total"


@pytest.fixture
def machines(gpus: Lab) -> Lab:
    """The profile `looks`: what NVIDIA's hook would put into a container, each node has on a disk of its own."""
    disk = gpus.slurm.local / "machine"
    (disk / "nvidia").mkdir(parents=True, exist_ok=True)
    (disk / "nvidia-smi").touch()  # so that it can be planned here
    for node in ("n1", "n2"):
        for number in range(8):
            gpus.slurm.write_local(node, f"machine/nvidia/{number}", f"GPU-{node}-{number}\n")
        gpus.slurm.write_local(node, "machine/nvidia/faults", "")
        gpus.slurm.write_local(node, "machine/nvidia-smi", SMI.read_text(), 0o755)
    mounts = ((disk / "nvidia", "/nvidia"), (disk / "nvidia-smi", "/usr/bin/nvidia-smi"))
    said = ", ".join(f"{{source: {source}, target: {target}}}" for source, target in mounts)
    gpus.profile("looks", "gpu_type: h100", "gpus: 8", "flavour: cuda", "shared: []", f"mounts: [{said}]")
    return gpus


def submitted(lab: Lab, output: Path, *more: str) -> Run:
    done = lab.launch("--profile", "looks", *wants_all(output, *more))
    assert done.code == 0, done
    return Run(lab.tree.runs / done.out.strip())


def shown(lab: Lab, run: Run) -> list[str]:
    return [" ".join(line.split()) for line in lab.launch("show", run.id).out.splitlines()]


def test_a_node_with_a_broken_gpu_is_named_and_the_next_attempt_does_without_it(machines: Lab, place: Path) -> None:
    machines.slurm.write_local("n1", "machine/nvidia/faults", f"2 {ECC} 3\n")
    run = submitted(machines, place / "out")
    job = machines.job(run)
    until("the second attempt", lambda: machines.slurm.job(job).get("Restarts") == "1")
    excluded = "excluded node n1: GPU 2 (GPU-n1-2): 3 uncorrected ECC errors since the driver was loaded"
    machines.slurm.wait_for_state(job, "PENDING")
    assert excluded in shown(machines, run)
    machines.slurm.run_now(job)
    machines.await_end(run)
    assert told(machines.tree, run) == ("done", 0, "done")
    assert excluded in shown(machines, run) and run.outcome["excluded"] == excluded.removeprefix("excluded ")
    assert run.record["versions"]["gpus"] == [f"GPU-n2-{number}" for number in range(8)]
    assert {k: machines.slurm.job(job)[k] for k in ("NodeList", "ExcNodeList")} == {
        "NodeList": "n2",
        "ExcNodeList": "n1",
    }


def test_where_every_node_is_broken_the_job_ends(machines: Lab, place: Path) -> None:
    """The third node has other GPUs: Slurm would let the job wait for ever, and says so when it is asked."""
    for node in ("n1", "n2"):
        machines.slurm.write_local(node, "machine/nvidia/faults", f"0 {ECC} 1\n")
    run = submitted(machines, place / "out")
    job = machines.job(run)
    until("the second attempt", lambda: machines.slurm.job(job).get("Restarts") == "1")
    machines.slurm.run_now(job)
    machines.await_end(run)
    none = "there are not enough other nodes on which this job could run"
    fault = "GPU 0 (GPU-n2-0): 1 uncorrected ECC errors since the driver was loaded"
    assert told(machines.tree, run) == ("node failed", 75, f"a node failed: {none}; node n2 is not fit: {fault}")
    assert run.outcome["excluded"].startswith("node n1: GPU 0 (GPU-n1-0): ")
    assert not (place / "out" / "written").exists()


def test_what_a_dry_run_with_errors_prints_does_nothing_in_the_queue(gpus: Lab, place: Path) -> None:
    """`launch --dry-run … | sbatch`: eight GPUs on nodes that have four. The job ends with 78 and says why."""
    gpus.profile("four", "gpus: 4", "flavour: cuda")
    words = ("--profile", "four", *wants_all(place / "out"), "--gpus", "8", "--dry-run")
    printed = gpus.launch(*words)
    assert printed.code == 64 and "#SBATCH --gpus-per-node=8" in printed.out
    log = place / "job.out"
    command = ["sbatch", "--parsable", "--wait", f"--output={log}"]
    env = gpus.slurm.env | {"HOME": str(place), "USER": "root"}
    done = subprocess.run(command, input=printed.out, cwd=place, env=env, capture_output=True, text=True)
    job = gpus.slurm.job(done.stdout.strip())
    assert (job["JobState"], job["ExitCode"], job.get("TresPerNode")) == ("FAILED", "78:0", None), done
    assert log.read_text().startswith("slipway: refused: ") and "8 GPUs asked for on each node" in log.read_text()
    assert sorted(p.name for p in place.iterdir()) == ["job.out"]
