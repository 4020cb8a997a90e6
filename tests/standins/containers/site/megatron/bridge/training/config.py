"""Stands for Megatron-Bridge's configuration: sections with the attributes that they are given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class ConfigContainer(SimpleNamespace):
    """`raw` is the mapping that it was made from."""

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> ConfigContainer:
        sections = {k: SimpleNamespace(**v) if isinstance(v, dict) else v for k, v in config.items()}
        return cls(**({"peft": None} | sections), raw=config)
