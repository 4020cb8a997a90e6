"""metrics.jsonl of a run: a line a training step, of one schema for all libraries, read from the log while it grows.

Whoever looks at a run, or stays with it, reads on where the last one stopped. How far that is stands in
`metrics.place`, written after the lines that it counts: what a killed reader has added beyond it is cut off, and read
again.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from launcher.core.plan import Metrics, Plan
from launcher.records.container_reports import Report
from launcher.records.run_directory import RECORD_LIMIT, Run
from slipway import canonical, inbox
from slipway.errors import SlipwayError
from slipway.files import PRIVATE, write_atomic

FILE, PLACE, LOCK = "metrics.jsonl", "metrics.place", "metrics.lock"
ENGINES = "step.log"  # the log that an engine keeps, by the name under which it is collected
PIECE = 2**20  # bytes of a log that are read at a time
LONGEST = 4096  # bytes of a line that tells numbers: what a longer one would cost, a container could make any length
TAIL = 16 * 1024  # bytes at the end of metrics.jsonl in which its last lines are
RECENT = 20  # steps by whose time is told how long the rest will take
_SCALE = {"memory_gib": 2**30, "memory_gb": 10**9}


class Measured(Report, frozen=True, kw_only=True):
    """A line of metrics.jsonl: the numbers of a training step; null is what the library has not said.

    `step` counts from 1, `steps` are all that are planned. `memory_bytes`: the most that a GPU of one process has held;
    `step_s`: seconds; `time`: of the container's clock, in its zone. `not_finite`: field -> NaN, Infinity or -Infinity,
    of numbers that are null therefore, as JSON has none.
    """

    step: int
    steps: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    lr: float | None = None
    tokens_per_s: float | None = None
    memory_bytes: int | None = None
    step_s: float | None = None
    time: str | None = None
    not_finite: dict[str, str] = {}

    def number(self, name: str) -> str:
        """A number for people; empty where it is not known."""
        value = getattr(self, name)
        return self.not_finite.get(name, "") if value is None else f"{value:.4g}"


class Place(Report, frozen=True, kw_only=True):
    """How far a run's logs were read. `logs`: name -> bytes; `size`: of metrics.jsonl; `kept`: what holds for later
    steps."""

    logs: dict[str, int] = {}
    size: int = 0
    kept: dict[str, float] = {}


class Reader:
    """Makes lines of metrics.jsonl of those of a log; pure. `kept`: what earlier lines told for all that follow."""

    def __init__(self, metrics: Metrics, kept: Mapping[str, float] | None = None) -> None:
        self._lines = [(line.expression, line.keep) for line in metrics.lines]
        self._length = metrics.sequence_length
        self.kept = dict(kept or {})

    def knows(self, text: bytes) -> bool:
        """Whether any line tells anything."""
        text = _short_lines(text)
        return any(line.search(text) for line, _ in self._lines)

    def read(self, text: bytes) -> Iterator[Measured]:
        """Of whole lines, in their order."""
        text = _short_lines(text)
        found = [(m.start(), n, m) for n, (line, _) in enumerate(self._lines) for m in line.finditer(text)]
        for _, number, match in sorted(found, key=lambda item: item[:2]):
            said = {name: value.decode() for name, value in match.groupdict().items() if value is not None}
            if self._lines[number][1]:
                self.kept |= {name: value for name, value in _numbers(said).items() if math.isfinite(value)}
            else:
                yield self._measured(said)

    def _measured(self, said: dict[str, str]) -> Measured:
        numbers = self.kept | _numbers(said)
        if "step_ms" in numbers:
            numbers["step_s"] = numbers.pop("step_ms") / 1000
        rows, seconds = numbers.pop("sequences", None), numbers.get("step_s")
        if rows and seconds and self._length:
            numbers["tokens_per_s"] = round(rows * self._length / seconds, 3)
        known: dict[str, Any] = {n: v for n, v in numbers.items() if math.isfinite(v)}
        known |= {n: int(known[n]) for n in ("step", "steps", "memory_bytes") if n in known}
        odd = {n: "NaN" if math.isnan(v) else "Infinity" if v > 0 else "-Infinity" for n, v in numbers.items()
               if n not in known}  # fmt: skip
        time = said["time"].replace(" ", "T") if "time" in said else None
        return Measured(**known, time=time, not_finite=odd)


def _short_lines(text: bytes) -> bytes:
    lines = text.split(b"\n")
    return text if max(map(len, lines)) <= LONGEST else b"\n".join(line for line in lines if len(line) <= LONGEST)


def _numbers(said: Mapping[str, str]) -> dict[str, float]:
    """By the names of Measured; what is no number after all is left out."""
    found = {}
    for name, text in said.items():
        with contextlib.suppress(ValueError):
            found["memory_bytes" if name in _SCALE else name] = float(text) * _SCALE.get(name, 1)
    return found


class _Log(NamedTuple):
    """What is there of a log, from the byte `at` on."""

    at: int
    pieces: Iterable[bytes]


class Follower:
    """Takes a log as it comes, from its beginning, and adds what its lines tell to metrics.jsonl."""

    def __init__(self, run: Run, plan: Plan, name: str = ENGINES) -> None:
        self._run, self._metrics, self._name = run, plan.metrics, name
        self._reader = Reader(plan.metrics)
        self._rest, self._at = b"", 0

    def __call__(self, piece: bytes) -> None:
        """Raises OSError where it cannot be written."""
        self._rest += piece
        end = self._rest.rfind(b"\n") + 1 or (len(self._rest) if len(self._rest) > PIECE else 0)
        if not end:
            return
        try:
            told = self._reader.knows(self._rest[:end])
            if told and not _add(self._run, self._metrics, {self._name: _Log(self._at, [self._rest])}):
                return  # another process reads this very log: it comes again with the next piece
        except SlipwayError as e:
            raise OSError(e.what) from e
        self._rest, self._at = self._rest[end:], self._at + end


def update(run: Run, plan: Plan, engines: Iterable[bytes] | None = None) -> None:
    """Reads what has been added to a run's logs. `engines`: the log where an engine keeps it, from its beginning.

    Nothing happens where somebody else is at it, or where a log or a file of it cannot be read or written: what is
    known of a step's numbers is no reason to end anything.
    """
    if not plan.metrics.lines or not run.ours:
        return
    logs: dict[str, _Log | None] = {} if engines is None else {ENGINES: _Log(0, engines)}
    if engines is None:
        names = (path.name for path in (run.path / "logs").glob("*.log") if path.name != "job.log")
        logs = dict.fromkeys(sorted(names, key=lambda name: (len(name), name)))  # node-10 after node-2
    with contextlib.suppress(SlipwayError, OSError):
        _add(run, plan.metrics, logs)


def _add(run: Run, metrics: Metrics, logs: Mapping[str, _Log | None]) -> bool:
    """Adds what is new in logs: files of logs/ where none is given. False where another process is at it."""
    with run.lock(name=LOCK) as mine:
        if not mine:
            return False
        for left in run.path.glob(f".{PLACE}.*"):  # by a reader that was killed
            left.unlink()
        place = _place(run)
        reader, read = Reader(metrics, place.kept), dict(place.logs)
        with open(run.path / FILE, "ab", opener=inbox.opener) as file:
            file.truncate(min(place.size, file.tell()))
            size = min(place.size, file.tell())
            for name, log in logs.items():
                for text in _whole_lines(log, read, name) if log else _of_file(run, read, name):
                    lines = "".join(f"{canonical.dumps(measured)}\n" for measured in reader.read(text)).encode()
                    if size + len(lines) <= RECORD_LIMIT:
                        size += file.write(lines)
        if (new := Place(logs=read, size=size, kept=reader.kept)) != place:
            write_atomic(run.path / PLACE, canonical.dumps(new), PRIVATE)
        return True


def _place(run: Run) -> Place:
    with contextlib.suppress(SlipwayError):
        return inbox.read_json(run.path, PLACE, Place) or Place()
    return Place()


def _of_file(run: Run, read: dict[str, int], name: str) -> Iterator[bytes]:
    """The same of a file; all of it where it has been written anew since."""
    if file := inbox.opened(run.path, f"logs/{name}"):
        with file:
            place = read.get(name, 0)
            read[name] = file.seek(place if place <= os.fstat(file.fileno()).st_size else 0)
            yield from _whole_lines(_Log(read[name], iter(partial(file.read, PIECE), b"")), read, name)


def _whole_lines(log: _Log, read: dict[str, int], name: str) -> Iterator[bytes]:
    """The lines of a log that are new and whole, in pieces; says in `read` how far they reach."""
    at, done, rest = log.at, max(log.at, read.get(name, 0)), b""
    for piece in log.pieces:
        rest += piece[max(0, done - at) :] if at < done else piece
        at += len(piece)
        if end := rest.rfind(b"\n") + 1 or (len(rest) if len(rest) > PIECE else 0):
            text, rest, done = rest[:end], rest[end:], done + end
            read[name] = done
            yield text


def _lines(data: bytes) -> Iterator[Measured]:
    """Those that are whole and of this schema; others are of another release, or torn."""
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            yield msgspec.json.decode(line, type=Measured)


def last(run: Run, count: int = 1) -> list[Measured]:
    """The last lines of metrics.jsonl, oldest first; none where there are none, or none that can be read."""
    with contextlib.suppress(SlipwayError, OSError):
        if file := inbox.opened(run.path, FILE):
            with file:
                begin = max(0, os.fstat(file.fileno()).st_size - TAIL)
                file.seek(begin)
                data = file.read(TAIL)
            return list(_lines(data.partition(b"\n")[2] if begin else data))[-count:]
    return []


def everything(run: Run) -> list[Measured]:
    """All lines; of a step that was trained again, after a restart, the last."""
    with contextlib.suppress(SlipwayError):
        found = {m.step: m for m in _lines(inbox.read(run.path, FILE, 2 * RECORD_LIMIT) or b"")}
        return [found[step] for step in sorted(found)]
    return []


def seconds_left(recent: list[Measured]) -> float | None:
    """How long the steps that are left will take, by the median of recent ones; None where that is not known."""
    times = [m.step_s for m in recent if m.step_s is not None]
    if not times or recent[-1].steps is None:
        return None
    return max(0, recent[-1].steps - recent[-1].step) * statistics.median(times)
