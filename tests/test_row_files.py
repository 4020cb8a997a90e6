"""Every step that takes rows takes them in each form, or says before it runs what to do: by the command line."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import IMAGE, Engine, Project, errors, record_image, write_chat_model, write_chats
from test_checkpoints import write_megatron

from images.locking import lock as locks
from launcher.catalog import definitions

BRIDGE = "model={megatron} tokenizer={model} model.tensor_model_parallel_size=1 model.sequence_parallel=false"
ONE = "policy.dtensor_cfg.tensor_parallel_size=1 policy.dtensor_cfg.context_parallel_size=1 "
VLLM = "policy.generation.vllm_cfg.tensor_parallel_size=1 "
TEACHER = "teacher.dtensor_cfg.tensor_parallel_size=1 teacher.dtensor_cfg.context_parallel_size=1 "
JUDGED = "--procs 2 env.reward_model.resources.gpus_per_node=1 "
# Step -> its other inputs, and which rows it takes; all on the cpu flavour.
STEPS = {
    "sft/automodel": ("model={model}", "chats", "train"),
    "peft/automodel": ("model={model}", "chats", "train"),
    "sft/megatron_bridge": (BRIDGE, "chats", "train"),
    "peft/megatron_bridge": (BRIDGE, "chats", "train"),
    "data_prep/sft_packing": ("tokenizer={model}", "chats", "train"),
    "data_prep/rl_prep": ("", "prompts", "train"),
    "optimize/modelopt/quantize": ("model={model}", "chats", "calibration"),
    "optimize/modelopt/prune": ("model={model}", "chats", "calibration"),
    "optimize/modelopt/distill": ("student={model} teacher={model}", "chats", "train"),
    "rl/nemo_rl/grpo": ("policy={model}", "prompts", "train"),
    "rl/nemo_rl/dapo": (ONE + VLLM + "policy={model}", "prompts", "train"),
    "rl/nemo_rl/rlhf": (JUDGED + "policy={model} reward_model={model}", "prompts", "train"),
    "rl/nemo_rl/distillation": (ONE + TEACHER + "student={model} teacher={model}", "prompts", "train"),
    "rl/nemo_rl/dpo": ("policy={model}", "preferences", "train"),
    "rl/nemo_rl/rm": ("model={model}", "preferences", "train"),
    "rl/nemo_rl/sft": ("policy={model}", "chats", "train"),
}
ROWS = {
    "prompts": {"input": "1 + 1", "output": "2"},
    "preferences": {"prompt": "1 + 1", "chosen": "2", "rejected": "3"},
}


def zstd(text: str) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=text.encode(), capture_output=True, check=True).stdout


def write_forms(folder: Path, text: str) -> dict[str, Path]:
    """The same rows in each form -> what is typed for it."""
    for name in ("plain", "gz", "zst", "parts"):
        (folder / name).mkdir(parents=True)
    (folder / "plain" / "rows.jsonl").write_text(text)
    (folder / "gz" / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "zst" / "rows.jsonl.zst").write_bytes(zstd(text))
    (folder / "parts" / "a.jsonl").write_text(text)
    (folder / "parts" / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "parts" / "c.ndjson").write_text(text)
    (folder / "parts" / "README.md").write_text("how they were made")
    return {
        "plain": folder / "plain" / "rows.jsonl", "gz": folder / "gz" / "rows.jsonl.gz", "folder": folder / "parts",
        "pattern": folder / "parts" / "*.jsonl*", "zst": folder / "zst" / "rows.jsonl.zst",
    }  # fmt: skip


@pytest.fixture
def check(project: Project, engine: Engine, tmp_path: Path) -> Callable[[str, str], Any]:
    write_megatron(tmp_path / "megatron")
    places = {"model": write_chat_model(tmp_path / "model"), "megatron": tmp_path / "megatron"}
    chats = write_chats(tmp_path / "chats.jsonl").read_text()
    texts = {"chats": chats * 64} | {name: (json.dumps(row) + "\n") * 64 for name, row in ROWS.items()}
    lock = locks.load_lock(project.root)
    for library in ("automodel", "megatron-bridge", "modelopt", "nemo-rl"):
        record_image(project.root, locks.select(lock, library, "cpu"))
    engine.holds(images={IMAGE: IMAGE})

    def run(step: str, form: str) -> Any:
        others, rows, name = STEPS[step]
        path = write_forms(tmp_path / rows, texts[rows])[form]
        return project.launch("check", step, "--flavour", "cpu", *others.format(**places).split(), f"{name}={path}")

    return run


def test_the_table_has_every_step_that_takes_rows(project: Project) -> None:
    def takes_rows(step: definitions.Step) -> bool:
        changed = [i for release in step.releases for i in release.inputs.values()]
        types = [type_ for i in (*step.inputs.values(), *changed) for type_ in i.types or ()]
        return any("jsonl" in type_ and type_ != "text_jsonl" for type_ in types)  # texts: test_pretrain_prep

    assert {s.id for s in definitions.all_steps(project.root) if takes_rows(s)} == {*STEPS}


@pytest.mark.parametrize("form", ["plain", "gz", "folder", "pattern", "zst"])
@pytest.mark.parametrize("step", STEPS)
def test_rows_are_taken_in_this_form(check: Callable[[str, str], Any], step: str, form: str) -> None:
    done = check(step, form)
    if form == "zst":
        assert done.code == 65 and "is packed with zstd" in done.stderr, done.stderr
        assert "or pack it with gzip" in done.stderr, done.stderr
    else:
        assert done.code == 0 and errors(done.stderr).endswith("nothing stops it\n"), done.stderr
