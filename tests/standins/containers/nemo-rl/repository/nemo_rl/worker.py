"""Stands for an actor: `python -m nemo_rl.worker KIND CONFIG.yaml MODEL`, by the interpreter of its own environment.

KIND is vllm, megatron, automodel or dtensor. It imports what that worker needs, and does what it does when it starts.
MODEL: which of the configuration's models it has: policy, teacher or reward_model.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import standin
import yaml

NEEDS = {
    "vllm": ["torch", "vllm", "vllm.v1.executor.ray_executor"],
    "megatron": ["torch", "megatron.core", "megatron.bridge"],
    "automodel": ["torch", "nemo_automodel"],
    "dtensor": ["torch", "transformers"],
}


def main() -> None:
    kind, config = sys.argv[1], yaml.safe_load(Path(sys.argv[2]).read_text())
    if kind == "vllm":
        from nemo_rl.models.generation.vllm.patches import _apply_vllm_patches

        _apply_vllm_patches(sys.executable)
    for module in NEEDS[kind]:
        importlib.import_module(module)
    model = (config["env"] if sys.argv[3] == "reward_model" else config)[sys.argv[3]]
    standin.hugging_face(model["model_name"])
    if kind == "megatron" and not model.get("pretrained_checkpoint"):
        converted(model)
    name = kind if sys.argv[3] == "policy" else sys.argv[3]
    standin.seen(config["checkpointing"]["checkpoint_dir"], {"model": model["model_name"]}, f"seen-{name}")


def converted(model: dict[str, Any]) -> None:
    """NeMo RL's own cache has the model; else it would convert it, on every node at once."""
    name = "model_" + model["model_name"].replace("/", "_")
    standin.need(Path(os.environ["NRL_MEGATRON_CHECKPOINT_DIR"], name), "iter_0000000/run_config.yaml")


if __name__ == "__main__":
    main()
