"""Stands for nemo_rl.models.generation.vllm.config: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import Any, NotRequired, TypedDict

from nemo_rl.models.generation.interfaces import GenerationConfig


class VllmSpecificArgs(TypedDict):
    tensor_parallel_size: NotRequired[int | str | None]
    pipeline_parallel_size: NotRequired[int | str | None]
    expert_parallel_size: NotRequired[int | str | None]
    gpu_memory_utilization: NotRequired[int | str | None]
    max_model_len: NotRequired[int | str | None]
    skip_tokenizer_init: NotRequired[int | str | None]
    async_engine: NotRequired[int | str | None]
    load_format: NotRequired[int | str | None]
    precision: NotRequired[int | str | None]
    kv_cache_dtype: NotRequired[int | str | None]
    enforce_eager: NotRequired[int | str | None]
    enable_return_routed_experts: NotRequired[int | str | None]
    use_tqdm: NotRequired[int | str | None]
    expose_http_server: NotRequired[int | str | None]
    http_server_serving_chat_kwargs: NotRequired[Any]
    tool_parser_plugin: NotRequired[int | str | None]
    env_vars: NotRequired[Any]
    reasoning_parser_plugin: NotRequired[int | str | None]


class VllmConfig(GenerationConfig):
    vllm_cfg: NotRequired[VllmSpecificArgs]
    vllm_kwargs: NotRequired[Any]
    quant_cfg: NotRequired[int | str | None]
    real_quant: NotRequired[int | str | None]
    real_quant_ignore: NotRequired[Any]
