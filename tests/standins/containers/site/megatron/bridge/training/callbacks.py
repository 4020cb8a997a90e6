"""Stands for Megatron-Bridge's callbacks."""

from collections.abc import Callable
from typing import Any


class CallbackManager:
    """Calls by event."""

    def __init__(self) -> None:
        self.known: dict[str, Callable[[Any], None]] = {}

    def register(self, event: str, call: Callable[[Any], None]) -> None:
        self.known[event] = call
