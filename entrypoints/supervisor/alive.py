"""Whether a run still does anything, by the bytes that the kernel counts for its ranks: read from disks, or written.

A rank that waits for another burns its processor, and so does one that works: that says nothing. Lines of a log,
metrics, checkpoints and files that are read for the first time do. Ranks that never write are not missed while others
do.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from supervisor.ends import TRY_AGAIN, Cause, Ended, put, say, text_of
from supervisor.node import Node

LOOK = 10.0  # seconds between two looks, at most
PARTS = 4  # of the time after which nothing has moved: looks in it, at least
STACKS = 5.0  # seconds that ranks have to write theirs
COUNTS = ("read_bytes:", "write_bytes:", "wchar:")


def observers(node: Node) -> list[Callable[[], Ended | None]]:
    """None where the profile does not say how long a run may stand still."""
    return [Alive(node)] if node.settings.stall_seconds else []


class Alive:
    """An observer. Every node tells when it has seen something move; the first one knows when none has for too long."""

    def __init__(self, node: Node) -> None:
        self._node, self._settings = node, node.settings
        self._stall = node.settings.stall_seconds
        self._look = min(LOOK, self._stall / PARTS)
        self._due = 0.0
        self._counted: dict[int, str] = {}  # process -> what the kernel has counted for it
        self._moves = 0
        self._heard: dict[int, str] = {}  # rank of a node -> what it has told last
        self._moved, self._last = time.monotonic(), ""  # when anything has moved anywhere; what that was
        self._told = f"{self._settings.state}/stalled"
        self._ends: Ended | None = None

    def __call__(self) -> Ended | None:
        now = time.monotonic()
        if now < self._due or self._node.stopped:
            return None
        self._due = now + self._look
        if self._ends:  # the others have had time to see it
            return self._ends
        if os.path.exists(self._told):
            self._due = float("inf")
            keep_stacks(self._node)
        elif self._settings.rank or not self._stands_still(now):
            self._tell()
        else:
            return self._end()
        return None

    def _tell(self) -> None:
        """Which rank of this node has moved, where one has."""
        ranks = self._node.ranks()
        moved = [rank for rank, pid in ranks.items() if self._has_moved(pid)]
        if not moved:
            return
        self._moves += 1
        try:
            put(f"{self._node.folder}/alive", f"{self._moves} rank {moved[-1]} on {self._settings.name}\n")
        except OSError as e:
            say(f"{self._node.folder}/alive: cannot be written: {e.strerror}")

    def _has_moved(self, pid: int) -> bool:
        lines = (line for line in text_of(f"/proc/{pid}/io").splitlines() if line.startswith(COUNTS))
        counted, before = " ".join(lines), self._counted.get(pid)
        self._counted[pid] = counted
        return counted != before or not counted  # of what cannot be counted nothing is concluded

    def _stands_still(self, now: float) -> bool:
        self._tell()
        for rank in range(self._settings.nodes):
            told = text_of(f"{self._settings.state}/{rank}/alive")
            if told != self._heard.get(rank, ""):
                self._heard[rank], self._moved, self._last = told, now, told.partition(" ")[2]
        return now - self._moved >= self._stall

    def _end(self) -> Ended | None:
        minutes = f"{self._stall / 60:.3g} min"
        reason = f"nothing has moved for {minutes}" + (f"; the last to move was {self._last}" if self._last else "")
        say(f"{reason}; stacks are in container/N/stacks of the run directory")
        ends = Ended(TRY_AGAIN, Cause.STALLED, reason)
        try:
            put(self._told, f"{reason}\n")
        except OSError as e:
            say(f"{self._told}: cannot be written: {e.strerror}")
        keep_stacks(self._node)
        if self._settings.nodes == 1:
            return ends
        self._ends, self._due = ends, time.monotonic() + self._look + STACKS
        return None


def keep_stacks(node: Node) -> None:
    """Python's stacks of all ranks that can write them (slipway_step.py), and what the kernel tells of each process."""
    folder = f"{node.folder}/stacks"
    asked = {f"{folder}/{rank}.txt": pid for rank, pid in node.ranks().items()}
    asked = {file: pid for file, pid in asked.items() if os.path.exists(file)}
    for pid in asked.values():
        try:
            os.kill(pid, signal.SIGUSR2)
        except OSError:  # it has ended meanwhile
            pass
    told = "".join(f"{pid} {_told_of(pid)}\n" for pid in node.members.pids())
    try:
        put(f"{folder}/processes.txt", told)
    except OSError as e:
        say(f"{folder}/processes.txt: cannot be written: {e.strerror}")
    deadline = time.monotonic() + STACKS
    while time.monotonic() < deadline and not all(os.path.getsize(file) for file in asked):
        node.pause(0.1)


def _told_of(pid: int) -> str:
    """Name, state, and where in the kernel it waits."""
    status = dict(line.partition(":\t")[::2] for line in text_of(f"/proc/{pid}/status").splitlines())
    return f"{status.get('Name', '?')}: {status.get('State', '?')}, {text_of(f'/proc/{pid}/wchan') or '?'}"
