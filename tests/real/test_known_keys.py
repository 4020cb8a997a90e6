"""Keys that the libraries in official containers do not know, over stand-ins that have the types of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import write_chat_model, write_chats
from test_checkpoints import write_megatron

from images.building import identity
from images.locking import lock as locks
from slipway.project import Root

from .official import BUILT
from .support import Tree
from .test_official_runs import BRIDGE, TEMPLATE

pytestmark = pytest.mark.real
INPUTS = {
    "rl/grpo": "policy=model train=prompts.jsonl",
    "rl/sft": "policy=model train=chats.jsonl",
    "sft/automodel": "model=model train=chats.jsonl",
    "sft/megatron_bridge": "model=megatron tokenizer=model train=chats.jsonl",
}


@pytest.mark.parametrize("library", BUILT)
def test_the_record_of_a_build_says_which_keys_the_library_takes(gpu_project: Tree, library: str) -> None:
    entry = locks.select(locks.load_lock(Root(gpu_project.path)), library, "cuda")
    record = next(r for r in identity.records(Root(gpu_project.path), entry) if r.inputs)
    said = entry.configurations
    assert said is not None and record.classes is not None and record.classes.why == {}
    assert {*record.classes.sections} == {*said.classes}
    assert {*record.classes.targets} == {*said.targets, *said.types}


def test_a_key_that_is_not_there_is_found_with_the_nearest(gpu_project: Tree, place: Path) -> None:
    model = write_chat_model(place / "model")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    write_megatron(place / "megatron")
    write_chats(place / "chats.jsonl")
    rows = [json.dumps({"input": f"{n} + 2", "output": str(n + 2)}) for n in range(64)]
    (place / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    mine = place / "mine.yaml"
    mine.write_text("policy:\n  sequence_packing:\n    enable: false\n")
    no_key = "has no such key, and nothing reads one of this name\n  did you mean"
    no_argument = "has no such argument\n  did you mean"
    cases = [
        ("rl/grpo", "grpo.mx_num_steps=3", f"GRPOConfig of nemo-rl v0.7.0 {no_key} 'max_num_steps'?"),
        ("rl/grpo", "policy.generation.vllm_cfg.gpu_memory_utilisation=0.5", f"{no_key} 'gpu_memory_utilization'?"),
        ("rl/grpo", f"-c {mine}", f"{mine}:3:5: policy.sequence_packing.enable: SequencePackingConfig of nemo-rl"),
        ("rl/sft", "checkpointing.keep_topk=3", f"{no_key} 'keep_top_k'?"),
        ("sft/automodel", "step_scheduler.mx_steps=20", f"StepSchedulerConfig of automodel 26.06 {no_argument} 'max"),
        ("sft/automodel", "checkpoint.staging_dirs=/x", f"{no_argument} 'staging_dir'?"),
        ("sft/megatron_bridge", "train.trian_iters=2", f"TrainingConfig of megatron-bridge 26.06.01 {no_argument} 't"),
        ("sft/megatron_bridge", "train.global_batch_size.x=20", "train.global_batch_size"),
    ]
    given = {
        step: [f"{w.partition('=')[0]}={place / w.partition('=')[2]}" for w in words.split()]
        for step, words in INPUTS.items()
    }
    given["sft/megatron_bridge"] += BRIDGE
    here = ("--flavour", "cuda", "--gpus", "0")
    for step, word, said in cases:
        done = gpu_project.launch("check", step, *given[step], *here, *word.split())
        assert done.code == (78 if mine.name in word else 64) and said in done.err, (word, done)
    for step, words in given.items():
        right = gpu_project.launch("check", step, *words, *here)
        assert right.code == 0, (step, right.err)
