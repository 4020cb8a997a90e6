"""Stands for megatron.core.dist_checkpointing."""

from __future__ import annotations

from typing import Any

import standin
from torch import Tensor

loaded: list[str] = []


def load(wanted: dict[str, Any], folder: str) -> dict[str, Any]:
    """Every tensor that is wanted, of a checkpoint."""
    standin.need(folder, "*.distcp", ".metadata")
    loaded.append(folder)
    return {"model": {name: Tensor([[1.0]]) for name in wanted["model"]}}
