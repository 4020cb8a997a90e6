"""Stands for nemo_automodel.components.checkpoint.config: sections of AutoModel 0.5.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class CheckpointingConfig:
    enabled: int | str | None = None
    checkpoint_dir: Any = None
    model_save_format: int | str | None = None
    model_cache_dir: Any = None
    model_repo_id: int | str | None = None
    save_consolidated: Any = None
    is_peft: int | str | None = None
    model_state_dict_keys: Any = None
    is_async: int | str | None = None
    dequantize_base_checkpoint: int | str | None = None
    original_model_root_dir: int | str | None = None
    skip_task_head_prefixes_for_base_model: Any = None
    single_rank_consolidation: int | str | None = None
    staging_dir: int | str | None = None
    v4_compatible: int | str | None = None
    diffusers_compatible: int | str | None = None
    best_metric_key: int | str | None = None
