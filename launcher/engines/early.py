"""A signal for a container whose entrypoint may not be listening yet: it is left in writing, and taken once.

The kernel drops a signal for the first process of a container that has no handler for it (pid_namespaces(7)), as in the
moment in which that is started. So what comes before the entrypoint has begun is written into `container/told`, which
the entrypoint looks for when it begins. Whoever sees here that it has begun takes the file back and sends the signal.
Both take the same file away, so one of them has it, and never both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from launcher.engines import polling
from launcher.records import container_reports
from slipway.console import say_now
from slipway.errors import SlipwayError
from slipway.files import PRIVATE, write_atomic

POLL = 0.1  # seconds between two looks
THREAD = "an early signal"
PATIENCE = 10  # seconds, after which the signal is sent: of an engine that is elsewhere nothing may ever be seen here


def send(folder: Path, name: str, now: Callable[[], None]) -> None:
    """Sends a signal by `now`, at once or as soon as it can be heard. `folder`: the run's. Raises what `now` does."""
    told = folder / "container" / "told"
    if not folder.is_dir() or container_reports.began(folder) or not _left(told, name):
        now()
    else:
        threading.Thread(target=_once_begun, name=THREAD, args=(folder, told, now), daemon=True).start()


def _left(told: Path, name: str) -> bool:
    try:
        write_atomic(told, name, PRIVATE)
    except SlipwayError:  # a disk that is full
        return False
    return True


def _once_begun(folder: Path, told: Path, now: Callable[[], None]) -> None:
    polling.wait(lambda: container_reports.began(folder) or not told.exists(), POLL, PATIENCE)
    try:
        told.unlink()
    except OSError:
        return  # the entrypoint has it
    try:
        now()
    except SlipwayError as e:
        say_now(f"error: {e}")
