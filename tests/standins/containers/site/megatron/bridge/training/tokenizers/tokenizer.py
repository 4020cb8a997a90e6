"""Stands for Megatron-Bridge's tokenizers."""

import standin
from megatron.bridge.training.tokenizers.config import TokenizerConfig


def build_tokenizer(config: TokenizerConfig) -> TokenizerConfig:
    standin.need(config.tokenizer_model, "tokenizer*")
    return config
