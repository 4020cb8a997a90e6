"""Stands for nemo_automodel.components.training.step_scheduler: sections of AutoModel 0.5.0."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StepSchedulerConfig:
    global_batch_size: int | str | None = None
    num_epochs: int | str | None = None
    max_steps: int | str | None = None
    ckpt_every_steps: int | str | None = None
    save_checkpoint_every_epoch: int | str | None = None
    val_every_steps: int | str | None = None
    log_remote_every_steps: int | str | None = None
    loss_average_window_steps: int | str | None = None
    gc_every_steps: int | str | None = None
    start_step: int | str | None = None
    start_epoch: int | str | None = None
