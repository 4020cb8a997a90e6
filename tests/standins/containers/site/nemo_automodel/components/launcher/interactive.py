"""Stands for what AutoModel's command does with a recipe's dotted path."""

import importlib
from typing import Any


def resolve_recipe_cls(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)
