"""Stands for torch: it knows which GPUs there are, its types by name, and matrices as lists of numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import standin

from torch import distributed

__all__ = ["distributed"]
__version__ = "2.0.0+standin"


class dtype(str):
    """A type's name."""


float32, float16, bfloat16 = dtype("float32"), dtype("float16"), dtype("bfloat16")


class Tensor:
    """A matrix, or a row; what is computed with it is exact."""

    def __init__(self, rows: list[Any], kind: dtype = float32, device: str = "cpu") -> None:
        self.rows, self.dtype, self.device = rows, kind, device

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), len(self.rows[0])) if isinstance(self.rows[0], list) else (len(self.rows),)

    def float(self) -> Tensor:
        return self.to(float32)

    def to(self, what: Any) -> Tensor:
        return Tensor(self.rows, what if isinstance(what, dtype) else self.dtype)

    def __matmul__(self, other: Tensor) -> Tensor:
        columns = list(zip(*other.rows, strict=True))
        return Tensor([[sum(a * b for a, b in zip(row, c, strict=True)) for c in columns] for row in self.rows])

    def __rmul__(self, scale: float) -> Tensor:
        return Tensor([[scale * value for value in row] for row in self.rows])

    def __add__(self, other: Tensor) -> Tensor:
        pairs = zip(self.rows, other.rows, strict=True)
        return Tensor([[a + b for a, b in zip(*rows, strict=True)] for rows in pairs])


def tensor(rows: list[Any], device: str = "cpu") -> Tensor:
    return Tensor(rows, device=device)


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    yield


inference_mode = no_grad


class cuda:
    """Devices alone."""

    @staticmethod
    def is_available() -> bool:
        return bool(standin.devices())

    @staticmethod
    def device_count() -> int:
        return len(standin.devices())

    @staticmethod
    def get_rng_state() -> bytes:
        if not cuda.is_available():
            raise RuntimeError("Found no NVIDIA driver on your system.")
        return b"state"

    @staticmethod
    def set_device(number: int) -> None:
        if number >= cuda.device_count():
            raise RuntimeError(f"CUDA error: invalid device ordinal {number} of {cuda.device_count()}")
