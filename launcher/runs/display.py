"""A run for people: show, logs, and the lines at its end."""

from __future__ import annotations

import datetime
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from launcher import engines
from launcher.catalog import fabrics
from launcher.core.plan import RUN_DIR
from launcher.engines import logfiles, slurmjobs
from launcher.records import run_directory
from launcher.records.run_directory import Record, Run
from launcher.runs import explaining, lifecycle, progress
from slipway import inbox
from slipway.console import say
from slipway.errors import Exit, SlipwayError, visible
from slipway.inbox import Damaged
from slipway.project import find_root


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
    if called := [record.name, *(f"{key}={value}" if value else key for key, value in record.tags.items())]:
        yield from (f"name       {' '.join(filter(None, called))}" for _ in range(any(called)))
    yield f"state      {state}"
    yield from _end_lines(run, record)
    if record.outcome is None and (line := progress.of(run, record).line):
        yield f"progress   {line}"
    yield f"image      {plan.library}/{plan.release}-{plan.flavour}, {plan.image}"
    if plan.gpus:
        yield f"gpus       {', '.join(plan.gpus.uuids or plan.gpus.ids)}"
    for name, artifact in plan.inputs.items():
        of_run = f", of run {plan.from_run[name].run}" if name in plan.from_run else ""
        yield f"input      {name} = {artifact.path} ({artifact.type}, fingerprint {artifact.fingerprint[:12]}{of_run})"
    if record.asked and record.asked.resumes:
        yield f"resumes    {record.asked.resumes.run}"
    yield from (f"resumed by {by.run}" for by in record.resumed_by)
    if record.asked and (former := record.asked.replays):
        yield f"replays    {former.run}{', but for: ' if former.differs else ''}{'; '.join(former.differs)}"
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
        lines.append(f"output     {output}{'' if plan.by_hand else ' (no finished checkpoint was reported)'}")
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
