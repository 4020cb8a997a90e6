"""Stands for modelopt.torch.quantization: a model remembers how it was quantized, and on what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FP8_DEFAULT_CFG = {"quant_cfg": {"*weight_quantizer": {"num_bits": [4, 3]}}, "algorithm": "max"}


def quantize(model: Any, config: dict[str, Any], forward_loop: Callable[[Any], None]) -> None:
    forward_loop(model)
    model.quantized = {"config": config, "batches": len(model.fed), "longest": max(model.fed)}
    for layer in model.modules():
        layer.weight_quantizer.is_enabled = True
