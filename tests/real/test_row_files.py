"""Rows in several files, of which one is packed, over stand-ins of the containers: the library reads one file."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from helpers import CHAT

from .test_official_runs import BRIDGE, Caller, caller

__all__ = ["caller"]
pytestmark = pytest.mark.real
PREFERENCE = {"prompt": "1 + 2", "chosen": "3", "rejected": "4"}


@pytest.fixture
def shards(caller: Caller) -> Caller:
    """With 20 rows in three files of `parts-NAME`."""
    prompt = {"input": "1 + 2", "output": "3"}
    for name, row in {"chats": CHAT, "prompts": prompt, "preferences": PREFERENCE}.items():
        folder = caller.folder / "inputs" / f"parts-{name}"
        folder.mkdir()
        line = (row if isinstance(row, str) else json.dumps(row)).strip() + "\n"
        (folder / "a.jsonl").write_text(line * 9 + "\n")
        (folder / "b.jsonl.gz").write_bytes(gzip.compress(line.encode() * 8))
        (folder / "c.ndjson").write_text(line * 3)
        (folder / "README.md").write_text("how they were made")
    return caller


def test_nemo_rl_reads_one_file(shards: Caller) -> None:
    words = (f"policy={shards.input('model')}", f"train={shards.input('parts-preferences')}")
    run = shards.launch("rl/dpo", *words, output="out")
    assert re.search(r"slipway-rows-\w+/0\.jsonl: 20 rows", run.log), run.log
    assert "slipway: step 1/2 | loss 1.5 |" in run.log, "the stand-in has a logger, as the library does"


def test_megatron_bridge_reads_one_file(shards: Caller) -> None:
    model, chats = shards.input("model"), shards.input("parts-chats")
    shards.launch("convert/hf_to_megatron", f"model={model}", output="megatron")
    given = (f"model={shards.folder}/home/megatron", f"tokenizer={model}", *BRIDGE[:-2], "max_steps=2")
    run = shards.launch("sft/megatron_bridge", f"train={chats}/*.*n*", *given, "global_batch_size=20", output="out")
    assert len((run.path / "container" / "data" / "training.jsonl").read_text().splitlines()) == 20


def test_packing_reads_one_file(shards: Caller) -> None:
    words = (f"train={shards.input('parts-chats')}", f"tokenizer={shards.input('model')}")
    shards.launch("data_prep/sft_packing", *words, output="packed")
    assert shards.seen("packed", "seen-training")["config"]["rows"] == 20
