"""A stand-in's checkpoints, laid out as Megatron-Bridge's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import standin
import yaml


def save(output: Path, iteration: int, config: dict[str, Any], tokenizer: Path) -> None:
    folder = output / f"iter_{iteration:07d}"
    standin.shard(folder)
    standin.copy_model(tokenizer, folder / "tokenizer", weights=False)
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist"}))
    (folder / "run_config.yaml").write_text(yaml.safe_dump(config))
    (output / "latest_checkpointed_iteration.txt").write_text(f"{iteration}\n")


def read(folder: Path) -> dict[str, Any]:
    standin.need(folder, "run_config.yaml", "*.distcp", ".metadata")
    return dict(yaml.safe_load((folder / "run_config.yaml").read_text()))
