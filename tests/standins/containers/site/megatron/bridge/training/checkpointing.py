"""Stands for what Megatron-Bridge knows of the tensors in a checkpoint."""

from __future__ import annotations

from typing import Any


def _generate_model_state_dict(model: list[Any], _: dict[str, Any]) -> dict[str, Any]:
    return {"model": dict.fromkeys(["linear.weight", *(f"{m}.adapter" for m in model[0].adapter["target_modules"])])}


def apply_peft_adapter_filter_to_state_dict(state: dict[str, Any], lora: Any) -> dict[str, Any]:
    return {"model": {name: value for name, value in state["model"].items() if name.endswith(".adapter")}}
