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
    standin.seen(output, config.as_mapping() | {"read": read(config.dataset)})
    steps = config.train.train_iters
    for step in range(steps):
        callbacks.known["on_train_step_end"](SimpleNamespace(loss_dict={"lm loss": 2.0 - step / steps}))
    if not standin.rank():
        saved = {"model": {}, "checkpoint": vars(config.checkpoint), "peft": vars(config.peft) if config.peft else None}
        checkpoints.save(output, steps, saved, Path(config.tokenizer.tokenizer_model))


def read(dataset: Any) -> dict[str, str]:
    """The files that training reads, which have to be there: rows as they are, packed ones, or documents."""
    if specs := getattr(dataset, "packed_sequence_specs", None):
        return {key: str(standin.need(path)) for key, path in specs.items() if key.endswith("_data_path") and path}
    if root := getattr(dataset, "dataset_root", None):
        found = {path.stem: path.resolve() for path in sorted(Path(root).glob("*.jsonl"))}
        return {name: str(path) for name, path in found.items() if standin.lines(path)}
    return {str(n): str(standin.need(f"{prefix}.bin")) for n, prefix in enumerate(getattr(dataset, "data_path", []))}
