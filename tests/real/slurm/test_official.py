"""The README's launches with GPUs on a real Slurm, over stand-ins of NVIDIA's containers, as a user types them.

From `images lock` to `launch show`: the registry, the containers and the GPUs' device files are stood in for, each
below the product; what the library's entry point received is compared with what the plan said, key by key.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import CHAT, write_chat_model

from ..official import BUILT, RELEASES
from ..support import Run, Tree
from ..test_official_runs import TEMPLATE
from .cluster import Cluster
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]
EIGHT = [str(n) for n in range(8)]
PROFILE = """\
schema: 1
kind: slurm
extends: slurm-pyxis
partition: batch
time: "0:30:00"
gpu: {{model: H100, memory: 80GiB}}
gpu_type: h100
shared: [{ground}]
hf_home: {ground}/huggingface
runs: {ground}/gpu-runs
"""
# Sizes that a model of ten weights has on sixteen processes.
BRIDGE = ("model.tensor_model_parallel_size=1", "model.sequence_parallel=false", "global_batch_size=16", "max_steps=2")


@pytest.fixture(scope="module")
def _site(slurm: Cluster, gpu_project: Tree, ground: Path) -> Iterator[Lab]:
    """The project whose images came from the registry, with a site's profile and each image as .sqsh."""
    profile = gpu_project.path / "slipway.d" / "profiles" / "slurm-pyxis.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text(PROFILE.format(ground=ground))
    for library in BUILT:
        done = gpu_project.images("squash", f"{library}/{RELEASES[library]}-cuda")
        assert done.code == 0, done
    env = gpu_project.env | slurm.env
    del env["SLIPWAY_RUNS"]
    yield Lab(slurm, dataclasses.replace(gpu_project, env=env))
    profile.unlink()


@pytest.fixture
def site(_site: Lab) -> Iterator[Lab]:
    yield _site
    _site.slurm.call("scancel", "--user=root")
    _site.tree.end_all()


@dataclasses.dataclass(frozen=True)
class Inputs:
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def rows(self, name: str, row: dict[str, Any]) -> Path:
        path = self.folder / name
        path.write_text(f"{json.dumps(row)}\n" * 64)
        return path


@pytest.fixture
def given(place: Path) -> Inputs:
    made = Inputs(place)
    write_chat_model(made.model)
    (made.model / "chat_template.jinja").write_text(TEMPLATE)
    return made


def launched(site: Lab, *words: str) -> Run:
    """`launch --profile slurm-pyxis … --follow`, ended well; and `launch show` says so."""
    done = site.launch("--profile", "slurm-pyxis", *words, "--follow")
    run = Run(site.tree.runs / done.out.splitlines()[0])
    logs = "".join(path.read_text() for path in sorted((run.path / "logs").glob("*.log")))
    assert (done.code, run.ended) == (0, (0, "step")), f"{done.err}\n{logs}"
    assert "\nstate      done\n" in site.launch("show", str(run.path)).out
    return run


def seen(folder: Path, name: str = "seen") -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


def assert_as_planned(run: Run, config: dict[str, Any]) -> None:
    """Every key that the plan sets, as the library's own entry point has read it."""
    for dotted, value in run.record["plan"]["config"]["set"]:
        found: Any = config
        for key in dotted.split("."):
            found = found[key]
        assert found == value, dotted


def asked_of_slurm(site: Lab, run: Run) -> tuple[str, str, str]:
    job = site.slurm.job(site.job(run))
    return job["NodeList"], job["NumNodes"][0], job["TresPerNode"]


def ends(site: Lab, run: Run) -> int:
    """When Slurm would have ended the job, in epoch seconds: 30 minutes after its start."""
    start = site.slurm.job(site.job(run))["StartTime"]
    return int(site.slurm.call("date", "-d", start, "+%s").out) + 30 * 60


@pytest.mark.parametrize("nodes", [1, 2])
def test_reinforcement_learning(site: Lab, given: Inputs, place: Path, nodes: int) -> None:
    rows = given.rows("math.jsonl", {"input": "2 + 2", "output": "4"})
    words = (f"policy={given.model}", f"train={rows}", f"output={place}/out", "grpo.num_generations_per_prompt=16")
    run = launched(site, "rl/grpo", *words, *(("--nodes", str(nodes)) if nodes > 1 else ()))
    where, number, gres = asked_of_slurm(site, run)
    assert (where, number, gres) == ("n[1-2]" if nodes > 1 else where, str(nodes), "gres:gpu:h100:8")
    driver, worker = seen(place / "out"), seen(place / "out", "seen-vllm")
    assert_as_planned(run, driver["config"])
    assert driver["config"]["grpo"]["num_generations_per_prompt"] == 16
    assert driver["config"]["cluster"] | {"gpus_per_node": 8, "num_nodes": nodes} == driver["config"]["cluster"]
    assert driver["gpus"] == EIGHT == worker["gpus"] and driver["environ"]["CUDA_VISIBLE_DEVICES"] == ",".join(EIGHT)
    assert worker["world_size"] == 8 * nodes
    clock = json.loads((place / "out" / "clock.json").read_text())
    left = ends(site, run) - clock["starts"]
    assert clock["starts"] < clock["training"] and 3 / 4 * left - 1 <= clock["seconds"] <= 3 / 4 * left
    (log,) = (run.path / "container" / "0" / "ray").rglob("raylet.out")
    assert "--num-gpus=8" in json.loads(log.read_text().splitlines()[0])["argv"]
    assert f"{8 * nodes} workers on {nodes} node(s), 8 GPU(s) here" in site.launch("logs", str(run.path)).out


def test_fine_tuning_on_two_nodes_after_a_conversion_on_one(site: Lab, given: Inputs, place: Path) -> None:
    """torchrun, eight processes on one node and sixteen on two."""
    launched(site, "convert/hf_to_megatron", f"model={given.model}", f"output={place}/megatron")
    rows = given.rows("chats.jsonl", CHAT)
    words = (f"train={rows}", f"model={place}/megatron", f"tokenizer={given.model}", f"output={place}/out")
    run = launched(site, "sft/megatron_bridge", *words, *BRIDGE, "--nodes", "2")
    assert asked_of_slurm(site, run) == ("n[1-2]", "2", "gres:gpu:h100:8")
    ranks = [seen(place / "out", f"seen-{rank}" if rank else "seen") for rank in range(16)]
    assert [(r["rank"], r["local_rank"], r["world_size"]) for r in ranks] == [(n, n % 8, 16) for n in range(16)]
    assert [r["host"] for r in ranks] == ["n1"] * 8 + ["n2"] * 8
    assert {tuple(r["gpus"]) for r in ranks} == {tuple(EIGHT)}
    assert len({(r["environ"]["MASTER_ADDR"], r["environ"]["MASTER_PORT"]) for r in ranks}) == 1
    assert (place / "out" / "iter_0000002" / "run_config.yaml").is_file()


def test_fine_tuning_in_one_process(site: Lab, given: Inputs, place: Path) -> None:
    """python: no torchrun for a single GPU, and of its node's eight the process sees the one that it was given."""
    rows = given.rows("chats.jsonl", CHAT)
    words = (f"train={rows}", f"model={given.model}", f"output={place}/out", "max_steps=2", "--gpus", "1")
    run = launched(site, "sft/automodel", *words)
    assert asked_of_slurm(site, run)[1:] == ("1", "gres:gpu:h100:1")
    found = seen(place / "out")
    assert_as_planned(run, found["config"])
    assert (found["world_size"], found["gpus"]) == (1, ["0"])


def test_a_model_for_megatron_is_converted_by_a_job_that_the_run_waits_for(
    site: Lab, given: Inputs, place: Path
) -> None:
    """And a warm start from the checkpoint that came of it."""
    rows = given.rows("math.jsonl", {"input": "2 + 2", "output": "4"})
    cache = ("--megatron-cache", f"{place}/cache")
    words = ("rl/grpo", f"policy={given.model}", f"train={rows}", "backend=megatron", *cache)
    size = ("policy.megatron_cfg.tensor_model_parallel_size=1", "policy.megatron_cfg.pipeline_model_parallel_size=1")
    before = site.tree.all_runs()
    run = launched(site, *words, *size, f"output={place}/out")
    made, _ = site.tree.since(before)
    assert made.record["plan"]["step"] == "convert/nemo_rl_megatron"
    assert "\nstate      done\n" in site.launch("show", str(made.path)).out
    (folder,) = (place / "cache").glob("v0.7.0-*/model_*")
    assert (folder / "slipway.json").is_file() and "unknown" not in folder.parent.name
    trained = seen(place / "out", "seen-megatron")
    assert trained["environ"]["NRL_MEGATRON_CHECKPOINT_DIR"] == "/cache/megatron" and trained["gpus"] == EIGHT
    assert_as_planned(run, seen(place / "out")["config"])
