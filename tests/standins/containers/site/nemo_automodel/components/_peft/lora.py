"""Stands for nemo_automodel.components._peft.lora: sections of AutoModel 0.5.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class PeftConfig:
    target_modules: Any = None
    exclude_modules: Any = None
    match_all_linear: int | str | None = None
    dim: int | str | None = None
    alpha: int | str | None = None
    use_dora: int | str | None = None
    dropout: int | str | None = None
    dropout_position: Any = None
    lora_A_init: int | str | None = None
    lora_dtype: Any = None
    use_memory_efficient_lora: int | str | None = None
    use_triton: int | str | None = None
    moe_rank_scaling: int | str | None = None
