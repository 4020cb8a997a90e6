"""A launch with GPUs through enroot's stand-in, over the stand-in of NVIDIA's container, from `images squash` on.

The machine stands below both: a mount namespace with device files for GPUs, what the driver says of them in /proc, and
NVIDIA's programs on PATH.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import write_chat_model, write_chats

from .gpu_engine import NUMBER, STAND_INS, UUIDS
from .slurm.cluster import DEVICES
from .slurm.test_official import assert_as_planned, seen
from .support import PROJECT, Tree
from .test_official_runs import TEMPLATE

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="the stand-in of enroot mounts as root"),
]
MACHINE = f"""\
{DEVICES}
mount -t tmpfs none /proc/driver
mkdir -p /proc/driver/nvidia/gpus
for number in $(seq 1 "$3"); do mkdir "/proc/driver/nvidia/gpus/0000:0$number:00.0"; done
shift 3
exec "$@"
"""


@pytest.fixture(scope="module")
def machine(gpu_project: Tree, ground: Path) -> Tree:
    """The project on a machine with eight GPUs and enroot."""
    folder = ground / "enroot-gpus"
    programs, profiles = folder / "bin", gpu_project.path / "slipway.d" / "profiles"
    (programs / "nvidia").mkdir(parents=True)
    for number, uuid in enumerate(UUIDS):
        (programs / "nvidia" / str(number)).write_text(f"{uuid}\n")
    for name in ("nvidia-smi", "nvidia-container-cli"):
        shutil.copy(STAND_INS / name, programs)
    standin = f"{sys.executable} -IS {PROJECT / 'tests' / 'standins' / 'enroot.py'} {folder}"
    (programs / "enroot").write_text(f'#!/bin/sh\nexec {standin} "$@"\n')
    (programs / "enroot").chmod(0o755)
    profiles.mkdir(parents=True, exist_ok=True)
    (profiles / "site-enroot.yaml").write_text(f"schema: 1\nkind: enroot\nextends: enroot\ndata: {folder}/data\n")
    done = gpu_project.images("squash", "automodel/26.06-cuda")
    assert done.code == 0, done
    env = gpu_project.env | {"PATH": f"{programs}:{gpu_project.env['PATH']}", "SLIPWAY_RUNS": str(folder / "runs")}
    inside = [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-ec",
        MACHINE,
        "sh",
        str(folder),
        "one",
        str(NUMBER),
    ]
    return dataclasses.replace(gpu_project, runs=folder / "runs", env=env, prefix=inside, _started=[])


@pytest.fixture
def site(machine: Tree) -> Iterator[Tree]:
    yield machine
    machine.end_all()


def test_a_run_has_the_gpus_of_the_machine(site: Tree, place: Path) -> None:
    """Eight processes, each with what the hook gave; the configuration is the plan's, the UUIDs are in the record."""
    model = write_chat_model(place / "model")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    words = (f"train={write_chats(place / 'chats.jsonl')}", f"model={model}", f"output={place}/out", "max_steps=2")
    done = site.launch("--profile", "site-enroot", "sft/automodel", *words, "--gpus", "8")
    assert done.code == 0, done.out + done.err
    run = site.run_of(done)
    assert run.ended == (0, "step") and run.record["versions"]["gpus"] == UUIDS
    for rank in range(NUMBER):
        process = seen(place / "out", f"seen-{rank}" if rank else "seen")
        assert (process["rank"], process["world_size"]) == (rank, NUMBER)
        assert process["gpus"] == [str(n) for n in range(NUMBER)]
        assert process["environ"]["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
        assert_as_planned(run, process["config"])
    assert (place / "out" / "epoch_0_step_1" / "model" / "consolidated" / "config.json").is_file()


def test_more_than_there_are_is_refused(site: Tree, place: Path) -> None:
    words = (f"train={write_chats(place / 'chats.jsonl')}", f"model={write_chat_model(place / 'model')}")
    done = site.launch("--profile", "site-enroot", "sft/automodel", *words, f"output={place}/out", "--gpus", "9")
    assert done.code == 64 and "--gpus: 9 asked for, the machine has 8" in done.err, done
    assert not (place / "out").exists()
