"""What a pipeline has started, in the folder of runs: `.pipelines/<name>-<hash of its file's path>/state.json`.

Written whole, and before a run is started: what a launcher that was killed has started is found by the tags of its run.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from launcher.core.asked import Former
from launcher.records import run_directory
from launcher.records.labels import Labels
from launcher.records.run_directory import RECORD_LIMIT, STAMP, Run
from slipway import canonical, inbox
from slipway.errors import Exit, SlipwayError
from slipway.files import PRIVATE, cannot_write, check_own, make_folders, own_folder, private, write_atomic
from slipway.yamldoc import Noun

FOLDER, FILE, LOCK = ".pipelines", "state.json", "lock"
KEY = "pipeline-key"  # the tag of a run by which it is found again


class Stand(Noun, frozen=True, kw_only=True):
    """The last launch of a step. `key`: what decides what it makes, of which `parts` are the words for people.

    `runs`, `since`: where its run is, and from which time on one may be there; `run`: empty until that is known.
    """

    step: str
    key: str
    parts: dict[str, str]
    runs: str
    since: str
    run: Former | None = None


class State(Noun, frozen=True, kw_only=True):
    """`steps`: by their names in the file; `made`: key -> the last run with it, of all that there were."""

    schema: Literal[1]
    file: str
    steps: dict[str, Stand] = {}
    made: dict[str, Former] = {}


class Book:
    """The state of one pipeline. Only whoever holds its lock writes."""

    def __init__(self, runs: Path, name: str, file: str) -> None:
        self.name, self._file, self._top = name, file, runs / FOLDER
        self.folder = self._top / f"{name}-{hashlib.sha256(file.encode()).hexdigest()[:8]}"
        self.state = State(schema=1, file=file)

    def read(self) -> None:
        """As it was written last. Raises SlipwayError 65 or 77 where it cannot be read."""
        if self._top.exists():
            check_own(self._top)
        data = inbox.read(self.folder, FILE, RECORD_LIMIT)
        if data is not None:
            self.state = inbox.decode(data, State, self.folder / FILE)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Raises SlipwayError 75 where another launcher is at it."""
        with cannot_write(self.folder):
            make_folders(self._top.parent)
            own_folder(self._top)
            own_folder(self.folder)
            handle = open(self.folder / LOCK, "w", opener=private)  # noqa: SIM115 - closed below, while it is held
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                what, remedy = "another launcher is at it", "wait for that, or look: launch pipeline … --show"
                raise SlipwayError(Exit.TRY_AGAIN, what, where=f"pipeline {self.name}", remedy=remedy) from e
            yield

    def labels(self, step: str, key: str) -> Labels:
        """What a run of a step is called."""
        return Labels(tags={"pipeline": self.name, "pipeline-step": step, KEY: key})

    def intend(self, name: str, step: str, key: str, parts: Mapping[str, str], runs: Path) -> None:
        """Says that a step is about to be started."""
        since = datetime.datetime.now(datetime.UTC).strftime(STAMP)
        self._put(name, Stand(step=step, key=key, parts=dict(parts), runs=str(runs), since=since), None)

    def settle(self, name: str, run: Run) -> None:
        """Says which run it has become."""
        former = Former(run=run.id, directory=str(run.path))
        self._put(name, msgspec.structs.replace(self.state.steps[name], run=former), former)

    def take(self, name: str, step: str, key: str, parts: Mapping[str, str], run: Run) -> None:
        """Says that a step stands for a run of before."""
        former = Former(run=run.id, directory=str(run.path))
        stand = Stand(step=step, key=key, parts=dict(parts), runs=str(run.path.parent), since="", run=former)
        if self.state.steps.get(name) != stand:
            self._put(name, stand, former)

    def _put(self, name: str, stand: Stand, run: Former | None) -> None:
        made = self.state.made | ({stand.key: run} if run else {})
        self.state = State(schema=1, file=self._file, steps=self.state.steps | {name: stand}, made=made)
        write_atomic(self.folder / FILE, canonical.pretty(self.state), PRIVATE)

    def run_of(self, name: str) -> Run | None:
        """The run of a step's last launch; None where it was never started, or its directory was removed."""
        stand = self.state.steps.get(name)
        if stand is None:
            return None
        return _there(stand.run) if stand.run else _started(stand)

    def made(self, key: str) -> Run | None:
        """The last run with this key."""
        for stand in self.state.steps.values():
            if stand.key == key and stand.run is None and (found := _started(stand)):
                return found
        return _there(self.state.made[key]) if key in self.state.made else None


def _there(former: Former) -> Run | None:
    run = Run(Path(former.directory))
    return run if run.path.is_dir() else None


def _started(stand: Stand) -> Run | None:
    """The newest run that carries the key and is no older than the intent; the launcher did not come to say which."""
    part = f"-{stand.step.replace('/', '.')}-"
    for run_id in reversed(run_directory.list_ids(Path(stand.runs))):
        if run_id[: len(stand.since)] < stand.since:
            return None
        run = Run(Path(stand.runs, run_id))
        if part in run_id and run.ours and (record := run.record()) and record.tags.get(KEY) == stand.key:
            return run
    return None
