"""Whether NCCL takes the network that the profile names, by what it writes while the step runs (slipway/fabric.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from supervisor.ends import TRY_AGAIN, Ended, refusal, say, unavailable
from supervisor.node import Node

EVERY = 15.0  # seconds between two looks, until all nodes have said it


def observers(node: Node) -> list[Callable[[], Ended | None]]:
    """On the first node, which sees what all have written; none where no network is named."""
    if node.settings.rank or not node.env.get("NCCL_DEBUG_FILE", "").startswith(node.settings.state):
        return []
    return [Transport(node)] if os.path.exists(f"{node.settings.slipway}/fabric.py") else []


class Transport:
    """An observer. It says once what is wrong; where the profile lets such runs go on, that is all."""

    def __init__(self, node: Node) -> None:
        self._settings, self._due, self._over = node.settings, 0.0, False

    def __call__(self) -> Ended | None:
        if self._over or time.monotonic() < self._due:
            return None
        self._due = time.monotonic() + EVERY
        import fabric

        try:
            code, wrong, told = fabric.verdict(f"{self._settings.slipway}/plan.json", self._settings.state)
        except (OSError, ValueError) as e:
            self._over = True
            say(f"which network NCCL takes cannot be told: {e}")
            return None
        self._over = bool(wrong) or told == self._settings.nodes
        if code:
            return unavailable(wrong) if code == TRY_AGAIN else refusal(wrong)
        if wrong:
            say(f"warning: {wrong}")
        return None
