"""Stands for nemo_rl.algorithms.reward_functions: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import NotRequired, TypedDict


class RewardShapingConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    overlong_buffer_length: NotRequired[int | str | None]
    overlong_buffer_penalty: NotRequired[int | str | None]
    max_response_length: NotRequired[int | str | None]
    stop_properly_penalty_coef: NotRequired[int | str | None]
