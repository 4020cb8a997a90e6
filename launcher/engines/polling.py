"""Waiting for the end of a run whose engine tells nothing by itself."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait(over: Callable[[], bool], every: float, seconds: float | None) -> bool:
    """Whether `over()` came true within `seconds` (None = however long); it is asked `every` so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while not over():
        if end is not None and time.monotonic() > end:
            return False
        time.sleep(every)
    return True
