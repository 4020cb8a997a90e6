"""`launch cancel`: a run is asked to stop, and killed when it does not leave; also one whose directory is gone."""

from __future__ import annotations

import shlex
from pathlib import Path

from launcher import engines
from launcher.engines import Connection
from launcher.records.run_directory import Record, Run
from launcher.runs import lifecycle
from slipway.console import say
from slipway.errors import Exit, SlipwayError

CANCEL_MARGIN = 20  # seconds that the entrypoint gets beyond the step's own grace, before the kill


def cancel(run: Run) -> Record:
    """Asks the step to stop, waits for its grace, kills it after that; returns the record with its outcome."""
    if not run.ours:
        raise SlipwayError(
            Exit.NOT_PERMITTED, "it is another user's run: only that user can cancel it", where=str(run.path)
        )
    record = run.record()
    if record is None:
        raise SlipwayError(Exit.NO_INPUT, "this run was never submitted", where=str(run.path))
    if record.outcome is not None:
        return record
    with engines.of_record(record) as engine:
        lifecycle.await_start(run, engine)
        if engine.status(run).state in ("running", "pending"):
            grace = record.plan.graceful.seconds + CANCEL_MARGIN
            said = "asked to stop" if _ask_to_stop(run, engine) else "somebody has asked it to stop already"
            say(f"{said}; it gets {grace} s to save and leave")
            _await_stop(run, engine, grace)
        with run.lock(wait=True):  # a foreground launcher that is still there collects first
            record = run.record()
            return record if record and record.outcome and run.had_event("ended") else lifecycle.collect(run, engine)


def _ask_to_stop(run: Run, engine: Connection) -> bool:
    """Tells the step once, however many ask: told twice, it would have to leave without saving."""
    with run.lock(wait=True, name="cancel"):
        if run.had_event("told"):
            return False
        lifecycle.note(run, "cancel")
        engine.signal(run, "TERM")
        lifecycle.note(run, "told")
        return True


def _await_stop(run: Run, engine: Connection, grace: int) -> None:
    if not engine.wait(run, grace):
        say("killed: it did not leave in time")
        engine.signal(run, "KILL")
        engine.wait(run)


def end_lost(run: Run, kind: str, address: str) -> bool:
    """Ends and removes what an engine still has of a run whose directory is gone; whether there was anything."""
    with engines.of(kind).connect(address) as engine:
        status = engine.status(run)
        if status.state == "missing":
            return False
        if (there := engine.directory(run)) and Path(there).exists():
            remedy = f"launch cancel {shlex.quote(there)}"
            raise SlipwayError(Exit.WORDS, "its directory is elsewhere", where=there, remedy=remedy)
        if status.state == "running":
            engine.signal(run, "TERM")
            say(f"asked to stop; it gets {CANCEL_MARGIN} s to leave")
            _await_stop(run, engine, CANCEL_MARGIN)
            status = engine.status(run)
        engine.remove(run)
    say(f"run {run.id} is ended with {status.exit_code} and its container removed; its directory was gone before")
    return True
