"""Runs for people: list, show, logs, and the lines at a run's end."""

from __future__ import annotations

import datetime
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from launcher import engines, life, records
from launcher.engines import logfiles
from launcher.plan import RUN_DIR
from launcher.records import Record, Run
from slipway import canonical
from slipway.console import say
from slipway.errors import Exit, SlipwayError
from slipway.files import read_text
from slipway.project import find_root


def list_runs(folder: Path, as_json: bool) -> None:
    """One line a run: id, state, exit code, loss, output."""
    for run_id in records.list_ids(folder):
        run = Run(folder / run_id)
        try:
            record, state = life.refresh(run)
        except SlipwayError as e:  # a broken record or a dead engine must not hide the others
            record, state = None, f"unknown: {e.what}"
        if as_json:
            click.echo(canonical.dumps(_facts(run, record, state)))
            continue
        outcome = record.outcome if record else None
        code = "" if outcome is None else f"exit {outcome.exit_code}"
        click.echo(f"{run_id:<58} {state:<15} {code:<9} {_loss(record)}".rstrip())


def show(run: Run, as_json: bool) -> None:
    """The whole story of a run; also of a directory that `-o` wrote."""
    record, state = life.refresh(run)
    if record is None:
        if as_json:
            click.echo(read_text(run.path / "plan.json"), nl=False)
        else:
            click.echo(f"run        {run.id}\nstate      {state}\ndirectory  {run.path}")
        return
    if as_json:
        click.echo(read_text(run.record_file), nl=False)
        return
    plan = record.plan
    click.echo(f"run        {run.id}")
    click.echo(f"state      {state}")
    for line in _end_lines(run, record):
        click.echo(line)
    click.echo(f"image      {plan.library}/{plan.release}-{plan.flavour}, {plan.image}")
    for name, artifact in plan.inputs.items():
        click.echo(f"input      {name} = {artifact.path} ({artifact.type}, fingerprint {artifact.fingerprint[:12]})")
    for name, tree in plan.code.items():
        image = plan.repositories.get(name, {}).get("commit") or "own"
        changes = " with changes" if tree.diff else ""
        click.echo(f"code       {name} = {tree.commit[:12]}{changes}, at {tree.path} over the image's {image[:12]}")
    click.echo(f"submitted  {record.submitted}, with slipway {record.slipway}: {shlex.join(['launch', *record.argv])}")
    if record.engine["kind"] == "slurm" and (run.path / "job").is_file():
        click.echo(f"job        {read_text(run.path / 'job').strip()}")
    for log in sorted((run.path / "logs").glob("*.log")):
        click.echo(f"log        {log}")
    if not any((run.path / "logs").glob("*.log")):
        click.echo(f"log        still with the engine: launch logs {records.spoken(find_root(), run.path)}")
    click.echo(f"record     {run.record_file}")


def logs(run: Run, follow: bool) -> None:
    """The log as the engine has it, else as it was collected."""
    record, state = life.refresh(run)
    if record is None:
        raise SlipwayError(Exit.NO_INPUT, f"there is no log: {state}", where=str(run.path))
    kept = engines.of(record.engine["kind"]).KEEPS_LOG
    printed = _engine_log(run, record, follow) if record.outcome is None else 0
    if printed:
        life.refresh(run)
    if kept and run.log.exists():  # all of it, or what the engine did not tell: a container may be removed meanwhile
        with run.log.open("rb") as f:
            f.seek(printed)
            shutil.copyfileobj(f, sys.stdout.buffer)
    elif not printed:
        sys.stdout.buffer.writelines(logfiles.read(run.path / "logs", None))
    sys.stdout.buffer.flush()


def ray_logs(run: Run) -> None:
    """What Ray has written, by node and file, and the log, which is the driver's. Raises SlipwayError 66: no Ray."""
    life.refresh(run)
    nodes = sorted(run.path.glob("container/*/ray"), key=lambda path: int(path.parent.name))
    if not nodes:
        raise SlipwayError(Exit.NO_INPUT, "this run has started no Ray", where=str(run.path))
    for node in nodes:
        host = read_text(node / "host").strip() if (node / "host").is_file() else node.parent.name
        for path in sorted(node.rglob("*.*")):
            if path.is_file() and path.stat().st_size:
                click.echo(f"\n==> {host} {path.relative_to(node)} <==")
                with path.open("rb") as f:
                    shutil.copyfileobj(f, sys.stdout.buffer)
    click.echo("\n==> driver <==")
    logs(run, follow=False)


def follow(run: Run) -> Record:
    """The log until the run's end, then the lines about it; returns the record. Ctrl-C leaves the run alone."""
    logs(run, follow=True)
    record, _ = life.refresh(run)
    if record is None or record.outcome is None:
        raise SlipwayError(Exit.INTERNAL, "the run goes on although its log ended", where=str(run.path))
    print_end(run, record)
    return record


def _engine_log(run: Run, record: Record, follow: bool) -> int:
    """Prints what the engine has; the number of bytes, 0 where it has nothing of the run, not yet or not any more."""
    printed = 0
    with engines.of_record(record.engine) as engine:
        try:
            if follow:
                life.await_start(run, engine)
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
    say(f"run        {run.id}: {life.word(record)}")
    for line in _end_lines(run, record):
        say(line)
    plan = record.plan
    say(f"image      {plan.library}/{plan.release}-{plan.flavour}, {plan.image}")
    say(f"record     {run.record_file}")


def _end_lines(run: Run, record: Record) -> list[str]:
    outcome, plan = record.outcome, record.plan
    if outcome is None:
        return [f"step       {plan.step}"]
    why = f" ({outcome.cause}: {outcome.reason})" if outcome.exit_code else ""
    lines = [f"step       {plan.step}: exit {outcome.exit_code}{why}"]
    seconds = _seconds(outcome.started, outcome.finished)
    if seconds is not None:
        lines.append(f"time       {seconds:.0f} s")
    if outcome.checkpoint:
        lines.append(f"checkpoint {outcome.checkpoint} ({outcome.result.get('type', plan.output_type)})")
    else:
        output = plan.output.replace(RUN_DIR, str(run.path))
        lines.append(f"output     {output} (no finished checkpoint was reported)")
    if loss := _loss(record):
        lines.append(f"loss       {loss}")
    return lines


def _loss(record: Record | None) -> str:
    result = record.outcome.result if record and record.outcome else {}
    if result.get("last_loss") is None:  # no step was trained: stopped early, or resumed when nothing was left to do
        return ""
    return f"{result['first_loss']:.3f} -> {result['last_loss']:.3f} in {result.get('steps', '?')} steps"


def _seconds(started: str, finished: str) -> float | None:
    """Between two ISO 8601 times (Docker writes nanoseconds, which Python 3.11 cuts to microseconds)."""
    try:
        begin, end = (datetime.datetime.fromisoformat(t) for t in (started, finished))
    except ValueError:
        return None
    return (end - begin).total_seconds()


def _facts(run: Run, record: Record | None, state: str) -> dict[str, Any]:
    outcome = record.outcome if record else None
    return {
        "run": run.id,
        "state": state,
        "step": record.plan.step if record else None,
        "exit_code": outcome.exit_code if outcome else None,
        "cause": outcome.cause if outcome else None,
        "directory": str(run.path),
    }
