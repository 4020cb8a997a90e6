"""Stands for nemo_rl.algorithms.distillation: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import Any, NotRequired, TypedDict

from pydantic import BaseModel

from nemo_rl.algorithms.grpo import GRPOLoggerConfig
from nemo_rl.algorithms.loss.loss_functions import DistillationLossConfig
from nemo_rl.data import DataConfig
from nemo_rl.distributed.virtual_cluster import ClusterConfig
from nemo_rl.models.policy import PolicyConfig
from nemo_rl.utils.checkpoint import CheckpointingConfig
from nemo_rl.utils.logger import LoggerConfig


class DistillationConfig(TypedDict):
    num_prompts_per_step: NotRequired[int | str | None]
    num_generations_per_prompt: NotRequired[int | str | None]
    max_rollout_turns: NotRequired[int | str | None]
    max_num_steps: NotRequired[int | str | None]
    max_num_epochs: NotRequired[int | str | None]
    val_batch_size: NotRequired[int | str | None]
    val_period: NotRequired[int | str | None]
    val_at_start: NotRequired[int | str | None]
    val_at_end: NotRequired[int | str | None]
    max_val_samples: NotRequired[int | str | None]
    topk_logits_k: NotRequired[int | str | None]
    seed: NotRequired[int | str | None]


class MasterConfig(BaseModel, extra="allow"):
    policy: PolicyConfig
    teacher: PolicyConfig
    loss_fn: DistillationLossConfig
    env: Any
    data: DataConfig
    distillation: DistillationConfig
    logger: LoggerConfig | GRPOLoggerConfig
    cluster: ClusterConfig
    checkpointing: CheckpointingConfig
