"""How far a stop has come: the first signal lets the step save, the second ends it, the third kills it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from supervisor.ends import say
from supervisor.processes import Members

SAME = 3  # seconds within which a job's signal comes twice: Slurm tells srun, too, which tells the step once more
LONG = 3600.0


class Stop:
    """`count`: how often this container was told to stop; `by`: by which signal first."""

    def __init__(self, members: Members, in_job: bool, grace: float, kill_after: float) -> None:
        self.count, self.by = 0, ""
        self._members, self._in_job, self._grace, self._kill_after = members, in_job, grace, kill_after
        self._told_at: float | None = None
        self._tell: Callable[[], None] | None = None  # there is a step that can be told
        self._next: Callable[[], None] | None = None
        self._due = 0.0

    def hear(self, name: str) -> None:
        """It was told to stop by that signal."""
        now = time.monotonic()
        if self._in_job and self._told_at is not None and now - self._told_at <= SAME:
            return
        self._told_at = now
        self.count += 1
        self.by = self.by or name
        if self._tell:
            self._escalate()

    def begin(self, tell: Callable[[], None]) -> None:
        """The step is there, and `tell` asks it to save and leave."""
        self._tell = tell
        if self.count:  # told since it was last looked at
            self._escalate()

    def shorten(self) -> None:
        """What the step needs to save is gone: there is nothing to wait for."""
        if self.count == 1:
            self.count = 2
            self._escalate()

    def remaining(self) -> float:
        """Seconds until `advance` has something to do."""
        return max(0.0, self._due - time.monotonic()) if self._next else LONG

    def advance(self) -> None:
        if self._next and time.monotonic() >= self._due:
            self._next()

    def _escalate(self) -> None:
        if self.count == 1 and self._tell:
            self._after(self._grace, self._end)
            self._tell()
            return
        self._end()
        if self.count > 2:
            self._kill()

    def _end(self) -> None:
        say("ending what is left of the step")
        self._members.kill(signal.SIGTERM)
        self._after(self._kill_after, self._kill)

    def _kill(self) -> None:
        say("killing what is left of the step")
        self._members.kill(signal.SIGKILL)
        self._next = None

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self._due, self._next = time.monotonic() + seconds, what
