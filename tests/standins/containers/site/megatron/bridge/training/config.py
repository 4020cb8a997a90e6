"""Stands for Megatron-Bridge's configuration: sections with the attributes that they are given."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = {"checkpoint": {"pretrained_checkpoint": None}}


@dataclass
class TrainingConfig:
    """The keys of that section; what it is given stays as it is."""

    micro_batch_size: int | None = None
    global_batch_size: int | None = None
    train_iters: int | None = None
    train_samples: int | None = None
    eval_interval: int | None = None
    eval_iters: int | None = None
    exit_duration_in_mins: int | None = None
    exit_interval: int | None = None
    exit_signal: Any = None
    exit_signal_handler: bool = False
    manual_gc: bool = False
    manual_gc_interval: int = 0
    rampup_batch_size: Any = None
    skip_train: bool = False


@dataclass
class ConfigContainer:
    """Its sections may be changed after it was made, as the real one's."""

    train: TrainingConfig | None = None
    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    ddp: Any = None
    validation: Any = None
    dataset: Any = None
    logger: Any = None
    tokenizer: Any = None
    checkpoint: Any = None
    dist: Any = None
    rng: Any = None
    peft: Any = None
    mixed_precision: Any = None

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> ConfigContainer:
        whole = {k: DEFAULTS.get(k, {}) | v if isinstance(v, dict) else v for k, v in config.items()}
        sections = {k: SimpleNamespace(**v) if isinstance(v, dict) else v for k, v in whole.items()}
        made = cls()
        made.__dict__ = {"peft": None} | sections  # what it is given, and nothing that it is not
        return made

    def as_mapping(self) -> dict[str, Any]:
        return {k: vars(v) if isinstance(v, SimpleNamespace) else v for k, v in vars(self).items()}
