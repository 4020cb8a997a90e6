"""Stands for nemo_rl.algorithms.dpo: the keys that a configuration of NeMo RL v0.7.0 may have."""

from pydantic import BaseModel

from nemo_rl.algorithms.grpo import GRPOLoggerConfig
from nemo_rl.data import DataConfig
from nemo_rl.distributed.virtual_cluster import ClusterConfig
from nemo_rl.models.policy import PolicyConfig
from nemo_rl.utils.checkpoint import CheckpointingConfig
from nemo_rl.utils.logger import LoggerConfig


class DPOConfig(BaseModel, extra="allow"):
    max_num_epochs: int | str | None
    max_num_steps: int | str | None
    val_period: int | str | None
    val_batches: int | str | None
    val_global_batch_size: int | str | None
    val_micro_batch_size: int | str | None
    val_at_start: int | str | None
    val_at_end: int | str | None
    seed: int | str | None
    reference_policy_kl_penalty: int | str | None
    preference_average_log_probs: int | str | None
    sft_average_log_probs: int | str | None
    preference_loss_weight: int | str | None
    sft_loss_weight: int | str | None


class MasterConfig(BaseModel, extra="allow"):
    policy: PolicyConfig
    data: DataConfig
    dpo: DPOConfig
    logger: LoggerConfig | GRPOLoggerConfig
    cluster: ClusterConfig
    checkpointing: CheckpointingConfig
