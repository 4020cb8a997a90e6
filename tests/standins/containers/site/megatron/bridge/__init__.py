"""Stands for Megatron-Bridge: it converts by copying, and knows its own checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import standin
from megatron.bridge import checkpoints


class Provider(SimpleNamespace):
    """What a model is built from."""

    params_dtype = "bfloat16"

    def finalize(self) -> None:
        """Nothing is left open."""

    def initialize_model_parallel(self, seed: int) -> None:
        """There are no groups."""

    def provide_distributed_model(self, wrap_with_ddp: bool) -> list[Any]:
        return []


class AutoBridge:
    """A Hugging Face model, and where it goes."""

    def __init__(self, model: Path) -> None:
        self.model = model

    @classmethod
    def from_hf_pretrained(cls, path: str, **_: Any) -> AutoBridge:
        return cls(standin.need(path, "config.json"))

    def to_megatron_provider(self, load_weights: bool) -> Provider:
        if load_weights:
            standin.hugging_face(self.model)
        return Provider()

    def save_megatron_model(self, built: Any, output: str, hf_tokenizer_path: str) -> None:
        standin.seen(output, {"model": str(self.model)})
        if not standin.rank():
            checkpoints.save(Path(output), 0, {"model": {}, "checkpoint": {}}, Path(hf_tokenizer_path))

    def load_megatron_model(self, path: str, **_: Any) -> list[Any]:
        checkpoints.read(Path(path))
        return []

    def save_hf_pretrained(self, built: Any, output: str, show_progress: bool) -> None:
        standin.seen(output, {"model": str(self.model)})
        if not standin.rank():
            standin.copy_model(self.model, Path(output))
