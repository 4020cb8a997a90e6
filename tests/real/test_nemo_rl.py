"""NeMo RL's own scripts through `launch`, in its cpu image: they train, save, go on, and what they save is converted.

Skipped but where NEMO_RL_SOURCE names NeMo RL's source (see nemo_rl/site.py). Models are tiny and their rewards are
chance: what is shown is that configuration, data, Ray, rollouts, the refit of vLLM, losses and checkpoints hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import log
from pathlib import Path

import pytest

from .nemo_rl.site import HERE, Mill, milled, numbers
from .support import Run, Tree

pytestmark = pytest.mark.real
CPU = ("--flavour", "cpu", "-c", "tiny")


@pytest.fixture(scope="module")
def mill(project: Tree, ground: Path, address: str) -> Iterator[Mill]:
    made = milled(project, ground, address)
    yield made
    made.tree.end_all()


@pytest.fixture(scope="module")
def policy(mill: Mill, ground: Path) -> Run:
    """GRPO's three steps."""
    words = ("rl/grpo", *CPU, f"policy={mill.model}", *mill.rows("prompts"))
    return mill.run(*words, f"output={ground / 'policy'}")


def test_vllms_kernels_load_in_the_image(_pier: Tree) -> None:
    """Which needs no source of NeMo RL: libraries that no wheel brings are there.

    vLLM chooses among its kernels by the processor's instructions, and only warns where they do not load.
    """
    load = (
        "import torch; from vllm.platforms import current_platform as cpu; cpu.import_kernels(); torch.ops._C.rms_norm"
    )
    done = _pier.images("run", "nemo-rl", "--flavour", "cpu", "--", "python", "-c", load)
    assert done.code == 0, done


def checkpoint(run: Run) -> Path:
    """What a run has left last, where it lies on this machine."""
    assert run.outcome["result"]["type"] == "checkpoint_nemo_rl"
    return Path(run.outcome["checkpoint"])


def test_fine_tuning_saves_and_goes_on(mill: Mill, place: Path) -> None:
    words = ("rl/sft", *CPU, f"policy={mill.model}", *mill.rows("chats"), f"output={place}/out", "learning_rate=0.01")
    first = mill.run(*words)
    assert first.log.count("slipway: no CUDA device: nemo-rl runs with substitutions") == 1
    assert len(numbers(first.log, "Loss")) == 2
    assert checkpoint(first) == place / "out" / "step_2"
    again = mill.run("--resume", *words, "max_steps=4")
    assert "Step 1/4" not in again.log and "Step 3/4" in again.log
    assert "Loading optimizer from /output/step_2/policy/optimizer" in again.log
    assert checkpoint(again) == place / "out" / "step_4"
    losses = numbers(first.log, "Loss") + numbers(again.log, "Loss")
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.5, losses
    info = json.loads((place / "out" / "step_4" / "training_info.json").read_text())
    assert (info["total_steps"], info["consumed_samples"]) == (4, 16)


def test_a_policy_is_rewarded_for_what_vllm_generates_with_its_weights(policy: Run) -> None:
    assert len(numbers(policy.log, "Loss")) == 3
    assert max(numbers(policy.log, "Avg Reward")) > 0  # by MathEnvironment
    # vLLM starts with random weights: that both give a token the same probability shows that it got the trainer's.
    assert numbers(policy.log, "Generation KL Error") == [0.0] * 3
    assert len(numbers(policy.log, "Accuracy")) == 1
    assert checkpoint(policy).name == "step_3"


def test_a_policy_becomes_a_checkpoint_that_transformers_loads(mill: Mill, policy: Run, place: Path) -> None:
    words = ("convert/nemo_rl_to_hf", *CPU, f"model={checkpoint(policy).parent}", f"config={mill.model}")
    made = mill.run(*words, f"output={place / 'hf'}")
    assert made.outcome["result"]["step"] == "step_3"
    checked = mill.launch("check", "--full", str(place / "hf"))
    assert checked.code == 0 and f"{place / 'hf'}: checkpoint_hf" in checked.out, checked
    folders = [w for p in (place, mill.math, HERE) for w in ("--mount", str(p))]
    program = ("python", str(HERE / "compare.py"), str(mill.model), str(place / "hf"))
    compared = mill.tree.images("run", "nemo-rl", "--flavour", "cpu", *folders, "--", *program)
    assert compared.code == 0, compared
    found = json.loads(compared.out)
    assert all(0 < apart < 0.1 for apart in found["apart"].values()), found  # three steps of 2e-3
    assert found["said"].startswith("1+2=\n")


def test_preferences_are_learned_from_where_nothing_is_preferred_yet(mill: Mill, place: Path) -> None:
    words = ("rl/dpo", *CPU, f"policy={mill.model}", *mill.rows("preferences"))
    run = mill.run(*words, f"output={place / 'out'}")
    losses = numbers(run.log, "loss")
    assert len(losses) == 2 and losses[0] == pytest.approx(log(2), abs=1e-3)  # the policy is its own reference
    assert checkpoint(run).name == "step_2"


def test_a_reward_model_starts_from_chance(mill: Mill, place: Path) -> None:
    words = ("rl/rm", *CPU, f"model={mill.model}", *mill.rows("preferences"))
    run = mill.run(*words, f"output={place / 'out'}")
    losses = numbers(run.log, "loss")
    assert len(losses) == 2 and all(loss == pytest.approx(log(2), abs=0.2) for loss in losses)
    assert checkpoint(run).name == "step_2"
