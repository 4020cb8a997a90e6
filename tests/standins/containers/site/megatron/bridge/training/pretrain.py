"""Stands for Megatron-Bridge's training: every rank writes down what it was given, the first leaves the checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import standin
from megatron.bridge import checkpoints
from megatron.bridge.training.callbacks import CallbackManager
from megatron.core.datasets.utils import compile_helpers


def pretrain(config: Any, forward_step: Any, callbacks: CallbackManager) -> None:
    import torch
    import torch.distributed

    torch.distributed.init_process_group(config.dist.distributed_backend)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    compile_helpers()
    output = Path(config.checkpoint.save)
    standin.seen(output, config.raw)
    steps = config.train.train_iters
    for step in range(steps):
        callbacks.known["on_train_step_end"](SimpleNamespace(loss_dict={"lm loss": 2.0 - step / steps}))
    if not standin.rank():
        saved = {"model": {}, "checkpoint": vars(config.checkpoint), "peft": vars(config.peft) if config.peft else None}
        checkpoints.save(output, steps, saved, Path(config.tokenizer.tokenizer_model))
