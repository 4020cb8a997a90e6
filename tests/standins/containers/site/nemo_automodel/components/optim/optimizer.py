"""Stands for nemo_automodel.components.optim.optimizer: sections of AutoModel 0.5.0."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LRSchedulerConfig:
    lr_warmup_steps: int | str | None = None
    lr_decay_steps: int | str | None = None
    lr_decay_style: int | str | None = None
    init_lr: int | str | None = None
    max_lr: int | str | None = None
    min_lr: int | str | None = None
    start_wd: int | str | None = None
    end_wd: int | str | None = None
    wd_incr_steps: int | str | None = None
    wd_incr_style: int | str | None = None
    use_checkpoint_opt_param_scheduler: int | str | None = None
    override_opt_param_scheduler: int | str | None = None
    wsd_decay_steps: int | str | None = None
    lr_wsd_decay_style: int | str | None = None
