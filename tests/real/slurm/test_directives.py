"""What a profile says in `sbatch:` arrives in Slurm as it was written, through Slurm's own parser of #SBATCH lines."""

from __future__ import annotations

import os

import pytest

from launcher.engines import slurm as engine

from .cluster import Cluster

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]
VALUES = [
    "plain",
    "a b",
    'a"b',
    "it's",
    "a\\",
    "#",
    "a #b",
    "x=y z,w",
    "$HOME `id` $(id)",
    "--nodes=9 é",
    "* ? ~ ! ; | & < >",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_what_was_written(slurm: Cluster, value: str) -> None:
    options = engine._options({"comment": value, "hold": True, "nodes": 2}, engine._directive)
    script = slurm.folder / "directives.sh"
    script.write_text("\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "true", ""]))
    done = slurm.call("sbatch", "--parsable", str(script))
    assert done.code == 0, done
    shown = slurm.job(done.out.strip())
    slurm.call("scancel", done.out.strip())
    assert (shown["Comment"], shown["Reason"], shown["NumNodes"][0]) == (value, "JobHeldUser", "2")


@pytest.mark.parametrize(
    ("options", "nodes", "devices"),
    [
        ({"gpus-per-node": "8", "nodes": 2}, {"n1", "n2"}, "0,1,2,3,4,5,6,7"),
        ({"gpus-per-node": "h100:8", "nodes": 2}, {"n1", "n2"}, "0,1,2,3,4,5,6,7"),
        ({"gres": "gpu:4", "nodelist": "n3"}, {"n3"}, "0,1,2,3"),
    ],
)
def test_gpus_as_they_are_asked_for_are_what_a_job_has(
    slurm: Cluster, options: dict[str, engine.Value], nodes: set[str], devices: str
) -> None:
    asked = engine._options(options | {"exclusive": True}, engine._directive)
    script = "srun --ntasks-per-node=1 sh -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'"
    job = slurm.submit(script, *asked)
    slurm.wait_for_state(job, "COMPLETED")
    assert set(slurm.output(job).splitlines()) == {f"{node} {devices}" for node in nodes}


def test_more_gpus_than_any_node_has_are_refused_by_sbatch(slurm: Cluster) -> None:
    done = slurm.call("sbatch", "--gpus-per-node=16", "--wrap=true")
    assert (done.code, "Requested node configuration is not available" in done.err) == (1, True), done
