"""Stands for nemo_rl.models.policy: the keys that a configuration of NeMo RL v0.7.0 may have."""

from typing import Any, NotRequired, TypedDict

from nemo_rl.models.generation.interfaces import GenerationConfig
from nemo_rl.utils.checkpoint import PretrainedCheckpointConfig


class TokenizerConfig(TypedDict):
    name: NotRequired[int | str | None]
    chat_template: NotRequired[int | str | None]
    chat_template_kwargs: NotRequired[Any]
    audio: NotRequired[Any]
    video: NotRequired[Any]
    use_processor: NotRequired[int | str | None]


class RewardModelConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    reward_model_type: NotRequired[int | str | None]


class MoEParallelizerOptions(TypedDict):
    ignore_router_for_ac: NotRequired[int | str | None]
    reshard_after_forward: NotRequired[int | str | None]
    lm_head_precision: NotRequired[int | str | None]
    wrap_outer_model: NotRequired[int | str | None]


class LoRAConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    target_modules: NotRequired[Any]
    exclude_modules: NotRequired[Any]
    match_all_linear: NotRequired[int | str | None]
    dim: NotRequired[int | str | None]
    alpha: NotRequired[int | str | None]
    dropout: NotRequired[int | str | None]
    dropout_position: NotRequired[int | str | None]
    lora_A_init: NotRequired[int | str | None]
    use_triton: NotRequired[int | str | None]


class LoRAConfigDisabled(TypedDict):
    enabled: NotRequired[int | str | None]


class AutomodelKwargs(TypedDict):
    use_liger_kernel: NotRequired[int | str | None]
    force_hf: NotRequired[int | str | None]


class DTensorConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    env_vars: NotRequired[Any]
    _v2: NotRequired[int | str | None]
    tensor_parallel_size: NotRequired[int | str | None]
    context_parallel_size: NotRequired[int | str | None]
    expert_parallel_size: NotRequired[int | str | None]
    dp_replicate_size: NotRequired[int | str | None]
    sequence_parallel: NotRequired[int | str | None]
    activation_checkpointing: NotRequired[int | str | None]
    cpu_offload: NotRequired[int | str | None]
    custom_parallel_plan: NotRequired[int | str | None]
    defer_fsdp_grad_sync: NotRequired[int | str | None]
    moe_parallelizer: NotRequired[MoEParallelizerOptions]
    lora_cfg: NotRequired[LoRAConfig | LoRAConfigDisabled]
    automodel_kwargs: NotRequired[AutomodelKwargs]
    clear_cache_every_n_steps: NotRequired[int | str | None]


class DTensorConfigDisabled(TypedDict):
    enabled: NotRequired[int | str | None]


class MegatronPeftConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    target_modules: NotRequired[Any]
    exclude_modules: NotRequired[Any]
    dim: NotRequired[int | str | None]
    alpha: NotRequired[int | str | None]
    dropout: NotRequired[int | str | None]
    dropout_position: NotRequired[int | str | None]
    lora_A_init_method: NotRequired[int | str | None]
    lora_B_init_method: NotRequired[int | str | None]
    a2a_experimental: NotRequired[int | str | None]
    lora_dtype: NotRequired[int | str | None]


class MegatronPeftConfigDisabled(TypedDict):
    enabled: NotRequired[int | str | None]


class MegatronOptimizerConfig(TypedDict):
    optimizer: NotRequired[int | str | None]
    lr: NotRequired[int | str | None]
    min_lr: NotRequired[int | str | None]
    weight_decay: NotRequired[int | str | None]
    bf16: NotRequired[int | str | None]
    fp16: NotRequired[int | str | None]
    params_dtype: NotRequired[int | str | None]
    adam_beta1: NotRequired[int | str | None]
    adam_beta2: NotRequired[int | str | None]
    adam_eps: NotRequired[int | str | None]
    sgd_momentum: NotRequired[int | str | None]
    use_distributed_optimizer: NotRequired[int | str | None]
    use_precision_aware_optimizer: NotRequired[int | str | None]
    clip_grad: NotRequired[int | str | None]
    optimizer_cpu_offload: NotRequired[int | str | None]
    optimizer_offload_fraction: NotRequired[int | str | None]


class MegatronSchedulerConfig(TypedDict):
    start_weight_decay: NotRequired[int | str | None]
    end_weight_decay: NotRequired[int | str | None]
    weight_decay_incr_style: NotRequired[int | str | None]
    lr_decay_style: NotRequired[int | str | None]
    lr_decay_iters: NotRequired[int | str | None]
    lr_warmup_iters: NotRequired[int | str | None]
    lr_warmup_init: NotRequired[int | str | None]


class MegatronDDPConfig(TypedDict):
    grad_reduce_in_fp32: NotRequired[int | str | None]
    overlap_grad_reduce: NotRequired[int | str | None]
    overlap_param_gather: NotRequired[int | str | None]
    use_custom_fsdp: NotRequired[int | str | None]
    data_parallel_sharding_strategy: NotRequired[int | str | None]


class MegatronConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    env_vars: NotRequired[Any]
    empty_unused_memory_level: NotRequired[int | str | None]
    activation_checkpointing: NotRequired[int | str | None]
    recompute_granularity: NotRequired[int | str | None]
    recompute_modules: NotRequired[Any]
    tensor_model_parallel_size: NotRequired[int | str | None]
    pipeline_model_parallel_size: NotRequired[int | str | None]
    num_layers_in_first_pipeline_stage: NotRequired[int | str | None]
    num_layers_in_last_pipeline_stage: NotRequired[int | str | None]
    context_parallel_size: NotRequired[int | str | None]
    pipeline_dtype: NotRequired[int | str | None]
    sequence_parallel: NotRequired[int | str | None]
    freeze_moe_router: NotRequired[int | str | None]
    expert_tensor_parallel_size: NotRequired[int | str | None]
    expert_model_parallel_size: NotRequired[int | str | None]
    defer_fp32_logits: NotRequired[int | str | None]
    apply_rope_fusion: NotRequired[int | str | None]
    bias_activation_fusion: NotRequired[int | str | None]
    force_reconvert_from_hf: NotRequired[int | str | None]
    attention_backend: NotRequired[int | str | None]
    moe_per_layer_logging: NotRequired[int | str | None]
    moe_enable_deepep: NotRequired[int | str | None]
    moe_token_dispatcher_type: NotRequired[int | str | None]
    inference_moe_token_dispatcher_type: NotRequired[int | str | None]
    inference_grouped_gemm_backend: NotRequired[int | str | None]
    moe_router_num_groups: NotRequired[int | str | None]
    moe_router_group_topk: NotRequired[int | str | None]
    transformer_impl: NotRequired[int | str | None]
    cuda_graph_impl: NotRequired[int | str | None]
    moe_pad_experts_for_cuda_graph_inference: NotRequired[int | str | None]
    moe_shared_expert_overlap: NotRequired[int | str | None]
    moe_grouped_gemm: NotRequired[int | str | None]
    moe_flex_dispatcher_backend: NotRequired[int | str | None]
    moe_hybridep_num_sms: NotRequired[int | str | None]
    hybridep_num_ranks_per_nvlink_domain: NotRequired[int | str | None]
    hybridep_use_mnnvl: NotRequired[int | str | None]
    peft: NotRequired[MegatronPeftConfig | MegatronPeftConfigDisabled]
    optimizer: NotRequired[MegatronOptimizerConfig]
    scheduler: NotRequired[MegatronSchedulerConfig]
    distributed_data_parallel_config: NotRequired[MegatronDDPConfig]
    gradient_accumulation_fusion: NotRequired[int | str | None]
    use_fused_weighted_squared_relu: NotRequired[int | str | None]
    use_linear_ce_fusion_loss: NotRequired[int | str | None]
    linear_ce_fusion_chunk_size: NotRequired[int | str | None]
    mtp_num_layers: NotRequired[int | str | None]
    mtp_loss_scaling_factor: NotRequired[int | str | None]
    mtp_use_repeated_layer: NotRequired[int | str | None]
    mtp_detach_heads: NotRequired[int | str | None]
    clear_memory_caches_before_refit: NotRequired[int | str | None]


class MegatronConfigDisabled(TypedDict):
    enabled: NotRequired[int | str | None]


class DynamicBatchingConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    train_mb_tokens: NotRequired[int | str | None]
    logprob_mb_tokens: NotRequired[int | str | None]
    sequence_length_round: NotRequired[int | str | None]


class DynamicBatchingConfigDisabled(TypedDict):
    enabled: NotRequired[int | str | None]


class SequencePackingConfig(TypedDict):
    enabled: NotRequired[int | str | None]
    train_mb_tokens: NotRequired[int | str | None]
    logprob_mb_tokens: NotRequired[int | str | None]
    algorithm: NotRequired[int | str | None]


class SequencePackingConfigDisabled(TypedDict):
    enabled: NotRequired[int | str | None]


class PytorchOptimizerConfig(TypedDict):
    name: NotRequired[int | str | None]
    kwargs: NotRequired[Any]


class PolicyConfig(TypedDict):
    model_name: NotRequired[int | str | None]
    tokenizer: NotRequired[TokenizerConfig]
    train_global_batch_size: NotRequired[int | str | None]
    train_micro_batch_size: NotRequired[int | str | None]
    logprob_batch_size: NotRequired[int | str | None]
    logprob_chunk_size: NotRequired[int | str | None]
    generation: NotRequired[GenerationConfig]
    generation_batch_size: NotRequired[int | str | None]
    precision: NotRequired[int | str | None]
    reward_model_cfg: NotRequired[RewardModelConfig]
    dtensor_cfg: NotRequired[DTensorConfig | DTensorConfigDisabled]
    megatron_cfg: NotRequired[MegatronConfig | MegatronConfigDisabled]
    pretrained_checkpoint: NotRequired[PretrainedCheckpointConfig]
    hf_config_overrides: NotRequired[Any]
    dynamic_batching: NotRequired[DynamicBatchingConfig | DynamicBatchingConfigDisabled]
    sequence_packing: NotRequired[SequencePackingConfig | SequencePackingConfigDisabled]
    make_sequence_length_divisible_by: NotRequired[int | str | None]
    max_total_sequence_length: NotRequired[int | str | None]
    max_grad_norm: NotRequired[int | str | None]
    refit_buffer_size_gb: NotRequired[int | str | None]
    optimizer: NotRequired[PytorchOptimizerConfig]
    scheduler: NotRequired[Any]
    quant_cfg: NotRequired[int | str | None]
    quant_calib_data: NotRequired[int | str | None]
    quant_calib_size: NotRequired[int | str | None]
    quant_batch_size: NotRequired[int | str | None]
    quant_sequence_length: NotRequired[int | str | None]
    disable_modelopt_layer_spec: NotRequired[int | str | None]
