"""entrypoints/gpus.py as a program: whether the GPUs of a node are fit, asked of standins/gpus/nvidia-smi.

Whether they are those of the plan: test_entrypoint.py, which starts the whole of what runs in a container.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import HERE, REPO

PROGRAM = REPO / "entrypoints" / "gpus.py"
UUIDS = [f"GPU-{n}" for n in range(4)]
ECC = "ecc.errors.uncorrected.volatile.total"
XID = "[12.3] NVRM: Xid (PCI:0000:3b:00): {}, pid=77, name=python, GPU"


@dataclass
class Node:
    """A node with four GPUs, and what its programs say of them."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "bin" / "nvidia").mkdir(parents=True)
        (self.folder / "state" / "1").mkdir(parents=True)
        for number, uuid in enumerate(UUIDS):
            (self.folder / "bin" / "nvidia" / str(number)).write_text(f"{uuid}\n")
        shutil.copy(HERE / "standins" / "gpus" / "nvidia-smi", self.folder / "bin")
        self.program("dmesg", "exit 1")
        self.env = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "SLURM_NODEID": "1"}
        self.env |= {"SLIPWAY_NODE_NAMES": "n1 n2"}
        shape, profile = {"nodes": 2, "gpus": 4, "procs": 4}, {"kind": "slurm", "gpus_by": "gres", "check_nodes": True}
        self.plan = {"flavour": "cuda", "shape": shape, "profile": profile}

    def program(self, name: str, script: str) -> None:
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def says(self, name: str, text: str) -> None:
        """`faults` or `apps` of the stand-in."""
        (self.folder / "bin" / "nvidia" / name).write_text(f"{text}\n")

    def look(self) -> tuple[int, str]:
        """Exit code, and what is told."""
        plan = self.folder / "plan.json"
        plan.write_text(json.dumps(self.plan))
        command = [sys.executable, str(PROGRAM), f"--plan={plan}", f"--out={self.folder}/state/1/versions.json"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        assert done.stdout == "" and "Traceback" not in done.stderr, done
        return done.returncode, done.stderr.rstrip("\n")

    @property
    def bad(self) -> str:
        """What the job's script is told."""
        file = self.folder / "state" / "bad"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_gpus_without_a_fault_are_recorded(node: Node) -> None:
    assert node.look() == (0, "")
    told = {"gpus": UUIDS, "gpu_names": ["NVIDIA Stand-in"] * 4, "driver": "575.57.08"}
    assert json.loads((node.folder / "state" / "1" / "versions.json").read_text()) == told
    assert not node.bad


FAULTS = [
    (f"2 {ECC} 3", "GPU 2 (GPU-2): 3 uncorrected ECC errors since the driver was loaded"),
    ("0 remapped_rows.failure Yes", "GPU 0 (GPU-0): rows of its memory could not be remapped"),
    ("3 remapped_rows.pending Yes", "GPU 3 (GPU-3): rows of its memory wait for a reset to be remapped"),
    ("1 memory.used 8200", "GPU 1 (GPU-1): 8200 of 81559 MiB are taken before the run has started"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS)
def test_a_node_that_is_not_fit_is_named(node: Node, fault: str, said: str) -> None:
    node.says("faults", fault)
    assert node.look() == (75, f"node n2 is not fit: {said}")
    assert node.bad == f"n2 {said}\n"


def test_all_that_is_wrong_is_told_at_once(node: Node) -> None:
    node.says("faults", "\n".join(fault for fault, _ in FAULTS))
    code, said = node.look()
    assert code == 75 and all(text in said for _, text in FAULTS) and said.count("\n") == 0


def test_whoever_holds_memory_is_named(node: Node) -> None:
    node.says("faults", "1 memory.used 70000")
    node.says("apps", "GPU-1, 4711, python\nGPU-0, 4712, other")
    assert node.look()[1].endswith("70000 of 81559 MiB are taken before the run has started, held by 4711 (python)")


@pytest.mark.parametrize("fault", [f"2 {ECC} [N/A]", "1 memory.used 8000", "0 remapped_rows.pending [N/A]"])
def test_what_is_not_known_or_little_is_no_fault(node: Node, fault: str) -> None:
    node.says("faults", fault)
    assert node.look() == (0, "")


def test_a_driver_that_does_not_know_a_field_is_no_fault(node: Node) -> None:
    text = (node.folder / "bin" / "nvidia-smi").read_text()
    (node.folder / "bin" / "nvidia-smi").write_text(text.replace("remapped_rows.*)", "none)"))
    assert node.look() == (0, "")
    node.says("faults", f"2 {ECC} 3")
    assert node.look()[0] == 75


def test_where_a_driver_does_not_say_its_version_the_uuids_are_recorded(node: Node) -> None:
    text = (node.folder / "bin" / "nvidia-smi").read_text()
    (node.folder / "bin" / "nvidia-smi").write_text(text.replace("driver_version)", "none)"))
    assert node.look() == (0, "")
    assert json.loads((node.folder / "state" / "1" / "versions.json").read_text()) == {"gpus": UUIDS}


@pytest.mark.parametrize(("number", "code"), [(79, 75), (48, 75), (31, 0), (13, 0)])
def test_xids_of_which_a_gpu_does_not_recover(node: Node, number: int, code: int) -> None:
    node.program("dmesg", f"echo '{XID.format(number)}'; echo '{XID.format(number)}'")
    found, said = node.look()
    assert found == code and said.count(f"GPU at 0000:3b:00: Xid {number}, ") == bool(code)


@pytest.mark.parametrize(
    ("shape", "visible", "code"),
    [(2, "0,1", 0), (2, "2,3", 75), (2, "GPU-2,GPU-3", 75), (2, "", 0), (4, "", 75)],
)
def test_gpus_of_other_jobs_are_not_looked_at(node: Node, shape: int, visible: str, code: int) -> None:
    """Of a node that several jobs share, a container may see all; which are this one's Slurm says, or nobody."""
    node.says("faults", "2 memory.used 70000")
    node.plan["shape"]["gpus"] = shape
    node.env |= {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    assert node.look()[0] == code


@pytest.mark.parametrize(
    ("profile", "faults", "count"),
    [
        ({"check_nodes": False}, (0, "warning: GPU 2 "), (78, "GPUs: found 4, expected 5")),
        ({"kind": "docker"}, (0, "warning: GPU 2 "), (78, "GPUs: found 4, expected 5")),
        ({"gpus_by": "none"}, (75, "node n2 is not fit: GPU 2 "), (78, "GPUs: found 4, expected 5")),
        ({}, (75, "node n2 is not fit: GPU 2 "), (75, "node n2 is not fit: GPUs: found 4, expected 5")),
    ],
)
def test_where_another_node_may_do(
    node: Node, profile: dict[str, Any], faults: tuple[int, str], count: tuple[int, str]
) -> None:
    """A job of Slurm's goes on without it; elsewhere a fault is told, and fewer GPUs than asked for are refused."""
    node.plan["profile"] |= profile
    node.says("faults", f"2 {ECC} 3")
    code, said = node.look()
    assert (code, said[: len(faults[1])]) == faults
    node.plan["shape"]["gpus"] = 5
    assert node.look() == count


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Unable to determine the device handle for GPU0000:3B:00.0: Unknown Error'; exit 15",
         "nvidia-smi: Unable to determine the device handle for GPU0000:3B:00.0: Unknown Error"),
        ("exit 9", "nvidia-smi: exit code 9"),
    ],
)  # fmt: skip
def test_a_driver_that_does_not_answer_is_a_fault_of_the_node(node: Node, script: str, said: str) -> None:
    node.program("nvidia-smi", script)
    assert node.look() == (75, f"node n2 is not fit: {said}")
    node.plan["profile"]["check_nodes"] = False
    assert node.look() == (0, "")


def test_without_gpus_nothing_is_looked_at(node: Node) -> None:
    node.says("faults", f"2 {ECC} 3")
    node.plan["flavour"] = "cpu"
    assert node.look() == (0, "")
