"""Stands for nemo_rl.algorithms.sft: the keys that a configuration of NeMo RL v0.7.0 may have."""

from pydantic import BaseModel

from nemo_rl.algorithms.grpo import GRPOLoggerConfig
from nemo_rl.data import DataConfig
from nemo_rl.distributed.virtual_cluster import ClusterConfig
from nemo_rl.models.policy import PolicyConfig
from nemo_rl.utils.checkpoint import CheckpointingConfig
from nemo_rl.utils.logger import LoggerConfig


class SFTConfig(BaseModel, extra="allow"):
    max_num_steps: int | str | None
    max_num_epochs: int | str | None
    val_period: int | str | None
    val_batches: int | str | None
    val_global_batch_size: int | str | None
    val_micro_batch_size: int | str | None
    val_at_start: int | str | None
    val_at_end: int | str | None
    seed: int | str | None
    only_unmask_final: int | str | None


class MasterConfig(BaseModel, extra="allow"):
    policy: PolicyConfig
    data: DataConfig
    sft: SFTConfig
    logger: LoggerConfig | GRPOLoggerConfig
    cluster: ClusterConfig
    checkpointing: CheckpointingConfig
