"""Stands for nemo_rl.models.generation.interfaces: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import Any, NotRequired, TypedDict


class OptionalResourcesConfig(TypedDict):
    gpus_per_node: NotRequired[int | str | None]
    num_nodes: NotRequired[int | str | None]


class ColocationConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    resources: NotRequired[OptionalResourcesConfig]


class GenerationConfig(TypedDict):
    backend: NotRequired[int | str | None]
    max_new_tokens: NotRequired[int | str | None]
    temperature: NotRequired[int | str | None]
    top_p: NotRequired[int | str | None]
    top_k: NotRequired[int | str | None]
    model_name: NotRequired[int | str | None]
    stop_token_ids: NotRequired[Any]
    stop_strings: NotRequired[Any]
    colocated: NotRequired[ColocationConfig]
    port_range_low: NotRequired[int | str | None]
    port_range_high: NotRequired[int | str | None]
    use_async_rollouts: NotRequired[int | str | None]
    _pad_token_id: NotRequired[int | str | None]
    _mtp_weights_from_refit: NotRequired[int | str | None]
