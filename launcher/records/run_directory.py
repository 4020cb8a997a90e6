"""Run directories: claiming one, what is written into it and when, and finding it again.

A run directory holds plan.json, request.json, record.json, events.jsonl, logs/, slipway/ (mounted at /slipway) and
container/ (mounted at /run/slipway). Whoever launches or collects a run holds an flock on its `lock` file; the kernel
lets go of it when that process dies, however it dies. So a free lock means: nobody is looking after this run.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import itertools
import json
import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from launcher.catalog import profiles
from launcher.core.asked import Asked, Former
from launcher.core.plan import Plan
from launcher.records import labels, older, outcome
from launcher.records.container_reports import Result
from launcher.records.outcome import Cause, End
from slipway import __version__, canonical, inbox
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import (
    PRIVATE,
    cannot_read,
    cannot_write,
    owner,
    write_atomic,
)  # fmt: skip
from slipway.inbox import Damaged
from slipway.project import Root
from slipway.yamldoc import Noun

State = Literal["submitted", "ended"]
STAMP = "%Y%m%dT%H%M%SZ"  # with which an id begins
_ID = re.compile(r"(\d{8}T\d{6}Z)-(.+-[0-9a-f]{6})(?:-(\d{1,9}))?")
SHOWN, MOST = 10, 2000  # of runs that a part of an id fits; of ids that are compared with one that is not there
SCHEMA = 1  # of records
RECORD_LIMIT = 64 * 2**20  # bytes: a plan, a request and all reports at their longest


class Outcome(Noun, frozen=True, kw_only=True):
    """How a run ended. `end`: as everybody is told; `cause`: whose the exit code is; `reason`: one line for people.

    `step` the program itself; `signal` it was told to stop, or killed; `cancelled`; `entrypoint` it, or the script
    around the container, refused to start it; `engine` could not start it or lost it; `node` one failed, or did not
    come; `memory` ran out; `launcher` died before it was submitted. `checkpoint`: what the step made, a finished
    checkpoint or data, on the host; `result`: what the step program reported; `damaged`: what the container wrote and
    could not be read, and why. `network`: host -> what NCCL says it used there; `excluded`: nodes that an attempt had
    and the next ones did without, and why.
    """

    exit_code: int
    cause: Cause
    reason: str
    end: End | None = None  # in no record that was written before there were ends: known by its cause
    started: str = ""
    finished: str = ""
    checkpoint: str = ""
    result: dict[str, Any] = {}
    damaged: list[str] = []
    network: dict[str, list[str]] = {}
    excluded: str = ""

    def __post_init__(self) -> None:
        msgspec.convert(self.result, Result)  # or no record: whoever reads one may rely on it
        if self.end is None:
            msgspec.structs.force_setattr(self, "end", outcome.former(self.cause, self.exit_code))

    @property
    def word(self) -> str:
        """The run's state."""
        return str(self.end.value) if self.end else ""

    @property
    def reported(self) -> Result:
        """What the launcher knows of the result."""
        return msgspec.convert(self.result, Result)


class EngineUsed(Noun, frozen=True, kw_only=True):
    """The engine that has the run, and where it answers."""

    kind: str
    address: str


class Record(Noun, frozen=True, kw_only=True):
    """record.json: alone enough to understand a run, and to repeat it.

    `asked`: None of what is no launch of its own (a rehearsal, a conversion for a cache), and in older records.
    `resumed_by`: runs that have gone on from it.
    """

    schema: Literal[1]
    run: str
    directory: str
    state: State
    plan_hash: str
    plan: Plan
    request: dict[str, Any]
    engine: EngineUsed
    slipway: str
    argv: list[str]
    submitted: str
    outcome: Outcome | None = None
    versions: dict[str, Any] = {}
    config: str = ""
    name: str = ""
    tags: dict[str, str] = {}
    asked: Asked | None = None
    resumed_by: list[Former] = []

    def __post_init__(self) -> None:
        if self.engine.kind != self.plan.profile.kind:
            raise ValueError(f"the engine is {self.engine.kind!r}, the profile is for {self.plan.profile.kind}")


class _Schema(msgspec.Struct):
    """What every record says, of whichever release."""

    schema: int


class _Event(msgspec.Struct):
    """A line of events.jsonl, as far as anybody reads it."""

    event: str


class Run:
    """One run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    @property
    def log(self) -> Path:
        return self.path / "logs" / "step.log"

    @property
    def record_file(self) -> Path:
        return self.path / "record.json"

    @property
    def ours(self) -> bool:
        """Whether it is the caller's: what is in another user's run directory is looked at, and never acted upon."""
        with cannot_read(self.path):
            here = self.path.lstat()  # of a link, both whoever made it and whose directory it names
            owners = {here.st_uid, self.path.stat().st_uid if stat.S_ISLNK(here.st_mode) else here.st_uid}
            return owners == {os.geteuid()}

    def record(self) -> Record | None:
        """The record; None where the launcher died before it was written. Raises SlipwayError 65 where it is broken."""
        data = inbox.read(self.path, self.record_file.name, RECORD_LIMIT)
        return None if data is None else _decoded(data, self.record_file)

    def write(self, record: Record) -> None:
        """Replaces the record, by one that can be read again: raises SlipwayError 65 and leaves the old one else."""
        try:
            data = canonical.pretty(record).encode()
        except (ValueError, RecursionError) as e:
            raise Damaged(f"cannot be recorded: {e}", self.record_file) from e
        _decoded(data, self.record_file)
        write_atomic(self.record_file, data, PRIVATE)

    def event(self, what: str, **facts: Any) -> None:
        """Appends one line to events.jsonl (one write: lines of two processes do not mix)."""
        line = json.dumps({"time": now(), "event": what, **facts}, sort_keys=True) + "\n"
        with cannot_write(self.path), open(self.path / "events.jsonl", "ab+", opener=inbox.opener) as f:
            cut = f.seek(0, os.SEEK_END) and f.seek(-1, os.SEEK_END) and f.read(1) != b"\n"  # by a kill, or a full disk
            f.write(b"\n" * cut + line.encode())

    def had_event(self, what: str) -> bool:
        """Whether `event(what)` was written; what is no event, such as a line that a kill cut off, does not count."""
        lines = (inbox.read(self.path, "events.jsonl", RECORD_LIMIT) or b"").splitlines()
        return any(_event(line) == what for line in lines if what.encode() in line)

    def call(self, name: str) -> None:
        """Leaves the run's name beside its record, so that it is found without reading all records."""
        if name:
            write_atomic(self.path / "name", f"{name}\n", PRIVATE)

    @property
    def name(self) -> str:
        """Empty where it has none that can be read."""
        with contextlib.suppress(SlipwayError):
            return (inbox.read_text(self.path, "name", labels.LONGEST) or "").strip()
        return ""

    @contextlib.contextmanager
    def lock(self, wait: bool = False, name: str = "lock") -> Iterator[bool]:
        """Holds the run's lock; yields False where another living process has it and `wait` is not asked for.

        `name`: of the file; `cancel` is held for the moment in which the run is told to stop.
        """
        path = self.path / name
        with cannot_write(path):
            handle = open(path, "w", opener=inbox.opener)  # noqa: SIM115 - closed below, while it is held
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


def read_record(path: Path) -> Record:
    """A record wherever it lies. Raises SlipwayError 65, 66 where there is none, 77."""
    data = inbox.read(path.parent, path.name, RECORD_LIMIT, shared=True)
    if data is None:
        raise SlipwayError(Exit.NO_INPUT, "there is no such record", where=str(path))
    return _decoded(data, path)


def _decoded(data: bytes, path: Path) -> Record:
    try:
        return older.decode(data, Record, path)
    except Damaged as e:
        why = f"schema {other}, expected {SCHEMA} (slipway {__version__})" if (other := _schema(data)) else e.what
        raise Damaged(f"not a run record: {why}", path) from e


def _schema(data: bytes) -> int:
    """Of what another slipway has written; 0 where it is ours, or says none."""
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        found = msgspec.json.decode(data, type=_Schema).schema
        return found if found != SCHEMA else 0
    return 0


def _event(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=_Event).event
    except (msgspec.DecodeError, RecursionError):
        return ""


def now() -> str:
    """The time as records write it: ISO 8601, UTC, seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def runs_dir(root: Root, option: str | None, profile_runs: str | None) -> Path:
    """`--runs-dir`, the profile's `runs:`, $SLIPWAY_RUNS, else the project's own."""
    named = option or profile_runs or os.environ.get("SLIPWAY_RUNS", "").strip()
    return Path(named).expanduser().absolute() if named else root.runs


def spoken(root: Root, path: Path) -> str:
    """How a command of this shell names a run: by its id where it looks by itself, else by its directory."""
    with contextlib.suppress(SlipwayError):  # a shell whose profile is broken finds nothing by itself
        profile = profiles.find_profile(root, os.environ.get("SLIPWAY_PROFILE", "").strip() or "docker")
        if runs_dir(root, None, profile.runs) == path.parent:
            return path.name
    return shlex.quote(str(path))


def is_id(name: str) -> bool:
    """Whether a name is one that runs have."""
    return _ID.fullmatch(name) is not None


def order(run_id: str) -> tuple[str, str, int]:
    """By what ids are sorted, oldest first: -10 comes after -2."""
    found = _ID.fullmatch(run_id)
    return (found[1], found[2], int(found[3] or 1)) if found else (run_id, "", 0)


def find(runs: Path, name: str, *others: Path) -> Run:
    """A run by its id, its name, a part that no other id has, its directory, or `last`, in `runs` and in `others`.

    Raises SlipwayError 64, 66, 77.
    """
    folders = list(dict.fromkeys((runs, *others)))
    for path in (*(folder / name for folder in folders), Path(name)):
        _check_readable(path)
    if "/" in name or _is_file(Path(name, "plan.json")):
        if not _is_file(Path(name, "plan.json")) and not _is_file(Path(name, "lock")):
            raise SlipwayError(Exit.NO_INPUT, "there is no such run directory", where=name)
        return Run(Path(name).resolve())
    found = list_runs(folders)
    if name == "last" and found:
        return found[-1]
    fitting = [run for run in found if run.id == name] or _called(found, name)
    fitting = fitting or [run for run in found if name and name in run.id]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        what = f"{name!r} fits {len(fitting)} runs: {', '.join(_told_apart(fitting[-SHOWN:]))}"
        more = f"; the last {SHOWN} are named" if len(fitting) > SHOWN else ""
        remedy = f"say more of one{more}"
        raise SlipwayError(Exit.WORDS, what, where=str(runs), remedy=remedy)
    ids = [run.id for run in found]
    remedy = nearest(name, ids[-MOST:]) if ids else "nothing has been launched from here yet; see also --runs-dir"
    raise SlipwayError(Exit.NO_INPUT, f"there is no run {name!r}", where=str(runs), remedy=remedy)


def _called(runs: list[Run], name: str) -> list[Run]:
    """Those of that name; of most runs there is no file to read."""
    return (
        [r for r in runs if os.path.lexists(f"{r.path}/name") and r.name == name]
        if labels.LABEL.fullmatch(name)
        else []
    )


def _told_apart(runs: list[Run]) -> list[str]:
    """Ids; the directories of those that have the same."""
    ids = [run.id for run in runs]
    return [run.id if ids.count(run.id) == 1 else str(run.path) for run in runs]


def _is_file(path: Path) -> bool:
    # Path.is_file raises for a name that is too long.
    return os.path.isfile(path)  # noqa: PTH113


def _check_readable(path: Path) -> None:
    """Raises SlipwayError 77 for the run directory of somebody else."""
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):  # noqa: PTH112 - as above
        raise SlipwayError(Exit.NOT_PERMITTED, f"is {owner(path)}'s, who alone may read it", where=str(path))
    try:
        path.lstat()
    except PermissionError as e:
        raise SlipwayError(Exit.NOT_PERMITTED, "may not be read by you", where=str(path)) from e
    except OSError:
        return


def list_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs of several folders, oldest first."""
    filled = [runs for folder in folders if (runs := [Run(folder / run_id) for run_id in list_ids(folder)])]
    return filled[0] if len(filled) == 1 else sorted(itertools.chain(*filled), key=lambda run: order(run.id))


def list_ids(runs: Path) -> list[str]:
    """Run ids, oldest first: they begin with the time. Folders that are not ours to read are left out."""
    if not runs.exists():
        return []
    if not runs.is_dir():
        raise SlipwayError(Exit.WORDS, "the runs directory is no folder", where=str(runs))
    prefix = f"{runs}/"  # there may be ten thousand, and a Path of each takes as long as all the rest
    readable = (i for i in names(runs) if os.access(prefix + i, os.R_OK | os.X_OK) or not (runs / i).is_dir())
    return sorted(readable, key=order)


def names(runs: Path) -> list[str]:
    """All that are ids, in no order."""
    try:
        with os.scandir(runs) as found:
            return [entry.name for entry in found if _ID.fullmatch(entry.name)]
    except PermissionError as e:
        raise SlipwayError(Exit.NOT_PERMITTED, "may not be read by you", where=str(runs)) from e
