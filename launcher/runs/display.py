"""Runs for people: list, show, logs, and the lines at a run's end."""

from __future__ import annotations

import datetime
import itertools
import shlex
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from launcher import engines
from launcher.catalog import fabrics
from launcher.core.plan import RUN_DIR
from launcher.engines import logfiles, slurmjobs
from launcher.records import run_directory
from launcher.records.run_directory import Record, Run
from launcher.runs import explaining, lifecycle
from slipway import canonical, inbox
from slipway.console import say
from slipway.errors import Exit, SlipwayError, visible
from slipway.inbox import Damaged
from slipway.project import find_root


@dataclass(frozen=True)
class Wanted:
    """Which runs are listed: in one of these states, of a step of one of these ids or folders; the newest of those."""

    states: Sequence[str] = ()
    steps: Sequence[str] = ()
    most: int | None = None

    def __call__(self, row: _Row) -> bool:
        """A state with a reason, `pending (Priority)`, is known by its first words."""
        step = row.record.plan.step if row.record else ""
        return (not self.states or any(row.state == s or row.state.startswith(f"{s} (") for s in self.states)) and (
            not self.steps or any(f"{step}/".startswith(f"{s.rstrip('/')}/") for s in self.steps)
        )


def list_runs(folders: list[Path], as_json: bool, wanted: Wanted) -> None:
    """One line a run: id, state, exit code, loss, and what is wrong with what it left."""
    found = run_directory.list_runs(folders)
    rows: Iterable[_Row] = filter(wanted, map(_row, found))
    if wanted.most is not None:  # from the newest on, so that no more are looked at than are listed
        rows = reversed(list(itertools.islice(filter(wanted, map(_row, reversed(found))), wanted.most)))
    for row in rows:
        click.echo(canonical.dumps(row.facts) if as_json else visible(row.line))


@dataclass(frozen=True)
class _Row:
    """A run in the list. `record`: None where there is none, or none that can be read."""

    run: Run
    record: Record | None
    state: str
    damaged: list[str]

    @property
    def line(self) -> str:
        outcome = self.record.outcome if self.record else None
        code = "" if outcome is None else f"exit {outcome.exit_code}"
        line = f"{self.run.id:<58} {self.state:<15} {code:<9} {_loss(self.record)}".rstrip()
        if not self.damaged:
            return line
        return line + (f": {self.damaged[0]}" if outcome is None else f" damaged: {'; '.join(self.damaged)}")

    @property
    def facts(self) -> dict[str, Any]:
        outcome = self.record.outcome if self.record else None
        return {
            "run": self.run.id,
            "state": self.state,
            "step": self.record.plan.step if self.record else None,
            "exit_code": outcome.exit_code if outcome else None,
            "cause": outcome.cause if outcome else None,
            "reason": outcome.reason if outcome else None,
            "directory": str(self.run.path),
            "damaged": self.damaged,
        }


def _row(run: Run) -> _Row:
    """How a run stands; one that is broken, or whose engine is dead, hides no other."""
    try:
        record, state = lifecycle.refresh(run)
    except SlipwayError as e:
        file = e.where.removeprefix(f"{run.path}/") if e.where.startswith(f"{run.path}/") else ""
        what = f"{file}: {e.what}" if file else e.what
        return _Row(run, None, "damaged" if isinstance(e, Damaged) else "unknown", [what])
    return _Row(run, record, state, record.outcome.damaged if record and record.outcome else [])


def show(run: Run, as_json: bool) -> None:
    """The whole story of a run; also of a directory that `-o` wrote. Raises Damaged after that, where a report is."""
    record, state = lifecycle.refresh(run)
    if as_json:
        name = "record.json" if record else "plan.json"
        click.echo(inbox.read(run.path, name, run_directory.RECORD_LIMIT) or b"", nl=False)
    elif record is None:
        _print(f"run        {run.id}", f"state      {state}", f"directory  {run.path}")
    else:
        _print(*_story(run, record, state))
    if record and record.outcome and record.outcome.damaged:
        raise Damaged("\n  ".join(record.outcome.damaged), run.path)


def _print(*lines: str) -> None:
    for line in lines:
        click.echo(visible(line))


def _story(run: Run, record: Record, state: str) -> Iterator[str]:
    plan = record.plan
    yield f"run        {run.id}"
    yield f"state      {state}"
    yield from _end_lines(run, record)
    yield f"image      {plan.library}/{plan.release}-{plan.flavour}, {plan.image}"
    if plan.gpus:
        yield f"gpus       {', '.join(plan.gpus.uuids or plan.gpus.ids)}"
    for name, artifact in plan.inputs.items():
        yield f"input      {name} = {artifact.path} ({artifact.type}, fingerprint {artifact.fingerprint[:12]})"
    for name, tree in plan.code.items():
        image = plan.repositories.get(name, {}).get("commit") or "own"
        changes = " with changes" if tree.diff else ""
        yield f"code       {name} = {tree.commit[:12]}{changes}, at {tree.path} over the image's {image[:12]}"
    yield f"submitted  {record.submitted}, with slipway {record.slipway}: {shlex.join(['launch', *record.argv])}"
    if record.engine.kind == "slurm" and (job := slurmjobs.recorded_job(run.path)):
        yield f"job        {job}"
        if nodes := slurmjobs.excluded(run.path):
            yield f"excluded   {nodes}"
    found = sorted((run.path / "logs").glob("*.log"))
    yield from (f"log        {log}" for log in found)
    if not found:
        yield f"log        still with the engine: launch logs {run_directory.spoken(find_root(), run.path)}"
    yield f"record     {run.record_file}"


def logs(run: Run, follow: bool) -> None:
    """The log as the engine has it, else as it was collected."""
    record, state = lifecycle.refresh(run)
    if record is None:
        raise SlipwayError(Exit.NO_INPUT, f"there is no log: {state}", where=str(run.path))
    kept = engines.of(record.engine.kind).KEEPS_LOG
    printed = _engine_log(run, record, follow) if record.outcome is None and state != lifecycle.ANOTHERS else 0
    if printed:
        lifecycle.refresh(run)
    # All of it, or what the engine did not tell: a container may be removed meanwhile.
    if kept and (log := inbox.opened(run.path, "logs/step.log")):
        with log:
            log.seek(printed)
            shutil.copyfileobj(log, sys.stdout.buffer)
    elif not printed:
        sys.stdout.buffer.writelines(logfiles.read(run.path / "logs", None))
    sys.stdout.buffer.flush()


def ray_logs(run: Run) -> None:
    """What Ray has written, by node and file, and the log, which is the driver's. Raises SlipwayError 66: no Ray."""
    lifecycle.refresh(run)
    nodes = sorted(
        (int(path.name), path / "ray") for path in run.path.glob("container/[0-9]*")
        if path.name.isdecimal() and (path / "ray").is_dir() and not (path / "ray").is_symlink()
    )  # fmt: skip
    if not nodes:
        raise SlipwayError(Exit.NO_INPUT, "this run has started no Ray", where=str(run.path))
    for rank, node in nodes:
        host = (inbox.read_text(run.path, f"container/{rank}/ray/host", 4096) or str(rank)).strip()
        for path in sorted(node.rglob("*.*")):
            if stat.S_ISREG(path.lstat().st_mode) and path.lstat().st_size:  # Ray's own links lead to other such files
                click.echo(f"\n==> {visible(f'{host} {path.relative_to(node)}')} <==")
                _copy(run, path)
    click.echo("\n==> driver <==")
    logs(run, follow=False)


def _copy(run: Run, path: Path) -> None:
    if file := inbox.opened(run.path, str(path.relative_to(run.path))):
        with file:
            sys.stdout.flush()
            shutil.copyfileobj(file, sys.stdout.buffer)


def follow(run: Run) -> Record:
    """The log until the run's end, then the lines about it; returns the record. Ctrl-C leaves the run alone."""
    logs(run, follow=True)
    record, _ = lifecycle.refresh(run)
    if record is None or record.outcome is None:
        raise SlipwayError(Exit.INTERNAL, "the run goes on although its log ended", where=str(run.path))
    print_end(run, record)
    return record


def _engine_log(run: Run, record: Record, follow: bool) -> int:
    """Prints what the engine has; the number of bytes, 0 where it has nothing of the run, not yet or not any more."""
    printed = 0
    with engines.of_record(record) as engine:
        try:
            if follow:
                lifecycle.await_start(run, engine)
            if engine.status(run).state == "missing":
                return 0
            for piece in engine.logs(run, follow):
                printed += sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
        except KeyboardInterrupt:
            say("the run goes on")
            sys.exit(130)
    return printed


def print_end(run: Run, record: Record) -> None:
    """What a person wants to know when a run has ended, on stderr: stdout holds the log."""
    say("")
    say(f"run        {run.id}: {lifecycle.word(record)}")
    for line in _end_lines(run, record):
        say(visible(line))
    plan = record.plan
    say(f"image      {plan.library}/{plan.release}-{plan.flavour}, {plan.image}")
    say(f"record     {run.record_file}")


def _end_lines(run: Run, record: Record) -> list[str]:
    outcome, plan = record.outcome, record.plan
    if outcome is None:
        return [f"step       {plan.step}"]
    why = f" ({outcome.cause}: {outcome.reason})" if outcome.exit_code else ""
    lines = [f"step       {plan.step}: exit {outcome.exit_code}{why}", *explaining.summary(run, record)]
    seconds = _seconds(outcome.started, outcome.finished)
    if seconds is not None:
        lines.append(f"time       {seconds:.0f} s")
    if outcome.checkpoint:
        lines.append(f"checkpoint {outcome.checkpoint} ({outcome.reported.type or plan.output_type})")
    else:
        output = plan.output.replace(RUN_DIR, str(run.path))
        lines.append(f"output     {output} (no finished checkpoint was reported)")
    if other := fabrics.other_network(getattr(plan.profile, "network", None), outcome.network):
        lines.append(f"network    {other}")
    if loss := _loss(record):
        lines.append(f"loss       {loss}")
    return [*lines, *(f"damaged    {what}" for what in outcome.damaged)]


def _loss(record: Record | None) -> str:
    return record.outcome.reported.loss() if record and record.outcome else ""


def _seconds(started: str, finished: str) -> float | None:
    """Between two ISO 8601 times (Docker writes nanoseconds, which Python 3.11 cuts to microseconds)."""
    try:
        begin, end = (datetime.datetime.fromisoformat(t) for t in (started, finished))
        return (end - begin).total_seconds()
    except (ValueError, TypeError):  # whoever wrote them: no times, or one with and one without a zone
        return None
