"""What one row of a batch is in training, of which estimates of memory are made."""

from __future__ import annotations

from typing import Any

from slipway.yamldoc import Noun


class Sample(Noun, frozen=True, kw_only=True):
    """What one row of a batch is in training: `sequences` of it; whether the loss has `logits` over the vocabulary.

    `logit_bytes`: that the loss keeps of each of them. `new_type`: of new weights where the precision is `auto`.
    `gradients`: copies of them where there are several processes; `cast`: bytes of a wider weight's copy to compute.
    `plain`: with these values (key -> value) the model's layers are transformers' own, which keep more for the backward
    pass. `frees`: gradients go with the optimizer's step, which makes a copy of what trains.
    """

    sequences: int = 1
    logits: bool = True
    logit_bytes: int = 4
    new_type: str = ""
    gradients: int = 1
    cast: int = 0
    plain: dict[str, Any] = {}
    frees: bool = False
