"""The life of a run: submit, collect, look again, cancel; each works from any process, at any time."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from launcher import engines
from launcher.core.plan import RUN_DIR, Plan
from launcher.engines import Connection, Status, logfiles
from launcher.planning.preparation import Prepared, write_run_files
from launcher.records import container_reports, outcome, run_directory, store
from launcher.records.container_reports import Reports
from launcher.records.outcome import End, Ended
from launcher.records.run_directory import EngineUsed, Outcome, Record, Run
from slipway import __version__
from slipway.console import say, say_now
from slipway.errors import Exit, SlipwayError
from slipway.files import PRIVATE, PRIVATE_FOLDER, cannot_write, own_folder, read_text, write_atomic, written

CANCEL_MARGIN = 20  # seconds that the entrypoint gets beyond the step's own grace, before the kill
ANOTHERS = "another user's"  # the state of a run in whose directory somebody else may have written anything
START_POLL = 0.1  # seconds between two looks at a container that is being started


@contextlib.contextmanager
def submitted(prepared: Prepared, after: Sequence[str] = ()) -> Iterator[tuple[Run, Connection]]:
    """Claims a run directory, writes it, starts the container, and holds the run's lock inside the block.

    `after`: jobs that have to end before it may start. What a run makes for a cache it makes under a lease: raises
    Taken where another has that. When the container cannot be started, whatever was made for it is removed again:
    nothing half-done is left.
    """
    made: list[Path] = []
    with prepared.engine.connect(prepared.address) as engine:
        _make(prepared.runs, made, 0o755)
        if prepared.plan.secrets:
            _own_secrets(prepared.runs / run_directory.SECRETS, made)
        run = run_directory.claim(prepared.runs, prepared.plan)
        with run.lock(wait=True):
            try:
                _take_lease(prepared.plan, run)
                write_run_files(prepared, run.path)
                request = prepared.engine.fill(prepared.request, run)
                _make_folders(prepared.plan, run, made)
                run.write(_first_record(prepared, run, request))
                run.event("prepared", launcher=os.getpid())
                _write_secrets(prepared.plan.profile.secrets, run)
                name = engine.submit(request, run, after)
            except SlipwayError:
                _release(prepared.plan, run)  # first: a lease whose run is gone says nothing to others
                shutil.rmtree(run.path)
                _remove_secrets(prepared.plan, run)
                for folder in (f for f in reversed(made) if f.exists() and not any(f.iterdir())):
                    folder.rmdir()
                raise
            note(run, "started", name=name, after=list(after))
            yield run, engine


def _take_lease(plan: Plan, run: Run) -> None:
    if plan.makes and (aside := store.take(Path(plan.output), run, plan.profile.kind)):
        say(f"{plan.output} was not whole: it is in {aside} now")


def _release(plan: Plan, run: Run) -> None:
    if plan.makes:
        store.release(Path(plan.output), run.id)


def _first_record(prepared: Prepared, run: Run, request: dict[str, Any]) -> Record:
    return Record(
        schema=1,
        run=run.id,
        directory=str(run.path),
        state="submitted",
        plan_hash=prepared.plan.hash,
        plan=prepared.plan,
        request=request,
        engine=EngineUsed(kind=prepared.plan.profile.kind, address=prepared.address),
        slipway=__version__,
        argv=list(prepared.argv),
        submitted=run_directory.now(),
    )


def _make_folders(plan: Plan, run: Run, made: list[Path]) -> None:
    """Makes the writable folders that are mounted, as the caller: an engine would make them as root, or refuse.

    Those that were not there are appended to `made`, parents first. Outside the run directory they are the caller's own
    data (output, caches), about which the umask says who else may use it.
    """
    for mount in plan.mounts:
        if not mount.readonly:
            mode = PRIVATE_FOLDER if mount.source.startswith(RUN_DIR) else 0o777
            _make(Path(mount.source.replace(RUN_DIR, str(run.path))), made, mode)


def _write_secrets(declared: dict[str, str], run: Run) -> None:
    """Files that nobody else can read, for the time of the run; raises SlipwayError 66 or 73."""
    for name, where in declared.items():
        value = (
            os.environ.get(name, "") if where == "env" else read_text(Path(where.removeprefix("file:"))).rstrip("\n")
        )
        with cannot_write(run.secrets):
            run.secrets.mkdir(PRIVATE_FOLDER, exist_ok=True)
        write_atomic(run.secrets / name, value, PRIVATE)


def _own_secrets(folder: Path, made: list[Path]) -> None:
    """Where runs keep their secrets. Raises SlipwayError 77: in a folder of runs that users share, it is another's."""
    new = not folder.exists()
    try:
        own_folder(folder)
        made += [folder] if new else []
    except SlipwayError as e:
        remedy = "runs with secrets need a folder of your own: --runs-dir, or `runs:` in the profile"
        raise SlipwayError(e.code, e.what, where=e.where, remedy=remedy) from e


def _remove_secrets(plan: Plan, run: Run) -> None:
    """Raises SlipwayError 73: nothing else would tell that they are still on the disk."""
    try:
        if plan.secrets:
            shutil.rmtree(run.secrets)
    except FileNotFoundError:
        return
    except OSError as e:
        what, remedy = f"this run's secrets cannot be removed: {e.strerror or e}", "remove that folder by hand"
        raise SlipwayError(Exit.CANNOT_WRITE, what, where=str(run.secrets), remedy=remedy) from e


def note(run: Run, what: str, **facts: Any) -> None:
    """An event of a run that goes on: where it cannot be written, that is said, and nothing else is left undone."""
    try:
        run.event(what, **facts)
    except SlipwayError as e:
        say_now(f"not noted ({what}): {e}")


def _make(folder: Path, made: list[Path], mode: int) -> None:
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for part in reversed(missing):
        with cannot_write(part):
            part.mkdir(mode, exist_ok=True)
        made.append(part)


def collect(run: Run, engine: Connection) -> Record:
    """Brings an ended run home: log, outcome and versions into the record, then the container is removed.

    Each step may be repeated, so a collector that is killed leaves a run that the next one finishes. The caller holds
    the run's lock. Returns the record as it is where the run still goes on.
    """
    record = run.record()
    if record is None:
        raise SlipwayError(Exit.NO_INPUT, "the launcher died before it wrote the record", where=str(run.path))
    status = engine.status(run)
    if status.state in ("running", "pending"):
        return record
    if record.outcome is None:
        if status.state == "exited" and engines.of(record.engine.kind).KEEPS_LOG:
            with _recorded(run):
                _save_log(run, engine)
        told = container_reports.read(run.path)
        known = _outcome(run, record.plan, status, told)
        record = msgspec.structs.replace(
            record, state="ended", outcome=known, versions=told.versions, config=told.config
        )
        with _recorded(run):
            run.write(record)
    _release(record.plan, run)
    engine.remove(run)
    _remove_secrets(record.plan, run)
    with _recorded(run):
        run.event("ended")
    return record


@contextlib.contextmanager
def _recorded(run: Run) -> Iterator[None]:
    """What cannot be written down now is not lost: until it is, the engine keeps it; says how to repeat it."""
    try:
        yield
    except SlipwayError as e:
        if e.code != Exit.CANNOT_WRITE:
            raise
        what = f"the run has ended, which is not recorded yet: {e.what}"
        remedy = f"make room there, then: launch show {shlex.quote(str(run.path))}"
        raise SlipwayError(e.code, what, where=e.where, remedy=remedy) from e


def _save_log(run: Run, engine: Connection) -> None:
    """The engine's whole log, in place of what was streamed until somebody was killed or the disk was full."""
    for left in run.log.parent.glob(f".{run.log.name}.*"):
        left.unlink()  # by a collector that was killed
    with cannot_write(run.log.parent):
        run.log.parent.mkdir(PRIVATE_FOLDER, exist_ok=True)
    with written(run.log, PRIVATE) as f:
        f.writelines(engine.logs(run, follow=False))


def _outcome(run: Run, plan: Plan, status: Status, told: Reports) -> Outcome:
    """What became of a run that is not running, from the engine's word and what the entrypoint wrote."""
    wrote = told.status
    code = wrote.exit_code if wrote and status.state != "exited" else status.exit_code
    ended = _not_run(run, status, told) or outcome.decide(
        status.end, code, told, _asked(run), _why(run, plan, status, told)
    )
    return Outcome(
        end=ended.end,
        exit_code=ended.exit_code(code),
        cause=ended.end.cause,
        reason=ended.reason,
        started=status.started or (wrote.started if wrote else ""),
        finished=status.finished or (wrote.finished if wrote else ""),
        checkpoint=_on_host(told.result.get("checkpoint") or told.result.get("path") or "", plan, run),
        result=told.result,
        damaged=told.damaged,
    )


def _not_run(run: Run, status: Status, told: Reports) -> Ended | None:
    """The end of what the engine has not run, or does not have any more."""
    if status.state == "created":
        return status.end or Ended(End.NEVER_STARTED)
    if status.state != "missing":
        return None
    if not run.had_event("started"):
        return Ended(End.NEVER_STARTED)
    return None if told.status else Ended(End.LOST, "its container was removed by someone else")


def _asked(run: Run) -> str:
    """By what its user wanted it to stop; `launch cancel` counts before a signal."""
    return next((what for what in ("cancel", "signal") if run.had_event(what)), "")


def _why(run: Run, plan: Plan, status: Status, told: Reports) -> str:
    """The line of the log that says why the container did not start."""
    begun = told.status and (status.end is None or status.end.end is not End.NOT_STARTED)
    return "" if begun else engines.of(plan.profile.kind).explain(logfiles.tail(run.path / "logs"))


def _on_host(path: str, plan: Plan, run: Run) -> str:
    """The host's path of something below /output in the container; empty where it is not."""
    parts = PurePosixPath(path).parts
    if parts[:2] != ("/", "output") or ".." in parts:
        return ""
    return plan.output.replace(RUN_DIR, str(run.path)) + path.removeprefix("/output")


def refresh(run: Run) -> tuple[Record | None, str]:
    """The record, brought up to date, and the run's state in a word: whoever comes first collects an ended run.

    Of another user's run it is the record as it is, if that may be read: nothing in there is acted upon.
    """
    if not run.ours:
        return _anothers(run), ANOTHERS
    ended = run.had_event("ended")  # before the record is read, which is written before that event
    record = run.record()
    if record is None:
        if not (run.path / "lock").exists():  # made by `-o`; looking leaves it as it is
            return None, "never submitted"
        with run.lock() as mine:
            return None, "never submitted" if mine else "being prepared"
    if ended:
        return record, word(record)
    with engines.of_record(record) as engine, run.lock() as mine:
        if mine:
            record = collect(run, engine)
            if record.outcome:
                return record, word(record)
        status = engine.status(run)
    record = run.record() or record  # whoever has the lock may have brought the run home since
    return record, word(record) if record.outcome else _standing(run, status)


def _anothers(run: Run) -> Record | None:
    try:
        return run.record()
    except SlipwayError as e:
        if e.code == Exit.NOT_PERMITTED:
            return None
        raise


def _standing(run: Run, status: Status) -> str:
    """How a run stands that has no outcome yet."""
    if status.state in ("running", "pending"):
        return f"{status.state} ({status.detail})" if status.detail else status.state
    return "ending" if run.had_event("started") else "starting"


def await_start(run: Run, engine: Connection) -> None:
    """Returns when nobody is about to start the run's container: it runs, has ended, or its launcher is gone."""
    while engine.status(run).state in ("missing", "created"):
        with run.lock() as free:
            if free:
                return
        time.sleep(START_POLL)


def word(record: Record) -> str:
    """The state of a run for people: running, or its end."""
    if record.outcome is None:
        return "running"
    return record.outcome.word


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
        await_start(run, engine)
        if engine.status(run).state in ("running", "pending"):
            grace = record.plan.graceful.seconds + CANCEL_MARGIN
            note(run, "cancel")
            engine.signal(run, "TERM")
            say(f"asked to stop; it gets {grace} s to save and leave")
            if not engine.wait(run, grace):
                say("killed: it did not leave in time")
                engine.signal(run, "KILL")
                engine.wait(run)
        with run.lock(wait=True):  # a foreground launcher that is still there collects first
            return collect(run, engine)
