"""nemo_rl.py: what NeMo RL asserts minutes into the job, said before it. Pure, on the catalogue's steps."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers import SpecOf
from rl import RELEASES, SECTIONS, STEPS, launch, model, rows, usual

from launcher.artifacts.nouns import Tokenizer

Told = tuple[str, str]


def errors(spec_of: SpecOf, name: str, release: str, *said: str, given: Any = None, **changes: Any) -> list[Told]:
    found = launch(spec_of, name, release, given or usual(name), *said, **changes).findings
    return [(f.where, f.what) for f in found if f.severity == "error"]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_as_it_is_shipped_fits_one_node_of_eight(spec_of: SpecOf, name: str, release: str) -> None:
    assert errors(spec_of, name, release) == []
    assert errors(spec_of, name, release, over=["default", "tiny"], procs=2 if name == "rlhf" else 1, gpus=1) == []


@pytest.mark.parametrize("name", STEPS)
def test_tiny_fits_one_process_without_cuda(spec_of: SpecOf, name: str) -> None:
    procs = 2 if name == "rlhf" else 1
    assert errors(spec_of, name, "v0.7.0", over=["default", "tiny"], flavour="cpu", procs=procs) == []


@pytest.mark.parametrize("name", STEPS)
def test_a_key_of_old_documentation_is_answered_with_the_real_one(spec_of: SpecOf, name: str) -> None:
    found = launch(spec_of, name, "v0.5.0", usual(name), "policy.dtensor_config.enabled=true").findings
    (finding,) = [f for f in found if f.severity == "error"]
    assert (finding.where, finding.code) == ("policy.dtensor_config.enabled", 64)
    assert finding.remedy == "the key is policy.dtensor_cfg.enabled"


def test_rows_of_v0_4_0_need_a_task_name(spec_of: SpecOf) -> None:
    bare = [
        rows("train", columns=["input", "output"]),
        rows("validation", columns=["input", "output"]),
        model("policy"),
    ]
    what = "nemo-rl/v0.4.0-cuda needs the column task_name in every row"
    assert errors(spec_of, "grpo", "v0.4.0", given=bare) == [
        ("train=/data/train.jsonl", what), ("validation=/data/validation.jsonl", what),
    ]  # fmt: skip
    assert errors(spec_of, "grpo", "v0.5.0", given=bare) == []


def test_ready_messages_are_prompts_from_v0_6_0_on(spec_of: SpecOf) -> None:
    given = [rows("train", "chat_jsonl"), model("policy")]
    assert "is no prompt_jsonl: found chat_jsonl" in errors(spec_of, "grpo", "v0.5.0", given=given)[0][1]
    for release in SECTIONS:
        assert errors(spec_of, "grpo", release, given=given) == []


def test_the_library_reads_one_plain_file(spec_of: SpecOf) -> None:
    whole = rows("train")
    for change in ({"kind": "folder"}, {"kind": "glob", "files": ["/a", "/b"]}, {"path": "/data/train.jsonl.gz"}):
        given = [msgspec.structs.replace(whole, **change), model("policy")]
        assert errors(spec_of, "grpo", "v0.7.0", given=given)[0][1] == "has to be one plain .jsonl file"


def test_a_data_set_of_the_hub_is_warned_of(spec_of: SpecOf) -> None:
    for said, name in (((), "the one of the base configuration"), (("dataset=gsm8k",), "gsm8k")):
        (found,) = launch(spec_of, "grpo", "v0.7.0", [model("policy")], *said).findings
        assert (found.severity, found.where) == ("warning", "dataset=") and f"({name})" in found.what


@pytest.mark.parametrize(
    ("said", "shape", "told"),
    [
        ((), {"nodes": 1}, ("generation_gpus", "some of the 8 GPUs of the node: from 1 to 7, not None")),
        (("gpus_per_node=8",), {"nodes": 1}, ("generation_gpus", "from 1 to 7, not 8")),
        (("gpus_per_node=4",), {"nodes": 1}, None),
        (("gpus_per_node=8",), {"nodes": 4}, ("generation_nodes", "some of the 4 nodes: from 1 to 3, not None")),
        (("num_nodes=4", "gpus_per_node=8"), {"nodes": 4}, ("generation_nodes", "from 1 to 3, not 4")),
        (("num_nodes=2",), {"nodes": 4}, ("generation_gpus", "takes whole nodes: 8 GPUs of each")),
        (("num_nodes=2", "gpus_per_node=8"), {"nodes": 4}, None),
    ],
)  # fmt: skip
def test_generation_apart_gets_its_share_of_the_cluster(
    spec_of: SpecOf, said: tuple[str, ...], shape: dict[str, int], told: Told | None
) -> None:
    below = "policy.generation.colocated"
    words = [f"{below}.enabled=false", *(f"{below}.resources.{word}" for word in said)]
    found = errors(spec_of, "grpo", "v0.6.0", *words, **shape)
    keys = {"generation_gpus": "gpus_per_node", "generation_nodes": "num_nodes"}
    assert [w for w, _ in found] == ([f"{below}.resources.{keys[told[0]]}"] if told else [])
    assert not told or told[1] in found[0][1]


def test_a_reward_model_takes_gpus_of_the_one_node(spec_of: SpecOf) -> None:
    whole = "env.reward_model.resources.gpus_per_node=8"
    assert errors(spec_of, "rlhf", "v0.7.0", whole) == [("shape", "the reward model leaves 1 x 0 for training")]
    seven = "env.reward_model.resources.gpus_per_node=1"
    what = "is no multiple of 7 (7 data parallel processes)"
    assert errors(spec_of, "rlhf", "v0.7.0", seven) == [("global_batch_size=512", what)]
    assert errors(spec_of, "rlhf", "v0.7.0", nodes=5) == []  # and a node of its own where there are more


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        ("grpo", ("prompts_per_step=30",),
         ("global_batch_size=512", "does not divide the 480 samples of a step (30 prompts x 16 generations)")),
        ("grpo", ("prompts_per_step=64",), None),
        ("grpo", ("global_batch_size=100",),
         ("global_batch_size=100", "does not divide the 512 samples of a step (32 prompts x 16 generations)")),
        ("dpo", ("global_batch_size=12",),
         ("global_batch_size=12", "is no multiple of 16 (8 data parallel processes x their batch)")),
        ("dpo", ("global_batch_size=16",), None),
        ("sft", ("backend=megatron", "global_batch_size=4"),
         ("global_batch_size=4", "is no multiple of 8 (8 data parallel processes)")),
        ("grpo", ("policy.dtensor_cfg.tensor_parallel_size=3",),
         ("shape", "8 GPUs that train cannot be shared by tensor 3 x pipeline 1 x context 1 = 3")),
        ("grpo", ("max_new_tokens=513",),
         ("max_new_tokens=513", "is more than a whole sequence may have (seq_length=512)")),
    ],
)  # fmt: skip
def test_batches_and_lengths(spec_of: SpecOf, name: str, said: tuple[str, ...], told: Told | None) -> None:
    found = errors(spec_of, name, "v0.7.0", *said)
    assert found[:1] == ([told] if told else [])


def test_dtensor_does_not_read_a_megatron_checkpoint(spec_of: SpecOf) -> None:
    given = [rows("train"), model("policy", "checkpoint_megatron"), model("config")]
    told = [("policy=/data/policy", "backend dtensor does not read a checkpoint_megatron")]
    assert errors(spec_of, "grpo", "v0.7.0", given=given) == told
    assert errors(spec_of, "grpo", "v0.7.0", "backend=megatron", given=given) == []
    bare = errors(spec_of, "grpo", "v0.7.0", "backend=megatron", given=given[:2])
    assert bare[0][0] == "config=" and "policy.model_name" in bare[0][1]


def test_rows_need_a_chat_template(spec_of: SpecOf) -> None:
    bare = msgspec.structs.replace(model("policy"), tokenizer=Tokenizer(vocabulary="a" * 64))
    for name in ("grpo", "sft", "dpo"):
        given = [*usual(name)[:2], bare]
        kind = {"grpo": "prompts", "sft": "conversations", "dpo": "preferences"}[name]
        what = f"has no chat template, by which rl/nemo_rl/{name} renders {kind}: a base model has none"
        assert errors(spec_of, name, "v0.7.0", given=given) == [("policy=/data/policy", what)]
        assert errors(spec_of, name, "v0.7.0", "chat_template=/inputs/x.jinja", given=given) == []


def test_a_teacher_speaks_with_the_students_tokenizer(spec_of: SpecOf) -> None:
    other = msgspec.structs.replace(model("teacher"), tokenizer=Tokenizer(vocabulary="e" * 64, template="b" * 64))
    given = [rows("train"), model("student"), other]
    told = errors(spec_of, "distillation", "v0.7.0", given=given)
    assert told == [("teacher=/data/teacher", "has another tokenizer than student=/data/student")]


def test_other_steps_are_left_alone(spec_of: SpecOf) -> None:
    given = [rows("train")]
    assert launch(spec_of, "data_prep/rl_prep", "v0.7.0", given, procs=1, gpus=0).told == []


@pytest.mark.parametrize(
    "key",
    [
        "policy.generation.colocated.resources.gpus_per_node", "policy.generation.colocated.resources.num_nodes",
        "policy.generation.max_new_tokens", "grpo.num_prompts_per_step", "grpo.num_generations_per_prompt",
        "policy.logprob_batch_size",
    ],
)  # fmt: skip
def test_a_word_where_a_number_has_to_be_is_no_traceback(spec_of: SpecOf, key: str) -> None:
    for more in ((), ("policy.generation.colocated.enabled=false",)):
        found = launch(spec_of, "grpo", "v0.7.0", usual("grpo"), f"{key}=words", *more).findings
        assert isinstance(found, list)
