"""`launch runs`: the table of runs, and its JSON."""

from __future__ import annotations

import datetime
import fnmatch
import itertools
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec

from launcher.records import run_directory, run_index
from launcher.records.container_reports import Result
from launcher.records.metrics import Measured
from launcher.records.run_directory import Record, Run
from launcher.records.run_index import Index, Row
from launcher.runs import lifecycle, progress
from slipway import tables
from slipway.errors import Exit, SlipwayError
from slipway.inbox import Damaged

AGAIN = 2.0  # seconds between two looks with --watch
ACTIVE = ("running", "pending", "starting", "ending", "being prepared")  # states that pass, as their first words
HEADS = ("RUN", "STATE", "EXIT", "AGE", "PROGRESS", "LOSS", "STEP", "PROFILE", "NAME")
SPARED = ("STEP", "PROFILE", "EXIT", "NAME", "AGE")  # left out one by one on a narrow terminal; ids name the step
_AGE = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Wanted:
    """Which runs are listed: in one of these states, of a step of one of these ids or folders, of one of these
    profiles, with one of these names (or patterns) and all of these tags, not submitted before; the newest of those."""

    states: Sequence[str] = ()
    steps: Sequence[str] = ()
    profiles: Sequence[str] = ()
    names: Sequence[str] = ()
    tags: Sequence[str] = ()
    since: str = ""
    most: int | None = None
    begin: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "begin", begin_of(self.since) if self.since else "")

    def __call__(self, row: Row) -> bool:
        """A state with a reason, `pending (Priority)`, is known by its first words."""
        return (
            (not self.states or any(row.state == s or row.state.startswith(f"{s} (") for s in self.states))
            and (not self.steps or any(f"{row.step or ''}/".startswith(f"{s.rstrip('/')}/") for s in self.steps))
            and (not self.profiles or row.profile in (None, *self.profiles))
            and (not self.names or any(fnmatch.fnmatchcase(row.name, name) for name in self.names))
            and all(_tagged(row, tag) for tag in self.tags)
        )


def _tagged(row: Row, tag: str) -> bool:
    key, equals, value = tag.partition("=")
    return key in row.tags and (not equals or row.tags[key] == value)


def begin_of(since: str) -> str:
    """The time with which ids begin that are not older than `since`: `90m`, `12h`, `3d`, `2w`, or an ISO 8601 date or
    time, of this machine's zone unless it names one. Raises SlipwayError 64."""
    now = datetime.datetime.now(datetime.UTC)
    try:
        if age := _AGE.fullmatch(since):
            begin = now - datetime.timedelta(seconds=int(age[1]) * _SECONDS[age[2]])
        else:
            begin = datetime.datetime.fromisoformat(since).astimezone(datetime.UTC)
        return begin.strftime(run_directory.STAMP)
    except (ValueError, OverflowError) as e:
        remedy = "write an age, such as 90m, 12h, 3d or 2w, or a date, such as 2026-11-27"
        raise SlipwayError(Exit.WORDS, f"{since!r} is no time", where="--since", remedy=remedy) from e


def list_runs(folders: list[Path], as_json: bool, wanted: Wanted, watch: bool = False) -> None:
    """The table, newest last; where it is watched, again and again until no run of it goes on."""
    while True:
        rows = find_rows(folders, wanted)
        if as_json:
            text = b"".join(msgspec.json.encode(_facts(row)) + b"\n" for row in rows).decode()
        else:
            text = table(rows, tables.terminal_width())
        click.echo(("\x1b[H\x1b[2J" if watch and sys.stdout.isatty() else "") + text, nl=False)
        if not (watch and any(row.state.startswith(ACTIVE) for row in rows)):
            return
        time.sleep(AGAIN)


def find_rows(folders: list[Path], wanted: Wanted) -> list[Row]:
    """Those that are wanted, oldest first. From the newest on, so that no more are looked at than are listed."""
    each = [(Index(folder, os.environ), run_directory.list_ids(folder)) for folder in folders]
    runs = [(run_id, index) for index, ids in each for run_id in ids if run_id >= wanted.begin]
    if sum(bool(ids) for _, ids in each) > 1:
        runs.sort(key=lambda run: run_directory.order(run[0]))
    rows = (index.get(run_id) or _row(Run(Path(index.folder, run_id)), index) for run_id, index in reversed(runs))
    found = list(itertools.islice(filter(wanted, rows), wanted.most))
    for index, ids in each:
        index.save(set(ids))
    return found[::-1]


def _row(run: Run, index: Index) -> Row:
    """How a run stands; one that is broken, or whose engine is dead, hides no other."""
    made_of = run_index.stamp(index.folder, run.id)
    try:
        record, state = lifecycle.refresh(run)
        made = _of(run, record, state)
    except SlipwayError as e:
        file = e.where.removeprefix(f"{run.path}/") if e.where.startswith(f"{run.path}/") else ""
        what = f"{file}: {e.what}" if file else e.what
        state = "damaged" if isinstance(e, Damaged) else "unknown"
        return Row(run=run.id, state=state, directory=str(run.path), damaged=[what])
    if record and record.outcome and state != lifecycle.ANOTHERS and run.had_event("ended"):  # nothing is left to do
        index.put(made_of, made)
    return made


def _of(run: Run, record: Record | None, state: str) -> Row:
    if record is None:
        return Row(run=run.id, state=state, directory=str(run.path))
    outcome, plan = record.outcome, record.plan
    far = progress.of(run, record) if plan.metrics.lines else progress.Progress()
    result, last = outcome.reported if outcome else None, far.last
    return Row(
        run=run.id,
        state=state,
        step=plan.step,
        name=record.name,
        tags=record.tags,
        profile=plan.profile.name,
        exit_code=outcome.exit_code if outcome else None,
        cause=outcome.cause if outcome else None,
        reason=outcome.reason if outcome else None,
        submitted=record.submitted,
        steps_done=result.steps if result and result.steps is not None else last.step if last else None,
        steps=result.total_steps if result and result.total_steps is not None else last.steps if last else None,
        loss=_loss(result, "last_loss") if result and result.steps is not None else _loss(last, "loss"),
        tokens_per_s=last.tokens_per_s if last else None,
        seconds_left=far.seconds_left,
        directory=str(run.path),
        damaged=outcome.damaged if outcome else [],
    )


def _loss(of: Result | Measured | None, name: str) -> float | str | None:
    return None if of is None else of.not_finite.get(name, getattr(of, name))


def _facts(row: Row) -> dict[str, object]:
    """All of a row, for programs; `age` in seconds."""
    return {**{name: getattr(row, name) for name in row.__struct_fields__}, "age": age(row)}


def age(row: Row) -> int | None:
    """Seconds since a run was submitted; where its record does not say that, since its id was made."""
    try:
        begin = datetime.datetime.fromisoformat(row.submitted) if row.submitted else None
    except ValueError:
        begin = None
    if begin is None or begin.tzinfo is None:
        begin = datetime.datetime.strptime(row.run[:16], run_directory.STAMP).replace(tzinfo=datetime.UTC)
    return int(time.time() - begin.timestamp())


def table(rows: Iterable[Row], width: int | None) -> str:
    """The rows below their heads; nothing of no rows. `width`: of the terminal, where it is one."""
    lines = [(_cells(row), _note(row)) for row in rows]
    if not lines:
        return ""
    known = len(HEADS) if any(cells[-1] for cells, _ in lines) else len(HEADS) - 1  # nobody has called any by a name
    shown = [(*HEADS[:known], ""), *((*cells[:known], note) for cells, note in lines)]
    return tables.columns(shown, width=width, spared=[HEADS.index(h) for h in SPARED if h in HEADS[:known]])


def _note(row: Row) -> str:
    """What is wrong with what a run has left; where it has no record that can be read, its state says that it is."""
    return f"{'' if row.step is None else 'damaged: '}{'; '.join(row.damaged)}" if row.damaged else ""


def _cells(row: Row) -> tuple[str, ...]:
    seconds = age(row)
    done = "" if row.steps_done is None else f"{row.steps_done}{f'/{row.steps}' if row.steps else ''}"
    left = f" ({progress.span(row.seconds_left)})" if row.seconds_left is not None else ""
    loss = f"{row.loss:.4g}" if isinstance(row.loss, float) else row.loss or ""
    return (
        row.run, row.state, "" if row.exit_code is None else str(row.exit_code),
        "" if seconds is None else progress.span(max(0, seconds)), done + left, loss, row.step or "",
        row.profile or "", row.name,
    )  # fmt: skip
