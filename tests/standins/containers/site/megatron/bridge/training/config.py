"""Stands for Megatron-Bridge's configuration: sections with the attributes that they are given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = {"checkpoint": {"pretrained_checkpoint": None}}


class ConfigContainer(SimpleNamespace):
    """Its sections may be changed after it was made, as the real one's."""

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> ConfigContainer:
        whole = {k: DEFAULTS.get(k, {}) | v if isinstance(v, dict) else v for k, v in config.items()}
        sections = {k: SimpleNamespace(**v) if isinstance(v, dict) else v for k, v in whole.items()}
        return cls(**({"peft": None} | sections))

    def as_mapping(self) -> dict[str, Any]:
        return {k: vars(v) if isinstance(v, SimpleNamespace) else v for k, v in vars(self).items()}
