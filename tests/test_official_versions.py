"""What NVIDIA's containers call their packages, as it was read and reported, against what the lock expects of them.

The names are those of *.dist-info folders: from uv.lock and Dockerfiles at the tags, and from people who ran them. What
nobody could tell is not in the table.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from helpers import REPO

from images.locking import lock as locks
from images.locking.model import Entry
from slipway.project import Root

LOCK = locks.load_lock(Root(REPO))
_PYTORCH = {  # torch of the base containers, by their own version
    "25.09": "torch-2.9.0a0+50eac811a6.nv25.09",
    "25.11": "torch-2.10.0a0+b558c986e8.nv25.11",
    "26.02": "torch-2.11.0a0+eb65b36914.nv26.2.48445190",
    "26.04": "torch-2.12.0a0+0291f960b6.nv26.4.48445190",
    "26.06": "torch-2.13.0a0+0123456789.nv26.6.50000000",
}
BRIDGE = {
    "25.11": f"megatron_bridge-0.2.0 megatron_core-0.15.0 transformer_engine-2.9.0+70f53666 nvidia_modelopt-0.39.0 "
    f"transformers-4.57.1 {_PYTORCH['25.09']}",
    "26.02": f"megatron_bridge-0.3.0 megatron_core-0.16.0 transformer_engine-2.12.0+5671fd36 nvidia_modelopt-0.41.0 "
    f"transformers-4.57.6 vllm-0.14.2.dev0+gd7de043d5.d20260219.cu130 {_PYTORCH['25.11']}",
    "26.04": f"megatron_bridge-0.4.0 megatron_core-0.17.0 transformer_engine-2.14.0+71bbefbf nvidia_modelopt-0.43.0rc4 "
    f"transformers-5.3.0 vllm-0.17.2.dev0+g95c0f928c.d20260401.cu131 {_PYTORCH['26.02']}",
    "26.04.01": f"megatron_bridge-0.4.2 megatron_core-0.17.1 transformer_engine-2.14.1+366798ef "
    f"nvidia_modelopt-0.44.0rc1 transformers-5.3.0 vllm-0.17.2.dev0+g95c0f928c.d20260421.cu131 {_PYTORCH['26.02']}",
    "26.06": f"megatron_bridge-0.5.0 megatron_core-0.18.0 transformer_engine-2.16.0+4220403e nvidia_modelopt-0.44.0rc5 "
    f"transformers-5.8.1 vllm-0.20.2.dev0+g0123abcd.d20260601.cu132 {_PYTORCH['26.04']}",
    "26.06.01": f"megatron_bridge-0.5.1+cdbcb3073 megatron_core-0.18.2+458c8d0ec transformer_engine-2.16.0+b9d690e0 "
    f"nvidia_modelopt-0.44.0rc5 transformers-5.8.1 vllm-0.20.2.dev0+g0123abcd.d20260717.cu132 {_PYTORCH['26.04']}",
    "26.08.01": f"megatron_bridge-0.6.1 megatron_core-0.19.1 transformer_engine-2.17.1+4329ff84 "
    f"nvidia_modelopt-0.46.0rc1 transformers-5.12.1 {_PYTORCH['26.06']}",
}
AUTOMODEL = {
    "25.11.00": f"nemo_automodel-0.2.0 transformers-4.57.1 transformer_engine-2.8.0 {_PYTORCH['25.09']}",
    "26.02": f"nemo_automodel-0.3.0 transformers-5.0.0 transformer_engine-2.11.0 {_PYTORCH['25.11']}",
    "26.04": f"nemo_automodel-0.4.0 transformers-5.5.0 {_PYTORCH['26.02']}",
    "26.06": f"nemo_automodel-0.5.0 transformers-5.8.1 transformer_engine-2.14.0 {_PYTORCH['26.04']}",
    "26.08.00": f"nemo_automodel-0.5.0 transformers-5.12.1 transformer_engine-2.14.1 {_PYTORCH['26.06']}",
}
RL = {
    "v0.4.0": {
        "main": "nemo_rl-0.4.0 torch-2.7.1+cu128 ray-2.46.0 transformers-4.55.4",
        "vllm": "vllm-0.10.0",
        "megatron": "megatron_bridge-0.0.0 transformer_engine-2.5.0 nvidia_modelopt-0.33.1",
    },
    "v0.5.0": {
        "main": "nemo_rl-0.5.0rc0 torch-2.9.0+cu129 ray-2.49.2 transformers-4.57.1",
        "vllm": "vllm-0.11.2",
        "megatron": "megatron_bridge-0.0.0 megatron_core-0.16.0rc0 transformer_engine-2.8.0 nvidia_modelopt-0.40.0",
    },
    "v0.6.0": {
        "main": "nemo_rl-0.6.0 torch-2.10.0+cu129 ray-2.54.0 transformers-5.3.0",
        "vllm": "vllm-0.17.1",
        "megatron": "megatron_bridge-0.0.0 transformer_engine-2.14.0+71bbefb nvidia_modelopt-0.40.0",
    },
    "v0.7.0": {
        "main": "nemo_rl-0.6.0 torch-2.11.0+cu130 ray-2.55.1 transformers-5.8.1",
        "vllm": "vllm-0.20.0",
        "megatron": "megatron_bridge-0.0.0 transformer_engine-2.15.0+42b8400 nvidia_modelopt-0.46.0.dev86+gc3b913b9c",
    },
}
CASES = [
    *(("megatron-bridge", release, "main", dists) for release, dists in BRIDGE.items()),
    *(("modelopt", release, "main", dists) for release, dists in BRIDGE.items()),
    *(("automodel", release, "main", dists) for release, dists in AUTOMODEL.items()),
    *(("nemo-rl", release, name, dists) for release, all_ in RL.items() for name, dists in all_.items()),
]


@pytest.fixture(scope="module")
def verify() -> ModuleType:
    """entrypoints/verify.py."""
    spec = importlib.util.spec_from_file_location("slipway_verify", REPO / "entrypoints" / "verify.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(library: str, release: str) -> Entry:
    return LOCK.entries[f"{library}/{release}-cuda"]


@pytest.mark.parametrize(("library", "release", "environment", "dists"), CASES, ids=lambda v: str(v)[:20])
def test_what_a_container_holds_is_what_its_entry_expects(
    verify: ModuleType, library: str, release: str, environment: str, dists: str
) -> None:
    names = [verify.DIST_INFO.fullmatch(f"{dist}.dist-info") for dist in dists.split()]
    found = {verify.normal(name["name"]): name["version"] for name in names}
    expected = entry(library, release).environments[environment].packages
    assert [
        (p, e, found.get(p)) for p, e in expected.items() if p not in found or not verify.satisfies(found[p], e)
    ] == []


def test_every_official_release_is_in_the_table() -> None:
    """But for v0.8.0, of which nobody has read more than its lock file."""
    stated = {(library, release) for library, release, *_ in CASES}
    there = {(e.library, e.release) for e in LOCK.entries.values() if e.flavour == "cuda"}
    assert there - stated == {("nemo-rl", "v0.8.0")}


def test_no_driver_of_nemo_rl_is_expected_to_have_what_only_workers_have() -> None:
    for release in (*RL, "v0.8.0"):
        main = entry("nemo-rl", release).environments["main"]
        assert set(main.packages) <= {"nemo-rl", "torch", "ray", "transformers"}
