"""The words of step.yaml that rules know: types of artifacts, and roles of configuration keys."""

from __future__ import annotations

from typing import Literal

ArtifactType = Literal[
    "chat_jsonl", "preference_jsonl", "prompt_jsonl", "packed_parquet", "binidx", "text_jsonl", "text_parquet",
    "text_plain", "checkpoint_hf",
    "checkpoint_megatron", "checkpoint_lora", "checkpoint_nemo_rl", "tokenizer_hf",
]  # fmt: skip

# What a configuration key means, so that rules know it under every library's name.
Role = Literal[
    "global_batch", "eval_batch", "micro_batch", "sequence_length", "tensor_parallel", "pipeline_parallel",
    "context_parallel", "expert_parallel", "expert_tensor_parallel", "sequence_parallel", "sharding", "precision",
    "quantization", "recompute", "adapter_rank", "architecture", "vocabulary", "prompts", "generations",
    "generation_length", "colocated", "generation_gpus", "generation_nodes", "reward_gpus", "reward_nodes",
    "packing", "generation_backend", "generation_memory", "generation_tensor", "generation_pipeline",
    "generation_sequence", "generation_precision", "logprob_micro", "offload", "adapter", "teacher_tensor",
    "teacher_pipeline", "teacher_context", "reward_micro", "reward_tensor", "reward_context", "reward_precision",
    "reward_second_version", "per_token_loss", "averaged_gradients", "context_exchange", "context_levels", "start",
    "master_weights", "master_remainders",
]  # fmt: skip
