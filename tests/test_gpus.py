"""launcher/core/gpus.py: names of GPUs, and the choice among them. Whole launches are in test_gpu_launch.py."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import SpecOf, engine_of, entry_of

from launcher.core import gpus
from launcher.core.plan import GpuDevice, GpuInfo
from slipway.errors import SlipwayError

CUDA = entry_of("cuda")
DIVIDED = [GpuDevice(id="0:0", uuid="MIG-a"), GpuDevice(id="0:1", uuid="MIG-b"), GpuDevice(id="1", uuid="GPU-c")]


def test_names_of_gpus() -> None:
    assert gpus.parse("2,0:1,GPU-5c89852c-af1d,MIG-GPU-5c8/7/0") == ["2", "0:1", "GPU-5c89852c-af1d", "MIG-GPU-5c8/7/0"]
    for text in ("", "2,", "2, 3", "-1", "all", "0:1:2", "GPU-", "nvidia.com/gpu=0", "2\n"):
        with pytest.raises(SlipwayError, match="names no GPU; expected indices"):
            gpus.parse(text)


@pytest.mark.parametrize(
    ("one", "other", "same"), [("1", "1", True), ("1", "1:0", True), ("1:0", "1:1", False), ("1", "11", False)]
)
def test_a_gpu_and_its_instances_are_not_two(one: str, other: str, same: bool) -> None:
    assert gpus.overlap(one, other) == gpus.overlap(other, one) == same


@pytest.mark.parametrize(
    ("spec", "seen", "ids", "uuids"),
    [
        ({"gpus": 2}, GpuInfo(), ["0", "1"], []),
        ({"gpus": 2}, GpuInfo(held={"0": "a", "2": "b"}), ["1", "3"], []),  # the engine refuses what it has not
        ({"gpus": 2}, GpuInfo(devices=DIVIDED, held={"0:0": "a"}), ["0:1", "1"], ["MIG-b", "GPU-c"]),
        ({"gpus": 2}, GpuInfo(devices=DIVIDED, held={"0": "a"}), ["0:0", "1"], ["MIG-a", "GPU-c"]),  # and is refused
        ({"gpus": 2, "gpu_ids": ["GPU-c", "0:0"]}, GpuInfo(devices=DIVIDED), ["1", "0:0"], ["GPU-c", "MIG-a"]),
        ({"gpus": 1, "gpu_ids": ["GPU-far"]}, GpuInfo(), ["GPU-far"], ["GPU-far"]),
    ],
)
def test_the_choice(spec_of: SpecOf, spec: dict[str, Any], seen: GpuInfo, ids: list[str], uuids: list[str]) -> None:
    chosen = gpus.choose(spec_of(entry=CUDA, **spec), seen)
    assert chosen is not None and (chosen.ids, chosen.uuids) == (ids, uuids)


def test_whoever_gets_none_chooses_none(spec_of: SpecOf) -> None:
    assert gpus.choose(spec_of(entry=CUDA, gpus=0), GpuInfo()) is None
    assert gpus.choose(spec_of(gpus=1), GpuInfo()) is None


def test_a_whole_gpu_whose_instance_is_held_is_not_free(spec_of: SpecOf) -> None:
    spec = spec_of(entry=CUDA, gpus=1, gpu_ids=["0"])
    seen = GpuInfo(held={"0:1": "a"})
    (finding,) = gpus.check(spec, engine_of(gpus=None, gpu=seen))
    assert (finding.code, finding.where) == (75, "--gpu-ids")
    assert finding.what == "1 asked for, 0 of 1 free: run a has 0"
