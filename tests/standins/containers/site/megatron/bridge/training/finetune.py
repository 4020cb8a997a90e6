"""Stands for Megatron-Bridge's fine-tuning, which starts from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron.bridge import checkpoints
from megatron.bridge.training.callbacks import CallbackManager
from megatron.bridge.training.pretrain import pretrain


def finetune(config: Any, forward_step: Any, callbacks: CallbackManager) -> None:
    root = Path(config.checkpoint.pretrained_checkpoint)
    latest = root / "latest_checkpointed_iteration.txt"
    checkpoints.read(root / f"iter_{int(latest.read_text()):07d}" if latest.is_file() else root)
    pretrain(config, forward_step, callbacks)
