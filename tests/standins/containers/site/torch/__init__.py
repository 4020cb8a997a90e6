"""Stands for torch: it knows which GPUs there are, and its types by name."""

import standin

from torch import distributed

__all__ = ["distributed"]
__version__ = "2.0.0+standin"
float32, float16, bfloat16 = "float32", "float16", "bfloat16"


class cuda:
    """Devices alone."""

    @staticmethod
    def is_available() -> bool:
        return bool(standin.devices())

    @staticmethod
    def device_count() -> int:
        return len(standin.devices())

    @staticmethod
    def set_device(number: int) -> None:
        if number >= cuda.device_count():
            raise RuntimeError(f"CUDA error: invalid device ordinal {number} of {cuda.device_count()}")
