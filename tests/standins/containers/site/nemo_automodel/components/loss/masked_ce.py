"""Stands for nemo_automodel.components.loss.masked_ce: sections of AutoModel 0.5.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class MaskedCrossEntropy:
    fp32_upcast: Any = None
    ignore_index: Any = None
    reduction: Any = None
