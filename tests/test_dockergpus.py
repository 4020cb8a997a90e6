"""launcher/engines/dockergpus.py: what the kernel's files and nvidia-smi say, and who may start. Launches with what an
engine says are in test_gpu_launch.py, real containers in tests/real/test_gpus_docker.py.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import REPO

from launcher.core import gpus
from launcher.core.plan import GpuDevice, GpuInfo
from launcher.engines import dockergpus

INFORMATION = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 128
GPU UUID: \t {}
Bus Location: \t {}
Device Minor: \t {}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/proc/driver/nvidia, and a PATH with nothing on it."""
    monkeypatch.setattr(dockergpus, "DRIVER", tmp_path / "nvidia")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "nvidia"


def add(driver: Path, address: str, uuid: str, minor: int) -> None:
    (driver / "gpus" / address).mkdir(parents=True)
    (driver / "gpus" / address / "information").write_text(INFORMATION.format(uuid, address, minor))


def nvidia_smi(tmp_path: Path, script: str) -> None:
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)


def test_the_driver_counts_by_pci_address(driver: Path, tmp_path: Path) -> None:
    add(driver, "0000:86:00.0", "GPU-22222222-0000-0000-0000-000000000000", 0)
    add(driver, "0000:17:00.0", "GPU-11111111-0000-0000-0000-000000000000", 1)
    add(driver, "0000:b7:00.0", "GPU-????????-????-????-????-????????????", 2)  # not initialised
    nvidia_smi(tmp_path, "exit 9")
    assert dockergpus.on_this_machine() == [
        GpuDevice(id="0", uuid="GPU-11111111-0000-0000-0000-000000000000", name="NVIDIA H100 80GB HBM3"),
        GpuDevice(id="1", uuid="GPU-22222222-0000-0000-0000-000000000000", name="NVIDIA H100 80GB HBM3"),
        GpuDevice(id="2", name="NVIDIA H100 80GB HBM3"),
    ]


def test_instances_are_only_known_to_nvidia_smi(driver: Path, tmp_path: Path) -> None:
    add(driver, "0000:17:00.0", "GPU-1", 0)
    (driver / "capabilities" / "gpu0" / "mig" / "gi3").mkdir(parents=True)
    nvidia_smi(tmp_path, "echo 'GPU 0: NVIDIA A30 (UUID: GPU-1)'; echo '  MIG 1g.6gb      Device  0: (UUID: MIG-7)'")
    assert dockergpus.on_this_machine() == [GpuDevice(id="0:0", uuid="MIG-7", name="MIG 1g.6gb")]


LISTS = [
    ["GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)", "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)"],
    ["GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)",
     "  MIG 3g.20gb     Device  0: (UUID: MIG-7)", "  MIG 1g.5gb      Device  1: (UUID: MIG-8)",
     "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-2)"],
    ["GPU 0: NVIDIA A30 (UUID: GPU-1)", "GPU 1: NVIDIA A30 (UUID: GPU-2)",
     "  MIG 1g.6gb      Device  0: (UUID: MIG-7)"],
    [],
]  # fmt: skip


@pytest.mark.parametrize("lines", LISTS)
def test_the_launcher_and_a_container_read_the_same_list_alike(tmp_path: Path, lines: list[str]) -> None:
    """entrypoints/gpus.py runs where the launcher cannot be imported, and compares what it reads with the plan's."""
    (tmp_path / "bin").mkdir()
    text = "\n".join(lines)
    nvidia_smi(tmp_path, f"/bin/cat <<'END'\n{text}\nEND")
    inside = runpy.run_path(str(REPO / "entrypoints" / "gpus.py"))["visible"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))
        assert inside()[0] == [gpu.uuid for gpu in dockergpus.listed(text)]


@pytest.mark.parametrize("script", [None, "exit 9", "echo 'No devices were found'"])
def test_a_machine_without_a_driver_has_none(driver: Path, tmp_path: Path, script: str | None) -> None:
    if script:
        nvidia_smi(tmp_path, script)
    assert not driver.exists() and dockergpus.on_this_machine() == []


def engine(*looks: list[tuple[str, str, str]]) -> Any:
    """A client of an engine whose containers with GPUs are those of the next look: run, state, ids."""
    left = [
        [{"State": state, "Labels": {"slipway.run": run, "slipway.gpus": ids}} for run, state, ids in look]
        for look in looks
    ]
    return SimpleNamespace(api=SimpleNamespace(containers=lambda **_: left.pop(0) if len(left) > 1 else left[0]))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dockergpus, "GIVE_WAY", 0.0)
    monkeypatch.setattr(dockergpus, "POLL", 0.0)


@pytest.mark.parametrize(
    "other",
    [("run-1", "running", "1"), ("run-9", "running", "1"), ("run-1", "created", "1"), ("run-1", "created", "1:0")],
)
def test_whoever_runs_or_was_earlier_has_it(other: tuple[str, str, str]) -> None:
    with pytest.raises(gpus.Taken, match=r"GPUs were taken meanwhile: run run-\d has 1\n"):
        dockergpus.claim(engine([other, ("run-5", "created", "0,1")]), ["0", "1"], "run-5")


def test_the_earlier_of_two_waits_until_the_later_has_given_way() -> None:
    later = ("run-9", "created", "1")
    dockergpus.claim(engine([later], [later], []), ["0", "1"], "run-5")


@pytest.mark.usefixtures("hasty")
def test_it_does_not_wait_for_a_launcher_that_is_gone() -> None:
    with pytest.raises(gpus.Taken):
        dockergpus.claim(engine([("run-9", "created", "1")]), ["0", "1"], "run-5")


def test_other_gpus_are_nobodys_concern() -> None:
    dockergpus.claim(engine([("run-1", "running", "2,3,0:1")]), ["0:0", "1"], "run-5")


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["0", "1", "GPU-a", "GPU-b", "all"], ["0", "1"]),
        (["10", "9", "2:1", "2:0", "2", "all"], ["2:0", "2:1", "9", "10"]),
        (["GPU-a", "MIG-b", "all"], ["GPU-a", "MIG-b"]),  # --device-name-strategy=uuid
    ],
)
def test_what_an_engine_names_by_cdi(names: list[str], ids: list[str]) -> None:
    told = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in names]
    other = [{"Source": "cdi", "ID": "amd.com/gpu=0"}]
    found = dockergpus.find({"DiscoveredDevices": told + other, "Runtimes": {"runc": {}}}, elsewhere=True)
    assert (found.number, [gpu.id for gpu in found.seen.devices]) == (len(ids), ids)
    assert found.seen.driver == "cdi"


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA H100 80GB HBM3", 80), ("NVIDIA A100-SXM4-40GB", 40), ("NVIDIA A100 80GB PCIe", 80),
        ("Tesla V100-SXM2-32GB", 32), ("MIG 3g.20gb", 20), ("MIG 1g.10gb+me", 10), ("NVIDIA H200", 0),
        ("NVIDIA L40S", 0), ("NVIDIA GH200 480GB", 0), ("", 0),
    ],
)  # fmt: skip
def test_a_name_may_say_the_memory(name: str, gib: int) -> None:
    """GH200's says that of its processor."""
    assert GpuDevice(id="0", name=name).bytes == gib * 2**30
    both = [GpuDevice(id="0", name=name), GpuDevice(id="1", name="NVIDIA H100 80GB HBM3")]
    assert GpuInfo(devices=both).bytes == gib * 2**30, "the smaller one's, or unknown"
