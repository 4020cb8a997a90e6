"""`launch show --timing`: where the time of a run went, from its submission to its end, phase by phase.

A phase ends with a point in time that somebody has written down: the launcher (events.jsonl), the engine, the
entrypoint or the step's own log. Between two known points nothing is left out, so the phases add up to the whole;
where a point is not known, the phases beside it are one, and that is said.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from launcher.records import container_reports, metrics
from launcher.records.run_directory import RECORD_LIMIT, Record, Run
from slipway import canonical, inbox, tables
from slipway.errors import SlipwayError

Time = datetime.datetime
LATE = 5.0  # seconds by which the clocks of launcher, engine and container may differ, or a record's whole seconds


class Point(NamedTuple):
    """The end of a phase. `told`: when that was, None where nobody has said so; `by`: what would."""

    phase: str
    told: Time | None
    by: str


class Phase(msgspec.Struct, frozen=True):
    """`share`: of the whole, 0 to 1."""

    phase: str
    seconds: float
    share: float


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds`: the whole, which the phases' add up to; `unknown`: phases whose end nobody has said -> what would.

    `goes_on`: the last phase is not over.
    """

    schema: int = 1
    run: str
    seconds: float
    phases: list[Phase]
    unknown: dict[str, str]
    goes_on: bool = False


class _Line(msgspec.Struct):
    """Of events.jsonl and attempts.jsonl, as far as it is read here."""

    event: str = ""
    time: str = ""


def of(run: Run, record: Record, now: Time | None = None) -> Timing:
    """Where its time went; of a run that goes on until `now`."""
    begin = _time(record.submitted)
    goes_on = record.outcome is None
    points = list(_points(run, record))
    if begin is None:
        return Timing(run=run.id, seconds=0.0, phases=[], unknown={"submitted": "record.json"})
    if goes_on:  # what nobody has told is yet to come
        known = next((n for n in range(len(points), 0, -1) if points[n - 1].told), 0)
        points = [*points[:known], Point(points[min(known, len(points) - 1)].phase, now or _now(), "")]
    return _divided(run, begin, points, goes_on)


def _divided(run: Run, begin: Time, points: list[Point], goes_on: bool) -> Timing:
    unknown: dict[str, str] = {}
    found: list[tuple[str, float]] = []
    before, names = begin, []
    for point in points:
        names.append(point.phase)
        told = point.told
        if told is not None and (before - told).total_seconds() > LATE:
            unknown[point.phase] = f"{point.by} is earlier than what went before: the clocks differ"
            told = None
        elif told is None:
            unknown[point.phase] = f"{point.by} does not say it"
        if told is None:
            continue
        found.append((" + ".join(names), max(0.0, (told - before).total_seconds())))
        before, names = max(before, told), []
    if names and found:
        last, seconds = found[-1]
        found[-1] = (" + ".join([last, *names]), seconds)
    whole = sum(seconds for _, seconds in found)
    phases = [Phase(name, round(seconds, 3), round(seconds / whole, 4) if whole else 0.0) for name, seconds in found]
    return Timing(run=run.id, seconds=round(whole, 3), phases=phases, unknown=unknown, goes_on=goes_on)


def _points(run: Run, record: Record) -> Iterator[Point]:
    """In their order; each phase ends with its point."""
    events = {event.event: event.time for event in _lines(run, "events.jsonl")}
    attempts = [line.time for line in _lines(run, "attempts.jsonl") if line.event == "start"]
    outcome, status = record.outcome, _status(run)
    by = "container/0/status.json"
    yield Point("submitting", _time(events.get("started", "")), "events.jsonl (started)")
    if record.engine.kind == "slurm":
        queue = "queue" if len(attempts) < 2 else f"queue and {len(attempts) - 1} earlier attempt(s)"
        started = attempts[-1] if attempts else outcome.started if outcome else ""
        yield Point(queue, _time(started), "attempts.jsonl")
    yield Point("container", _time(status.started if status else ""), by)
    checks = "checks, Ray" if record.plan.launcher == "ray" else "checks"
    yield Point(checks, _time((status and status.step_started) or ""), f"{by} (step_started)")
    if record.plan.metrics.lines:
        first, last = _training(run)
        yield Point("loading", first, "the step's log (time of its first step)")
        yield Point("training", last, "the step's log (time of its last step)")
    finished = (status.finished if status else "") or (outcome.finished if outcome else "")
    yield Point("saving" if record.plan.metrics.lines else "step", _time(finished), by)
    yield Point("collecting", _time(events.get("ended", "")), "events.jsonl (ended)")


def _training(run: Run) -> tuple[Time | None, Time | None]:
    """When training began, and when its last step was over."""
    with contextlib.suppress(SlipwayError):
        told = [m for m in metrics.everything(run) if m.time]
        if told and (first := _time(told[0].time or "")) and (last := _time(told[-1].time or "")):
            return first - datetime.timedelta(seconds=told[0].step_s or 0.0), last
    return None, None


def _status(run: Run) -> container_reports.NodeStatus | None:
    with contextlib.suppress(SlipwayError):  # what is damaged says nothing here, and is told elsewhere
        return container_reports.node_status(run.path, 0)
    return None


def _lines(run: Run, name: str) -> Iterator[_Line]:
    """Those that can be read, of a file that a kill may have cut off."""
    data = b""
    with contextlib.suppress(SlipwayError):
        data = inbox.read(run.path, name, RECORD_LIMIT) or b""
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            yield msgspec.json.decode(line, type=_Line)


def _now() -> Time:
    return datetime.datetime.now(datetime.UTC)


def _time(text: str) -> Time | None:
    """ISO 8601 with a date; what has no zone is taken for UTC, which containers have. None for anything else."""
    with contextlib.suppress(ValueError):
        found = datetime.datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    return None


def as_json(timing: Timing) -> str:
    return canonical.pretty(timing)


def text(timing: Timing) -> str:
    """A row a phase, and their sum."""
    rows = [[p.phase, f"{p.seconds:.1f} s", f"{100 * p.share:.1f} %"] for p in timing.phases]
    if timing.goes_on and rows:
        rows[-1][0] += " (so far)"
    rows.append(["whole", f"{timing.seconds:.1f} s", ""])
    unknown = (f"unknown: when {phase} was over: {why}\n" for phase, why in timing.unknown.items())
    return tables.columns([["PHASE", "TIME", "SHARE"], *rows]) + "".join(unknown)
