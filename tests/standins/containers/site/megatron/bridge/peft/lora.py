"""Stands for Megatron-Bridge's LoRA."""

from __future__ import annotations

from typing import Any

from megatron.core import tensor_parallel


class LoRA:
    """Gives a model the layers of an adapter, which are drawn by a generator that has to be seeded before."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __call__(self, model: list[Any], training: bool) -> list[Any]:
        assert tensor_parallel.seeds, "cuda rng state model-parallel-rng is not added"
        model[0].adapter = self.options
        return model
