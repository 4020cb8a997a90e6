"""Launches over stand-ins of NVIDIA's containers, without GPUs: as any user, and on a root that nobody can write."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import write_chat_model, write_chats

from .support import Planned, Proxy, Run, Tree
from .test_any_user import BECOME, GID, ROOT, UID
from .test_official import MEGATRON, VLLM

pytestmark = pytest.mark.real
READ_ONLY: dict[str, Any] = {"ReadonlyRootfs": True, "Tmpfs": {"/tmp": "mode=1777"}}
ONE = ("--flavour", "cuda", "--gpus", "0")
TEMPLATE = "{% generation %}{{ messages }}{% endgeneration %}"  # what Megatron-Bridge before 0.6 asks for
AUTOMODEL = ("dist_env.backend=gloo", "max_steps=2")
BRIDGE = ("dist.distributed_backend=gloo", "model.tensor_model_parallel_size=1", "model.sequence_parallel=false",
          "global_batch_size=1", "max_steps=2")  # fmt: skip


@dataclass(frozen=True)
class Caller:
    """A user whom the images do not know, with inputs, who may talk to the engine."""

    tree: Tree
    folder: Path

    def input(self, name: str) -> str:
        return str(self.folder / "inputs" / name)

    def launch(self, *words: str, output: str) -> Run:
        """A run that has ended well."""
        done = self.tree.launch(*words, f"output={self.folder}/home/{output}", *ONE)
        assert done.code == 0, done
        return self.tree.run_of(done)

    def plan(self, *words: str, output: str) -> Planned:
        folder = self.folder / "home" / f"{output}.plan"
        done = self.tree.launch(*words, f"output={self.folder}/home/{output}", *ONE, "-o", str(folder))
        assert done.code == 0, done
        return Planned(folder)

    def seen(self, output: str, name: str = "seen") -> dict[str, Any]:
        """What a process of the library has written down."""
        return dict(json.loads((self.folder / "home" / output / f"{name}.json").read_text()))


@pytest.fixture
def caller(gpu_project: Tree, place: Path, proxy: Proxy) -> Iterator[Caller]:
    home = place / "home"
    home.mkdir()
    model = write_chat_model(place / "inputs" / "model")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    write_chats(place / "inputs" / "chats.jsonl")
    rows = [json.dumps({"input": f"{n} + 2", "output": str(n + 2)}) for n in range(64)]
    (place / "inputs" / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    if ROOT:
        os.chown(home, UID, GID)
    env = gpu_project.env | {"HOME": str(home), "SLIPWAY_RUNS": str(home / "runs"), "DOCKER_HOST": proxy.url}
    del env["HF_HOME"]
    tree = dataclasses.replace(gpu_project, runs=home / "runs", env=env, prefix=BECOME if ROOT else [])
    yield Caller(tree, place)
    tree.end_all()


def test_reinforcement_learning(caller: Caller) -> None:
    """Its driver and every worker, each with the interpreter of its own environment below /root."""
    words = ("rl/grpo", f"policy={caller.input('model')}", f"train={caller.input('prompts.jsonl')}")
    done = caller.plan(*words, output="out").run(caller.tree.docker, **READ_ONLY)
    assert done.code == 0, done.out
    driver, worker = caller.seen("out"), caller.seen("out", "seen-vllm")
    assert (driver["uid"], worker["uid"]) == (UID, UID)
    assert worker["executable"] == f"{VLLM}/bin/python"
    assert driver["argv"] == ["/opt/nemo-rl/examples/run_grpo.py", "--config", "/run/slipway/config.yaml"]
    assert driver["environ"]["PYTHONPATH"] == "/opt/nemo-rl" == driver["cwd"]
    assert driver["config"]["policy"]["model_name"].startswith("/inputs/policy-")
    assert (caller.folder / "home" / "out" / "step_2" / "policy" / "weights" / "__0_0.distcp").is_file()


def test_fine_tuning_with_automodel(caller: Caller) -> None:
    words = ("sft/automodel", f"train={caller.input('chats.jsonl')}", f"model={caller.input('model')}", *AUTOMODEL)
    done = caller.plan(*words, output="out").run(caller.tree.docker, **READ_ONLY)
    assert done.code == 0, done.out
    seen = caller.seen("out")
    assert (seen["uid"], seen["executable"], seen["world_size"]) == (UID, "/opt/venv/bin/python", 1)
    assert seen["config"]["checkpoint"]["save_consolidated"] is True
    assert (caller.folder / "home" / "out" / "epoch_0_step_1" / "model" / "consolidated" / "config.json").is_file()


def test_conversion_and_fine_tuning_with_megatron_bridge(caller: Caller) -> None:
    """Its folders were 0644, and it calls `make` before it reads data."""
    model = caller.input("model")
    made = caller.launch("convert/hf_to_megatron", f"model={model}", output="megatron")
    assert made.outcome["checkpoint"] == str(caller.folder / "home" / "megatron")
    words = ("sft/megatron_bridge", f"train={caller.input('chats.jsonl')}", f"model={caller.folder}/home/megatron")
    done = caller.plan(*words, f"tokenizer={model}", *BRIDGE, output="out").run(caller.tree.docker, **READ_ONLY)
    assert done.code == 0, done.out
    assert caller.seen("out")["uid"] == UID
    assert (caller.folder / "home" / "out" / "iter_0000002" / "run_config.yaml").is_file()


def test_megatrons_weights_are_converted_by_the_environment_that_has_bridge(caller: Caller) -> None:
    model = caller.input("model")
    caller.launch("convert/hf_to_megatron", f"model={model}", output="megatron")
    words = (f"policy={caller.folder}/home/megatron", f"config={model}", f"train={caller.input('prompts.jsonl')}")
    size = "policy.megatron_cfg.tensor_model_parallel_size=1"
    trained = caller.launch("rl/grpo", *words, "backend=megatron", size, output="trained")
    assert caller.seen("trained", "seen-megatron")["executable"] == f"{MEGATRON}/bin/python"
    source = Path(trained.outcome["checkpoint"])
    done = caller.launch("convert/nemo_rl_to_hf", f"model={source}", f"config={model}", output="out")
    assert caller.seen("out")["executable"] == f"{MEGATRON}/bin/python"
    assert done.record["outcome"]["checkpoint"] == str(caller.folder / "home" / "out")


@pytest.mark.parametrize(
    ("hidden", "said"),
    [
        ("/root/.cache/uv", "is linked to /root/.cache/uv/archive-v0/"),
        ("/root", "/opt/nemo_rl_venv/bin/python: leads to /root/.local/share/uv/python/"),
    ],
)
def test_what_is_mounted_over_the_images_packages_is_named(caller: Caller, hidden: str, said: str) -> None:
    """By other means than a profile, whose mounts are refused before: a site's hook, or a home."""
    words = ("rl/grpo", f"policy={caller.input('model')}", f"train={caller.input('prompts.jsonl')}")
    planned = caller.plan(*words, output="out")
    done = planned.run(caller.tree.docker, Tmpfs={hidden: "mode=0755"})
    assert done.code == 78 and said in planned.status["reason"], done.out
    assert "a home on /root" in planned.status["reason"]


def test_a_profile_that_hides_them_is_refused(caller: Caller) -> None:
    folder = caller.folder / "home" / ".config" / "slipway" / "profiles"
    folder.mkdir(parents=True)
    mount = f"{{source: {caller.folder}/inputs, target: /root/.cache}}"
    (folder / "site.yaml").write_text(f"schema: 1\nkind: docker\nextends: docker\nmounts: [{mount}]\n")
    subprocess.run(["chmod", "-R", "a+rX", str(caller.folder / "home" / ".config")], check=True)
    words = (f"policy={caller.input('model')}", f"train={caller.input('prompts.jsonl')}")
    done = caller.tree.launch("--profile", "site", "rl/grpo", *words, *ONE)
    assert done.code == 78 and "mounts: /root/.cache hides /root/.cache, where nemo-rl/v0.7.0-cuda has" in done.err
    assert caller.tree.all_runs() == []
