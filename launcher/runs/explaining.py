"""Why a run ended as it did: the outcome is the fact (records/outcome.py); its logs give the reason, data the remedy.

Logs are what a container wrote: of each file the end alone is read, by `inbox`, and nothing in it is believed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from launcher.catalog import causes
from launcher.catalog.causes import Row
from launcher.records import container_reports
from launcher.records.outcome import End
from launcher.records.run_directory import RECORD_LIMIT, Outcome, Record, Run
from launcher.runs import tracebacks
from launcher.runs.tracebacks import LONGEST, Log, Raised
from slipway import inbox
from slipway.errors import SlipwayError
from slipway.yamldoc import Noun

PART, ALL, FEWEST = 2**20, 2**24, 2**16  # bytes: of a log, of all of them, and of one where they are many
MOST = 256  # logs that are read
DIVERGED, RAISED = "divergence", "exception"  # the row for a loss that is no number; an exception that no row knows
RECORD, RESULT = "record.json", "container/result.json"  # where the outcome's own words stand
# Ends that say all by themselves. The others say that something was wrong, and not what.
_TOLD = frozenset({End.OUT_OF_MEMORY, End.STALLED, End.TIME_LIMIT, End.PREEMPTED, End.NEVER_STARTED,
                   End.NOT_MET})  # fmt: skip
_ASKED = frozenset({End.CANCELLED, End.STOPPED})  # its user wanted it
_NODE = re.compile(r"logs/node-(\d+)\.log")


class Found(Noun, frozen=True, kw_only=True):
    """A cause, and the line that says it. `detail`: what is known of it; `line`: 0 where the log's begin was not read.

    `where`: the nodes whose logs say it, where others' do not.
    """

    id: str
    cause: str
    remedy: str
    detail: str = ""
    where: str = ""
    quote: str = ""
    file: str = ""
    line: int = 0

    @property
    def text(self) -> str:
        return ": ".join(filter(None, [self.cause, self.detail])) + (f" ({self.where})" if self.where else "")


class Explanation(Noun, frozen=True, kw_only=True):
    """Why a run ended so. `causes`: the likeliest first, none of a run that ended as its user wanted.

    `exception`: of the process that failed first; `memory`: what was estimated of a GPU's when the run was planned,
    and what would take less, where that ran out.
    """

    schema: Literal[1]
    run: str
    state: str
    exit_code: int
    reason: str
    causes: list[Found] = []
    exception: Raised | None = None
    memory: dict[str, str] = {}


class _Planned(msgspec.Struct):
    """The event `prepared`, as far as it is read here."""

    memory: dict[str, str]


@dataclass(frozen=True)
class _Hit:
    """A line that a row's pattern fits. `order`: of its log among all; the outcome's own words come last."""

    match: re.Match[str]
    quote: str
    file: str
    line: int
    order: int


def explain(run: Run, record: Record) -> Explanation:
    """Of a run that has ended. Nothing is written; a log that cannot be read is as if it were not there."""
    outcome = record.outcome
    assert outcome is not None
    known = Explanation(schema=1, run=run.id, state=outcome.word, exit_code=outcome.exit_code, reason=outcome.reason)
    if outcome.end in _ASKED or (outcome.end is End.DONE and not _odd(outcome)):
        return known
    logs = list(_logs(run))
    raised = None if outcome.end is End.DONE else _first(logs)
    found = _causes(record, outcome, logs, raised)
    asks = {row.id for row in causes.load().lines if row.memory}
    memory = _planned(run) if found and found[0].id in asks else {}
    return msgspec.structs.replace(known, causes=found, exception=raised, memory=memory)


def summary(run: Run, record: Record) -> list[str]:
    """The two lines about a run that failed: cause and remedy; none of any other, nor of another user's."""
    if record.outcome is None or not record.outcome.exit_code or not run.ours:
        return []
    first = next(iter(explain(run, record).causes), None)
    return [f"cause      {first.text}", f"remedy     {first.remedy}"] if first else []


def text(known: Explanation) -> Iterator[str]:
    """For people, a line each, in which what logs say is still to be made visible."""
    yield f"run        {known.run}: {known.state}"
    yield f"end        exit {known.exit_code}: {known.reason}"
    raised = known.exception
    for number, cause in enumerate(known.causes):
        yield f"{'also' if number else 'cause':<10} {cause.text}"
        if cause.file:
            who = raised.who if raised and raised.text == cause.quote else ""
            place = ", ".join(filter(None, [who, _place(cause.file, cause.line)]))
            yield f"           {': '.join(filter(None, [place, cause.quote]))}"
        if not number:
            yield from _beside(known, cause)


def _beside(known: Explanation, cause: Found) -> Iterator[str]:
    """What is told of the likeliest cause alone: the exception, where that is not the cause itself, and what to do."""
    raised = known.exception
    if raised and raised.text not in (cause.quote, cause.cause):
        yield f"exception  {raised.text}"
        yield f"           {', '.join(filter(None, [raised.who, _place(raised.file, raised.line)]))}"
    if raised and raised.first:
        yield f"           it came of {raised.first}"
    if estimate := known.memory.get("estimate"):
        yield f"estimate   {estimate}"
    yield f"remedy     {cause.remedy}"
    if smaller := known.memory.get("smaller"):
        yield f"           takes less: {smaller}"


def _place(file: str, line: int) -> str:
    return f"{file}:{line}" if line else file


def _odd(outcome: Outcome) -> dict[str, str]:
    """Losses that are no numbers."""
    return {key: value for key, value in outcome.reported.not_finite.items() if key.endswith("loss")}


def _causes(record: Record, outcome: Outcome, logs: list[Log], raised: Raised | None) -> list[Found]:
    """What the end says by itself, where it does; the exception's; what else logs say; what follows of other causes."""
    ranked, same = list[tuple[tuple[bool, bool, int, int], Found]](), list[Found]()
    for row in causes.load().lines:
        if hits := list(_hits(row, outcome, logs)):
            found, of_it = _found(row, record, hits, logs), bool(raised and row.match(raised.text))
            ranked.append(((row.follows, not of_it, hits[0].order, hits[0].line), found))
            same += [found] if row.end == outcome.word else []
    ordered = [found for _, found in sorted(ranked, key=lambda each: each[0])]
    said = [*_diverged(outcome, logs), *([_end(record, outcome, same)] if outcome.end in _TOLD else [])]
    ordered = [f for f in ordered if f.id not in {f.id for f in said} and not (outcome.end in _TOLD and f in same)]
    if raised and not any(row.match(raised.text) for row in causes.load().lines):
        remedy = _remedy(causes.load().ends[End.FAILED.value], record)
        own = Found(id=RAISED, cause=raised.text, where=raised.who, remedy=remedy)
        said.append(msgspec.structs.replace(own, file=raised.file, line=raised.line))
    return [*said, *ordered] or [_end(record, outcome, [])]


def _diverged(outcome: Outcome, logs: list[Log]) -> Iterator[Found]:
    """Where the last loss is no number; with the first line that says so, which training outlived."""
    if odd := _odd(outcome):
        row = next(row for row in causes.load().lines if row.id == DIVERGED)
        detail = ", ".join(f"{key} {value}" for key, value in odd.items())
        lines = ((log, at) for log in logs for at, line in enumerate(log.plain) if row.match(line))
        log, at = next(lines, (None, 0))
        file, line, quote = (log.file, log.number(at), log.plain[at].strip()[:LONGEST]) if log else (RESULT, 0, "")
        yield Found(id=row.id, cause=row.cause, detail=detail, quote=quote, file=file, line=line, remedy=row.remedy)


def _end(record: Record, outcome: Outcome, said: list[Found]) -> Found:
    """What the end says by itself; `said`: what logs say of the same."""
    assert outcome.end is not None
    detail = outcome.reason.removeprefix(outcome.end.line).removeprefix(": ")
    remedy = _remedy(causes.load().ends[outcome.word], record)
    quote, file, line = (said[0].quote, said[0].file, said[0].line) if said else ("", "", 0)
    cause = outcome.end.line
    return Found(id=outcome.word, cause=cause, detail=detail, quote=quote, file=file, line=line, remedy=remedy)


def _remedy(said: str, record: Record) -> str:
    return said.format(run=record.run, step=record.plan.step, profile=record.plan.profile.name)


def _found(row: Row, record: Record, hits: list[_Hit], logs: list[Log]) -> Found:
    """A row's cause, with its first line."""
    first, details = hits[0], [row.said(hits[0].match)]
    if row.ranks:
        shape = record.plan.shape
        world = shape.nodes * shape.procs if record.plan.launcher == "torchrun" else 0
        details.append(tracebacks.last_rank(logs, world))
    return Found(
        id=row.id, cause=row.cause, detail="; ".join(filter(None, details)), where=_nodes(hits, logs),
        quote=first.quote, file=first.file, line=first.line, remedy=_remedy(row.remedy, record),
    )  # fmt: skip


def _nodes(hits: list[_Hit], logs: list[Log]) -> str:
    """Which nodes say it, where others do not."""
    there = {match[1] for log in logs if (match := _NODE.fullmatch(log.file))}
    here = {match[1] for hit in hits if (match := _NODE.fullmatch(hit.file))}
    if not here or here == there:
        return ""
    names = sorted(here, key=int)
    return f"on node{'s' if len(names) > 1 else ''} {', '.join(names[:8])} of {len(there)}"


def _hits(row: Row, outcome: Outcome, logs: list[Log]) -> Iterator[_Hit]:
    """The first line of each log that training did not outlive, then the outcome's own words."""
    for order, log in enumerate(logs):
        if not any(word in log.text for word in row.words):
            continue
        for at, line in enumerate(log.plain[log.outlived :], log.outlived):
            if found := row.match(line):
                yield _Hit(found, line.strip()[:LONGEST], log.file, log.number(at), order)
                break
    if found := row.match(outcome.reason):
        yield _Hit(found, outcome.reason[:LONGEST], RECORD, 0, len(logs))


def _first(logs: list[Log]) -> Raised | None:
    """The exception of the process that failed first: as torchrun saw it, else in the order of the logs.

    One that only follows of another process's end is taken where there is no other.
    """
    rank = next((rank for log in logs if (rank := tracebacks.first_rank(log)) is not None), None)
    follows = [row for row in causes.load().lines if row.follows]
    all_of_them = [raised for log in logs for raised in tracebacks.exceptions(log)]
    return min(
        all_of_them,
        key=lambda r: (any(row.match(r.text) for row in follows), rank is not None and r.who != f"rank {rank}"),
        default=None,
    )


def _planned(run: Run) -> dict[str, str]:
    """What was estimated of a GPU's memory when the run was planned; nothing where it was not."""
    try:
        events = (inbox.read(run.path, "events.jsonl", RECORD_LIMIT) or b"").splitlines()
    except SlipwayError:
        return {}
    for line in events:
        if b'"memory"' in line:
            try:
                return msgspec.json.decode(line, type=_Planned).memory
            except (msgspec.DecodeError, RecursionError):
                continue
    return {}


def _logs(run: Run) -> Iterator[Log]:
    """The ends of all logs: of the node that failed first, then of the others, then what Ray's processes wrote."""
    names = _names(run)
    part = min(PART, max(FEWEST, ALL // max(len(names), 1)))
    for name in names:
        try:
            file = inbox.opened(run.path, name)
        except SlipwayError:  # it is told where the log is shown
            continue
        if file is None:
            continue
        with file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - part))
            lines = file.read(part).decode(errors="replace").split("\n")
        yield Log(name, lines if size <= part else lines[1:], whole=size <= part)


def _names(run: Run) -> list[str]:
    try:
        first = container_reports.first_to_fail(run.path)
    except SlipwayError:
        first = 0
    own = sorted(_below(run, "logs/*.log"), key=lambda name: (name != f"logs/node-{first}.log", len(name), name))
    ray = (name for end in ("err", "out", "log") for name in _below(run, f"container/[0-9]*/ray/**/*.{end}"))
    return [*own, *sorted(ray)][:MOST]


def _below(run: Run, pattern: str) -> Iterator[str]:
    for path in run.path.glob(pattern):
        if not path.is_symlink():
            yield str(Path(path).relative_to(run.path))
