"""Stands for Megatron-Bridge: it converts by copying, and knows its own checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import standin
from megatron.bridge import checkpoints
from megatron.core import dist_checkpointing


class Provider(SimpleNamespace):
    """What a model is built from."""

    params_dtype = "bfloat16"

    def finalize(self) -> None:
        """Nothing is left open."""

    def initialize_model_parallel(self, seed: int) -> None:
        """There are no groups."""

    def provide_distributed_model(self, wrap_with_ddp: bool) -> list[Any]:
        return []


class Built:
    """A model in memory, and the layers of an adapter that it got."""

    adapter: dict[str, Any]
    loaded: tuple[str, ...] = ()

    def load_state_dict(self, tensors: dict[str, Any], strict: bool) -> Any:
        assert not strict
        self.loaded = tuple(tensors)
        return SimpleNamespace(unexpected_keys=[])


class AutoBridge:
    """A Hugging Face model, and where it goes."""

    def __init__(self, model: Path, options: dict[str, Any]) -> None:
        self.model, self.given = model, {"model": str(model), **options}

    @classmethod
    def from_hf_pretrained(cls, path: str, **options: Any) -> AutoBridge:
        return cls(standin.need(path, "config.json"), options)

    def to_megatron_provider(self, load_weights: bool) -> Provider:
        if load_weights:
            standin.hugging_face(self.model)
        self.provider = Provider()
        return self.provider

    def save_megatron_model(self, built: Any, output: str, hf_tokenizer_path: str) -> None:
        standin.seen(output, self.given | {"provider": vars(self.provider), "tokenizer": hf_tokenizer_path})
        if not standin.rank():
            checkpoints.save(Path(output), 0, {"model": {}, "checkpoint": {}}, Path(hf_tokenizer_path))

    def to_megatron_model(self, wrap_with_ddp: bool, use_cpu_initialization: bool) -> list[Any]:
        standin.hugging_face(self.model)
        return [Built()]

    def load_megatron_model(self, path: str, mp_overrides: Any = None, wrap_with_ddp: bool = True) -> list[Any]:
        checkpoints.read(Path(path))
        self.given |= {"megatron": path, "overrides": mp_overrides}
        return [Built()]

    def save_hf_pretrained(
        self, built: Any, output: str, show_progress: bool, merge_adapter_weights: bool = True
    ) -> None:
        merged = [b for b in built if b.loaded and merge_adapter_weights]
        adapters = [{"path": dist_checkpointing.loaded[-1], "options": b.adapter, "tensors": b.loaded} for b in merged]
        standin.seen(output, self.given | {"adapters": adapters})
        if not standin.rank():
            standin.copy_model(self.model, Path(output))
