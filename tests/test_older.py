"""Plans and records of older schemas are read as this version would have written them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import HERE, SpecOf, record_of, seen_of, write_chats, write_checkpoint
from test_binidx import write_tokens
from test_checkpoints import LORA, files, write_adapter, write_megatron, write_nemo_rl

from launcher.artifacts import detection
from launcher.artifacts.datasets import Rows
from launcher.artifacts.detection import Artifact
from launcher.core.plan import Plan
from launcher.planning.planner import make_plan
from launcher.records import older
from launcher.records.run_directory import Record, Run
from slipway.inbox import Damaged

FIRST = HERE / "data" / "inputs-schema-1.json"  # what version 645fc42 found in `brought`, at /brought
ROW = {"input": "2 + 2", "output": "4", "task_name": "math"}
MODEL = {"num_layers": 2, "num_query_groups": 4, "share_embeddings_and_output_weights": True}


def brought(root: Path) -> Iterator[tuple[str, Path, Rows]]:
    """An input of every type, and how its rows are read."""
    yield "chats", write_chats(root / "chats.jsonl"), Rows(grammar="last")
    (root / "prompts.jsonl").write_text(json.dumps(ROW) + "\n")
    yield "prompts", root / "prompts.jsonl", Rows({"input": "input"})
    (root / "packed").mkdir()
    shutil.copy(HERE / "data" / "packed.parquet", root / "packed" / "training_128.parquet")
    packing = {"pack_size": 256, "tokenizer": "t", "template": "c", "packing": {"pad_to_multiple_of": 8}}
    (root / "packed" / "slipway.json").write_text(json.dumps(packing))
    yield "packed", root / "packed", Rows()
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "tie_word_embeddings": True}
    config |= {"quantization_config": {"quant_method": "awq"}}
    template = json.dumps({"chat_template": "{{ tools }}{% generation %}", "tokenizer_class": "TokenizersBackend"})
    model = write_checkpoint(root / "model")
    yield "model", files(model, config_dot_json=json.dumps(config), tokenizer_config_dot_json=template), Rows()
    megatron = write_megatron(root / "megatron")
    with (megatron / "iter_0000004" / "run_config.yaml").open("a") as f:
        f.write(f"\nmodel: {json.dumps(MODEL)}\n")
    yield "megatron", megatron, Rows()
    yield "lora", write_megatron(root / "lora", peft=LORA), Rows()
    yield "adapter", write_adapter(root / "adapter"), Rows()
    yield "nemo_rl", write_nemo_rl(root / "nemo_rl"), Rows()
    out = root / "out" / "epoch_0_step_3" / "model" / "consolidated"
    write_checkpoint(out)
    yield "taken", root / "out", Rows()
    (root / "tokens").mkdir()
    yield "tokens", write_tokens(root / "tokens").parent, Rows()


def found(root: Path) -> dict[str, Any]:
    """What is found, as JSON, with paths as if they were at /brought."""
    root.mkdir()
    seen = {name: detection.inspect(name, path, rows) for name, path, rows in brought(root)}
    return json.loads(msgspec.json.encode(seen).decode().replace(str(root.resolve()), "/brought"))


class Holder(msgspec.Struct):
    """What reads the inputs of a plan alone."""

    schema: int
    inputs: dict[str, Artifact]


def test_what_inputs_held_is_what_is_found_today(tmp_path: Path) -> None:
    data = json.dumps({"schema": 1, "inputs": json.loads(FIRST.read_text())}).encode()
    was = older.decode(data, Holder, "plan.json")
    assert was.schema == 2
    now = found(tmp_path / "brought")
    assert now.keys() == was.inputs.keys()
    for name, artifact in was.inputs.items():
        assert artifact == msgspec.convert(now[name], Artifact), name


def older_plan(plan: Plan) -> dict[str, Any]:
    """A plan in whose inputs nothing was found, as schema 1 wrote it."""
    was = json.loads(msgspec.json.encode(plan))
    was["schema"] = 1
    kept = ("name", "path", "kind", "type", "note", "fingerprint", "bytes", "parameters", "faults", "files")
    was["inputs"] = {n: {k: v for k, v in a.items() if k in kept} | {"facts": {}} for n, a in was["inputs"].items()}
    return was


def test_a_plan_and_a_record_of_schema_1(spec_of: SpecOf, tmp_path: Path) -> None:
    plan = make_plan(spec_of(), seen_of(), {})
    was = older_plan(plan)
    assert older.decode(json.dumps(was).encode(), Plan, "plan.json") == plan
    record = record_of(Run(tmp_path), plan, "unix:///engine.sock")
    told = json.loads(msgspec.json.encode(record)) | {"plan": was}
    assert older.decode(json.dumps(told).encode(), Record, "record.json") == record


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 3}, "Invalid enum value 3 - at `$.schema`"),
        ({"schema": 1, "inputs": []}, "Expected `object`, got `array` - at `$.inputs`"),
        ({"schema": 1, "inputs": {"a": {"facts": {"colour": 1}}}}, "unknown field `colour`"),
        ({"schema": 1, "inputs": {"a": {"facts": {"layers": "x"}}}}, "Expected `int`, got `str`"),
    ],
)
def test_what_no_version_has_written_is_refused(spec_of: SpecOf, changes: dict[str, Any], said: str) -> None:
    told = json.loads(msgspec.json.encode(make_plan(spec_of(), seen_of(), {}))) | changes
    with pytest.raises(Damaged) as e:
        older.decode(json.dumps(told).encode(), Plan, "plan.json")
    assert said in e.value.what
