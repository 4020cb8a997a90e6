"""Stands for nemo_automodel.components.datasets.llm.chat_dataset: sections of AutoModel 0.5.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class ChatDataset:
    path_or_dataset_id: Any = None
    tokenizer: Any = None
    split: Any = None
    name: Any = None
    seq_length: Any = None
    padding: Any = None
    truncation: Any = None
    start_of_turn_token: Any = None
    chat_template: Any = None
    shuffle_seed: Any = None
    mask_reasoning_content: Any = None
    unshifted: Any = None
    skip_invalid_samples: Any = None
