"""Stands for torch's optimizers: what a section of a configuration may have."""

from __future__ import annotations

from typing import Any


class AdamW:
    """As torch's own, nothing of which is computed here."""

    def __init__(
        self, params: Any, lr: Any = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
        amsgrad: bool = False, *, maximize: bool = False, foreach: Any = None, capturable: bool = False,
        differentiable: bool = False, fused: Any = None,
    ) -> None:  # fmt: skip
        self.params, self.lr = params, lr
