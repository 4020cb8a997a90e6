"""Stands for nemo_rl.utils.checkpoint: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import Any, NotRequired, TypedDict


class PretrainedCheckpointConfig(TypedDict):
    path: NotRequired[int | str | None]
    format: NotRequired[int | str | None]


class CheckpointingConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    checkpoint_dir: NotRequired[Any]
    metric_name: NotRequired[int | str | None]
    higher_is_better: NotRequired[int | str | None]
    save_period: NotRequired[int | str | None]
    keep_top_k: NotRequired[int | str | None]
    checkpoint_must_save_by: NotRequired[int | str | None]
    pretrained_checkpoint: NotRequired[PretrainedCheckpointConfig]
    save_optimizer: NotRequired[int | str | None]
    model_save_format: NotRequired[int | str | None]
    save_consolidated: NotRequired[int | str | None]
    model_cache_dir: NotRequired[int | str | None]
    model_repo_id: NotRequired[int | str | None]
    is_peft: NotRequired[int | str | None]
    peft_config: NotRequired[Any]
    is_async: NotRequired[int | str | None]
