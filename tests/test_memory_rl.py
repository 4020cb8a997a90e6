"""memory_rl.py: phases of reinforcement learning, what generation needs, and what a launch says of both."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import rl
from helpers import SpecOf
from test_memory import LLAMA_1B, LLAMA_8B, QWEN_30B_A3B

from launcher.catalog.profiles import Gpu, Profile
from launcher.planning import configuration
from launcher.planning.checks import memory, memory_rl
from launcher.planning.checks.memory import GIB, Layout, Model
from launcher.planning.checks.memory_rl import Engine, Reward, Run

MEMORY = 80 * GIB
DTENSOR: dict[str, Any] = {"bytes": (4, 4, 8), "sharding": 3}
MEGATRON: dict[str, Any] = {"bytes": (2, 2, 12), "sharding": 1}
ENGINE = Engine(share=0.6, tensor=1, pipeline=1, sequence=4096)


def run(model: Model, spread: Layout, **changes: Any) -> Run:
    facts: dict[str, Any] = {"logprob_batch": 1, "logits": True, "engine": ENGINE, "teacher": None}
    return Run(model=model, layout=spread, **(facts | changes))


def facts_of(model: Model) -> dict[str, Any]:
    return {f: getattr(model, f) for f in Model.__struct_fields__ if f != "parameters" and getattr(model, f)}


@pytest.fixture
def h100(profile: Profile) -> Profile:
    return msgspec.structs.replace(profile, gpu=Gpu(model="H100", memory="80GiB"))


def start(spec_of: SpecOf, profile: Profile, name: str, release: str, *said: str, **changes: Any) -> rl.Launch:
    sized = {a.name: facts_of(changes.pop(a.name, LLAMA_1B)) for a in rl.usual(name) if a.type == "checkpoint_hf"}
    given = [rl.model(a.name, **sized[a.name]) if a.name in sized else a for a in rl.usual(name)]
    return rl.launch(spec_of, name, release, given, *said, profile=profile, **changes)


def told(found: rl.Launch) -> str:
    (line,) = memory_rl.notes(found.spec, found.seen)
    return line


def of_memory(found: rl.Launch) -> list[tuple[str, str, str]]:
    return [(f.severity, f.what, f.remedy) for f in memory_rl.check(found.spec, found.seen)]


def test_one_gpu_holds_the_largest_phase_not_their_sum() -> None:
    spread = Layout(world=8, micro=1, sequence=4096, tensor=4, **MEGATRON)
    every = memory_rl.phases(run(LLAMA_8B, spread), spread)
    assert list(every) == ["training", "logprobs", "refit"]
    sums = [sum(terms.values()) for terms in every.values()]
    assert memory_rl.most(run(LLAMA_8B, spread), spread) == max(sums) < sum(sums)


def test_weights_that_train_and_weights_that_generate_meet_in_the_refit_alone() -> None:
    spread = Layout(world=8, micro=1, sequence=512, **DTENSOR)
    together = memory_rl.phases(run(LLAMA_8B, spread), spread)
    assert together["refit"]["engine"] == 2 * LLAMA_8B.total
    assert "optimizer" not in together["logprobs"], "it is on the CPU"
    apart = run(LLAMA_8B, spread, engine=msgspec.structs.replace(ENGINE, colocated=False))
    assert "refit" not in memory_rl.phases(apart, spread)
    assert memory_rl.phases(apart, spread)["logprobs"]["optimizer"] == together["training"]["optimizer"]


def test_the_loss_has_three_times_the_logits_in_fp32_and_a_reward_model_none() -> None:
    spread = Layout(world=8, micro=2, sequence=1024, tensor=2, **DTENSOR)
    logits = 2 * 1024 * LLAMA_8B.vocab / 2
    with_logits = memory_rl.phases(run(LLAMA_8B, spread), spread)["training"]
    assert with_logits["logits"] == 12 * logits
    without = memory_rl.phases(run(LLAMA_8B, spread, logits=False), spread)["training"]
    counted = memory.estimate(LLAMA_8B, spread)["activations"]
    assert "logits" not in without and without["activations"] == counted - 4 * logits == with_logits["activations"]


def test_an_engine_holds_its_weights_and_one_sequence() -> None:
    """8.03B weights of 2 bytes; 2 x 2 bytes x 8 heads x 128 a token and layer, so 128 KiB a token of Llama 3 8B."""
    needs = ENGINE.needs(LLAMA_8B)
    assert needs["weights"] == 2 * LLAMA_8B.total and needs["one sequence"] == 4096 * 128 * 1024
    halved = msgspec.structs.replace(ENGINE, tensor=2).needs(LLAMA_8B)
    assert halved == {name: size / 2 for name, size in needs.items()}
    many = msgspec.structs.replace(ENGINE, tensor=16).needs(LLAMA_8B)
    assert many["one sequence"] == needs["one sequence"] / 8, "a GPU has one head of keys at least"


@pytest.mark.parametrize(
    ("model", "spread", "engine", "fits"),
    [
        (LLAMA_8B, Layout(world=8, micro=1, sequence=4096, **DTENSOR), ENGINE, True),
        (LLAMA_8B, Layout(world=1, micro=1, sequence=512, **DTENSOR), ENGINE, False),
        (QWEN_30B_A3B, Layout(world=8, micro=1, sequence=4096, tensor=4, expert=8, recompute=True, **MEGATRON),
         msgspec.structs.replace(ENGINE, tensor=2), True),
        (QWEN_30B_A3B, Layout(world=4, micro=1, sequence=4096, tensor=4, expert=4, recompute=True, **MEGATRON),
         msgspec.structs.replace(ENGINE, tensor=2), False),
    ],
)  # fmt: skip
def test_it_agrees_with_the_least_number_of_gpus_that_is_known(
    model: Model, spread: Layout, engine: Engine, fits: bool
) -> None:
    """8 for 30B-A3B, as for training without generation; 7B and 8B start from 8 in NeMo RL's own recipes."""
    part = memory_rl.most(run(model, spread, engine=engine), spread) / MEMORY
    assert part < 1 if fits else part >= memory.REFUSE


@pytest.mark.parametrize("release", rl.RELEASES)
@pytest.mark.parametrize("name", rl.STEPS)
def test_every_step_is_estimated_at_every_release(spec_of: SpecOf, h100: Profile, name: str, release: str) -> None:
    for backend in ("dtensor", "megatron"):
        found = start(spec_of, h100, name, release, f"backend={backend}", nodes=2 if name in ("dapo", "rlhf") else 1)
        said = [*memory_rl.notes(found.spec, found.seen), *(what for _, what, _ in of_memory(found))]
        judges = [text for text in said if "the reward model: about" in text]
        said = [text for text in said if text not in judges]
        assert len(said) == 1 and "most in training" in said[0], said
        assert len(judges) == (name == "rlhf")
        assert ("generation" in said[0]) == (name in ("grpo", "dapo", "distillation", "rlhf"))
        assert ("teacher" in said[0]) == (name == "distillation")


def test_a_preference_is_two_sequences(spec_of: SpecOf, h100: Profile) -> None:
    found = start(spec_of, h100, "dpo", "v0.7.0", "seq_length=1024", "micro_batch_size=2")
    estimated = memory_rl.run_of(found.spec, found.seen)
    assert estimated and estimated.layout.micro * estimated.layout.sequence == 2 * 2 * 1024


def test_generation_apart_leaves_fewer_gpus_to_train(spec_of: SpecOf, h100: Profile) -> None:
    key = "policy.generation.colocated"
    found = start(spec_of, h100, "grpo", "v0.7.0", f"{key}.enabled=false", f"{key}.resources.gpus_per_node=2")
    line = told(found)
    assert line.endswith("GPUs that train: 6") and "generation 48.0 on its own GPUs (needs weights 2.3" in line
    assert "refit" not in line


def test_a_share_that_holds_no_sequence_is_an_error(spec_of: SpecOf, h100: Profile) -> None:
    key = "policy.generation.vllm_cfg.gpu_memory_utilization"
    found = start(spec_of, h100, "grpo", "v0.7.0", f"{key}=0.15", policy=LLAMA_8B)
    ((severity, what, remedy),) = of_memory(found)
    assert severity == "error" and what.startswith("leaves generation 12.0 GiB a GPU; it needs weights 15.0, one seq")
    assert remedy == "raise it, or policy.generation.vllm_cfg.tensor_parallel_size"


def test_too_much_is_said_with_what_would_fit(spec_of: SpecOf, h100: Profile) -> None:
    found = start(spec_of, h100, "grpo", "v0.7.0", "seq_length=4096", policy=LLAMA_8B)
    ((severity, what, remedy),) = of_memory(found)
    assert severity == "error" and what.startswith("about 108.3 of 80 GiB a GPU, most in training (weights 5.4, grad")
    assert remedy == "would fit: micro_batch_size=1"
    smaller = start(spec_of, h100, "grpo", "v0.7.0", "seq_length=4096", "micro_batch_size=1", policy=LLAMA_8B)
    assert of_memory(smaller) == []


@pytest.mark.parametrize("name", ["grpo", "rlhf"])
@pytest.mark.parametrize(
    "said",
    [
        "policy.dtensor_cfg.cpu_offload=true", "policy.dtensor_cfg.lora_cfg.enabled=true",
        "policy.megatron_cfg.optimizer.optimizer_cpu_offload=true", "policy.megatron_cfg.peft.enabled=true",
    ],
)  # fmt: skip
def test_with_offload_or_lora_only_a_reward_model_is_estimated(
    spec_of: SpecOf, h100: Profile, said: str, name: str
) -> None:
    backend = "megatron" if "megatron" in said else "dtensor"
    found = start(spec_of, h100, name, "v0.7.0", f"backend={backend}", said)
    assert memory_rl.run_of(found.spec, found.seen) is None and of_memory(found) == []
    first, *judges = memory_rl.notes(found.spec, found.seen)
    assert first == f"note: memory: not estimated with {said}"
    assert [line.startswith("note: memory: the reward model: about ") for line in judges] == [True] * (name == "rlhf")


def test_of_what_is_unknown_nothing_is_estimated(spec_of: SpecOf, h100: Profile) -> None:
    found = start(spec_of, h100, "grpo", "v0.7.0", "policy.train_micro_batch_size=null")
    assert memory_rl.run_of(found.spec, found.seen) is None
    unknown = "note: memory: not estimated, since nothing here says "
    assert memory_rl.notes(found.spec, found.seen) == [f"{unknown}policy.train_micro_batch_size"]
    both = start(
        spec_of, h100, "grpo", "v0.7.0", "policy.dtensor_cfg.enabled=false", "policy.megatron_cfg.enabled=false"
    )
    assert memory_rl.notes(both.spec, both.seen) == [
        f"{unknown}policy.dtensor_cfg.enabled, policy.megatron_cfg.enabled"
    ]


JUDGE = Layout(world=4, micro=4, sequence=512, bytes=(4, 0, 0), sharding=3)


def test_a_reward_model_is_sharded_in_fp32_and_gathered_in_its_precision() -> None:
    """Llama 3 8B as a judge: no head for words, so 128,256 x 4,096 weights fewer; 218,112,000 in a layer."""
    model = msgspec.structs.replace(LLAMA_8B, tied=1)
    terms = Reward(model=model, layout=JUDGE, width=2, whole=False).terms()
    assert terms["weights"] == 7_504_924_672 and model.total == 7_504_924_672
    assert terms["gathered"] == pytest.approx(2 * (128_256 * 4096 + 2 * 218_112_000), rel=1e-4)
    first = Reward(model=model, layout=JUDGE, width=2, whole=True).terms()
    assert first["gathered"] == 2 * model.total, "DTensor's first worker has all layers at once"
    wide = Reward(model=model, layout=JUDGE, width=4, whole=False).terms()
    assert [wide[n] / terms[n] for n in terms] == [1, 2, 2]


def test_a_forward_pass_holds_one_layer_and_no_logits() -> None:
    """Half a training step's layer of 32; its 16-bit logits would be 2 x 4 x 512 x 128,256 bytes more."""
    judge = Reward(model=LLAMA_8B, layout=JUDGE, width=2, whole=False)
    layers, vocab = LLAMA_8B.layers, LLAMA_8B.vocab
    kept = memory.activations(LLAMA_8B, JUDGE) - 4 * 4 * 512 * (LLAMA_8B.hidden + vocab)
    assert judge.terms()["activations"] == kept / layers + 4 * 4 * 512 * (LLAMA_8B.hidden + 1)


@pytest.mark.parametrize("release", rl.RELEASES)
def test_a_reward_model_takes_the_gpus_batch_and_precision_of_its_own_keys(
    spec_of: SpecOf, h100: Profile, release: str
) -> None:
    found = start(spec_of, h100, "rlhf", release, "micro_batch_size=3")
    reward = memory_rl.reward_of(found.spec, found.seen)
    assert reward and (reward.layout.world, reward.layout.micro, reward.width, reward.whole) == (4, 3, 2, False)
    key = "env.reward_model"
    said = ("batch_size=5", "precision=float32", "resources.gpus_per_node=6", "dtensor_cfg.tensor_parallel_size=2")
    other = start(spec_of, h100, "rlhf", release, *(f"{key}.{s}" for s in said), f"{key}.dtensor_cfg._v2=false")
    reward = memory_rl.reward_of(other.spec, other.seen)
    assert reward and (reward.layout.world, reward.layout.micro, reward.width, reward.whole) == (6, 5, 4, True)
    assert reward.layout.tensor == 2


@pytest.mark.parametrize("said", ["precision=fp8", "batch_size=null", "dtensor_cfg.tensor_parallel_size=3"])
def test_of_a_reward_model_that_is_unknown_nothing_is_estimated(spec_of: SpecOf, h100: Profile, said: str) -> None:
    found = start(spec_of, h100, "rlhf", "v0.7.0", f"env.reward_model.{said}")
    assert memory_rl.reward_of(found.spec, found.seen) is None
    assert "most in training" in told(found), "what trains is known"


def test_a_reward_model_that_does_not_fit_is_said_with_what_would(spec_of: SpecOf, h100: Profile) -> None:
    key, big = "env.reward_model", QWEN_30B_A3B
    found = start(spec_of, h100, "rlhf", "v0.7.0", f"{key}.resources.gpus_per_node=1", reward_model=big)
    ((severity, what, remedy),) = of_memory(found)
    assert severity == "error" and what.startswith("the reward model: about 11") and what.endswith("its own GPUs: 1")
    assert remedy.startswith("give it more GPUs: env.reward_model.resources.gpus_per_node, ")
    many = start(spec_of, h100, "rlhf", "v0.7.0", f"{key}.batch_size=4096", reward_model=LLAMA_8B)
    ((_, _, remedy),) = of_memory(many)
    assert remedy == "would fit: env.reward_model.batch_size=1"
    fits = start(spec_of, h100, "rlhf", "v0.7.0", f"{key}.resources.gpus_per_node=4", reward_model=big)
    assert of_memory(fits) == [] and "its own GPUs: 4" in memory_rl.notes(fits.spec, fits.seen)[1]


@pytest.mark.parametrize("said", ["policy.generation.backend=sglang", "policy.generation.vllm_cfg.precision=fp8"])
def test_another_engine_is_unknown_and_a_narrow_one_takes_half(spec_of: SpecOf, h100: Profile, said: str) -> None:
    line = told(start(spec_of, h100, "grpo", "v0.7.0", said))
    assert ("generation" not in line) if "sglang" in said else ("needs weights 1.2" in line)


@pytest.mark.parametrize("value", [None, 0, -1, 1.5, True, "words", "${no.such.key}", [1], {"a": 1}, 16, 10**30])
@pytest.mark.parametrize("name", ["grpo", "distillation", "rlhf"])
def test_no_value_of_a_configuration_makes_it_fail(spec_of: SpecOf, h100: Profile, name: str, value: Any) -> None:
    wished = start(spec_of, h100, name, "v0.7.0")
    for key in wished.spec.step.roles.values():
        over: Any = value
        for part in reversed(key.split(".")):
            over = {part: over}
        spec = msgspec.structs.replace(wished.spec, overlays=[*wished.spec.overlays, ("mine", over)])
        spec = configuration.resolved(spec, {})
        assert isinstance(memory_rl.check(spec, wished.seen), list)
        assert isinstance(memory_rl.notes(spec, wished.seen), list)
