"""Stands for nemo_rl.algorithms.rm: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import NotRequired, TypedDict

from pydantic import BaseModel

from nemo_rl.algorithms.grpo import GRPOLoggerConfig
from nemo_rl.data import DataConfig
from nemo_rl.distributed.virtual_cluster import ClusterConfig
from nemo_rl.models.policy import PolicyConfig
from nemo_rl.utils.checkpoint import CheckpointingConfig
from nemo_rl.utils.logger import LoggerConfig


class RMConfig(TypedDict):
    max_num_steps: NotRequired[int | str | None]
    max_num_epochs: NotRequired[int | str | None]
    val_period: NotRequired[int | str | None]
    val_batches: NotRequired[int | str | None]
    val_global_batch_size: NotRequired[int | str | None]
    val_micro_batch_size: NotRequired[int | str | None]
    val_at_start: NotRequired[int | str | None]
    val_at_end: NotRequired[int | str | None]
    seed: NotRequired[int | str | None]


class MasterConfig(BaseModel, extra="allow"):
    policy: PolicyConfig
    data: DataConfig
    rm: RMConfig
    logger: LoggerConfig | GRPOLoggerConfig
    cluster: ClusterConfig
    checkpointing: CheckpointingConfig
