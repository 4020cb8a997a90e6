"""Stands for nemo_rl.algorithms.loss.loss_functions: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import NotRequired, TypedDict

from pydantic import BaseModel


class ClippedPGLossConfig(BaseModel, extra="allow"):
    disable_ppo_ratio: int | str | None
    token_level_loss: int | str | None
    sequence_level_importance_ratios: int | str | None
    ratio_clip_min: int | str | None
    ratio_clip_max: int | str | None
    ratio_clip_c: int | str | None
    reference_policy_kl_penalty: int | str | None
    reference_policy_kl_type: int | str | None
    kl_input_clamp_value: int | str | None
    kl_output_clamp_value: int | str | None
    use_kl_in_reward: int | str | None
    use_importance_sampling_correction: int | str | None
    truncated_importance_sampling_type: int | str | None
    truncated_importance_sampling_ratio: int | str | None
    truncated_importance_sampling_ratio_min: int | str | None
    use_on_policy_kl_approximation: int | str | None
    force_on_policy_ratio: int | str | None
    use_cispo: int | str | None
    positive_example_nll_weight: int | str | None


class DistillationLossConfig(TypedDict):
    kl_type: NotRequired[int | str | None]
    mixed_kl_weight: NotRequired[int | str | None]
    zero_outside_topk: NotRequired[int | str | None]
