"""Stands for nemo_rl.algorithms.grpo: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import Any, NotRequired, TypedDict

from pydantic import BaseModel

from nemo_rl.algorithms.loss.loss_functions import ClippedPGLossConfig
from nemo_rl.algorithms.reward_functions import RewardShapingConfig
from nemo_rl.data import DataConfig
from nemo_rl.distributed.virtual_cluster import ClusterConfig
from nemo_rl.models.policy import PolicyConfig
from nemo_rl.utils.checkpoint import CheckpointingConfig
from nemo_rl.utils.logger import LoggerConfig


class AsyncGRPOConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    max_trajectory_age_steps: NotRequired[int | str | None]
    in_flight_weight_updates: NotRequired[int | str | None]
    recompute_kv_cache_after_weight_updates: NotRequired[int | str | None]


class RewardScalingConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    source_min: NotRequired[int | str | None]
    source_max: NotRequired[int | str | None]
    target_min: NotRequired[int | str | None]
    target_max: NotRequired[int | str | None]


class AdvEstimatorConfig(TypedDict):
    name: NotRequired[int | str | None]
    normalize_rewards: NotRequired[int | str | None]
    use_leave_one_out_baseline: NotRequired[int | str | None]
    minus_baseline: NotRequired[int | str | None]


class GRPOConfig(TypedDict):
    num_prompts_per_step: NotRequired[int | str | None]
    num_generations_per_prompt: NotRequired[int | str | None]
    max_num_epochs: NotRequired[int | str | None]
    max_num_steps: NotRequired[int | str | None]
    max_rollout_turns: NotRequired[int | str | None]
    normalize_rewards: NotRequired[int | str | None]
    advantage_clip_low: NotRequired[int | str | None]
    advantage_clip_high: NotRequired[int | str | None]
    use_leave_one_out_baseline: NotRequired[int | str | None]
    val_period: NotRequired[int | str | None]
    val_batch_size: NotRequired[int | str | None]
    val_at_start: NotRequired[int | str | None]
    val_at_end: NotRequired[int | str | None]
    max_val_samples: NotRequired[int | str | None]
    skip_reference_policy_logprobs_calculation: NotRequired[int | str | None]
    seed: NotRequired[int | str | None]
    async_grpo: NotRequired[AsyncGRPOConfig]
    overlong_filtering: NotRequired[int | str | None]
    use_dynamic_sampling: NotRequired[int | str | None]
    dynamic_sampling_max_gen_batches: NotRequired[int | str | None]
    batch_multiplier: NotRequired[int | str | None]
    reward_shaping: NotRequired[RewardShapingConfig]
    reward_scaling: NotRequired[RewardScalingConfig]
    calculate_advantages_on_gpu: NotRequired[int | str | None]
    seq_logprob_error_threshold: NotRequired[int | str | None]
    invalid_tool_call_advantage: NotRequired[int | str | None]
    malformed_thinking_advantage: NotRequired[int | str | None]
    adv_estimator: NotRequired[AdvEstimatorConfig]


class GRPOLoggerConfig(LoggerConfig):
    pass


class MasterConfig(BaseModel, extra="allow"):
    policy: PolicyConfig
    loss_fn: ClippedPGLossConfig
    env: Any
    data: DataConfig
    grpo: GRPOConfig
    logger: GRPOLoggerConfig
    cluster: ClusterConfig
    checkpointing: CheckpointingConfig
