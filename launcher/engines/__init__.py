"""What every engine is to the launcher: the same verbs, in one module each. Engines know nothing of steps."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from images.locking.model import Entry
from launcher.catalog.profiles import Profile
from launcher.core.plan import EngineInfo, ImageInfo, Plan, Probed
from launcher.records.outcome import Ended
from slipway.findings import Finding
from slipway.project import Root


@dataclass(frozen=True)
class Status:
    """What the engine knows of a run. `end`: how it ended, where the engine knows more than the code.

    `detail`: why a run that waits still waits; `excluded`: nodes that it does without, and why.
    """

    state: Literal["missing", "created", "pending", "running", "exited"]
    exit_code: int = 0
    end: Ended | None = None
    started: str = ""
    finished: str = ""
    detail: str = ""
    excluded: str = ""


class Claimed(Protocol):
    """A run directory that has an id."""

    @property
    def id(self) -> str: ...

    @property
    def path(self) -> Path: ...


class Used(Protocol):
    """The engine of a run, and where it answers."""

    @property
    def kind(self) -> str: ...

    @property
    def address(self) -> str: ...


class Recorded(Protocol):
    """A record, as far as engines need it."""

    @property
    def engine(self) -> Used: ...


class Connection(Protocol):
    """The verbs that need the engine; each works from any process, at any time, and twice."""

    def submit(self, request: dict[str, Any], run: Claimed, after: Sequence[str] = (), ok: Sequence[str] = ()) -> str:
        """Starts the run, or puts it into the queue; returns the engine's own name for it. Leaves nothing on errors.

        `after`: names of what has to end first, however, `ok`: and with success; only where there is a queue.
        """

    def status(self, run: Claimed) -> Status: ...

    def directory(self, run: Claimed) -> str | None:
        """Where the run's directory was when it was submitted; None where the engine does not know."""

    def logs(self, run: Claimed, follow: bool) -> Iterator[bytes]:
        """What the run has printed so far; to its end where `follow`."""

    def signal(self, run: Claimed, name: str) -> None:
        """TERM or INT: the step is asked to save and leave; KILL ends it. One that has ended is left alone."""

    def wait(self, run: Claimed, seconds: float | None = None) -> bool:
        """Whether the run ended within `seconds` (None = however long)."""

    def entering(self, run: Claimed, pid: int, words: Sequence[str], terminal: bool) -> list[str]:
        """The command by which this terminal, or these pipes, get `words` run in the container of a run that goes on.

        `pid`: of the step, as it knows itself.
        """

    def remove(self, run: Claimed) -> None:
        """Removes what the engine still holds of an ended run."""


class Engine(Protocol):
    """A module of this package.

    `ATTACHED`: a launch stays with its run (else it submits and returns). `KEEPS_LOG`: the log is the engine's, so
    that the launcher copies it into the run directory. `LOGS`: files in logs/ that the engine would make readable for
    others, and are made before. `REQUEST`: name of the request's file in a run directory.
    `BY_NAME`: it knows a run by its name, also where the run's directory is gone.
    `FILES`: what it needs of entrypoints/ in the run's slipway/ folder, beside what every engine does.
    """

    ATTACHED: bool
    KEEPS_LOG: bool
    LOGS: tuple[str, ...]
    REQUEST: str
    FILES: tuple[str, ...]
    BY_NAME: bool

    def probe(self, root: Root, profile: Any) -> EngineInfo:
        """Looks at the engine; one that cannot be used is seen with its error, and what to do about it."""

    def find_image(self, root: Root, entry: Entry, profile: Any, found: EngineInfo) -> ImageInfo:
        """The image of `entry` that the engine would run, by its records."""

    def check(self, plan: Plan, seen: Probed) -> Iterator[Finding]:
        """What of a plan this engine cannot express, or the site will refuse. Pure."""

    def render(self, plan: Plan) -> dict[str, Any]:
        """What is submitted; pure. ${RUN_ID} and ${RUN_DIR} stand literally."""

    def fill(self, request: dict[str, Any], run: Claimed) -> dict[str, Any]:
        """The request as it is submitted for this run."""

    def request_text(self, request: dict[str, Any]) -> str:
        """The text of the request's file."""

    def as_text(self, request: dict[str, Any]) -> str:
        """What a dry run prints."""

    def explain(self, log: str) -> str:
        """The line of a log in which the engine says why the container did not start; empty where there is none."""

    def connect(self, address: str) -> AbstractContextManager[Connection]:
        """For the verbs. Raises SlipwayError 69 where the engine does not answer."""


def of(kind: str) -> Engine:
    """The engine of a profile's or a record's `kind`."""
    module: Any = importlib.import_module(f"launcher.engines.{kind}")
    return module  # type: ignore[no-any-return]


def of_record(record: Recorded) -> AbstractContextManager[Connection]:
    """A connection to the engine that a record names."""
    return of(record.engine.kind).connect(record.engine.address)


__all__ = ["Claimed", "Connection", "Engine", "Profile", "Status", "of", "of_record"]
