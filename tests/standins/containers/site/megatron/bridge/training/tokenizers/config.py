"""Stands for the configuration of Megatron-Bridge's tokenizers."""

from dataclasses import dataclass


@dataclass
class TokenizerConfig:
    tokenizer_type: str
    tokenizer_model: str
