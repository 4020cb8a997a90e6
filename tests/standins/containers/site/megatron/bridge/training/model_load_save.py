"""Stands for Megatron-Bridge's reading of a model's configuration out of a checkpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from megatron.bridge import checkpoints

FIELDS = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size",
          "expert_model_parallel_size", "sequence_parallel")  # fmt: skip


def load_model_config(folder: str) -> tuple[Any, None]:
    known = checkpoints.read(Path(folder))["model"]
    return SimpleNamespace(**(dict.fromkeys(FIELDS, 1) | known)), None


@contextlib.contextmanager
def temporary_distributed_context(backend: str) -> Iterator[None]:
    """One process, in host memory."""
    assert backend == "gloo"
    yield
