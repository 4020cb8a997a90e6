"""The life of a run: submit, collect, look again, cancel; each works from any process, at any time."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from launcher import engines
from launcher.catalog import fabrics
from launcher.core.plan import RUN_DIR, Plan
from launcher.engines import Connection, Status, logfiles
from launcher.planning.run_files import Prepared, write_run_files
from launcher.records import (
    claiming,
    container_reports,
    former,
    metrics,
    outcome,
    outputs,
    run_directory,
    run_secrets,
    store,
)
from launcher.records.container_reports import Reports
from launcher.records.leases import Holder
from launcher.records.outcome import End, Ended
from launcher.records.run_directory import EngineUsed, Outcome, Record, Run
from slipway import __version__
from slipway.console import say, say_now
from slipway.errors import Exit, SlipwayError
from slipway.files import PRIVATE, PRIVATE_FOLDER, cannot_write, written

ANOTHERS = "another user's"  # the state of a run in whose directory somebody else may have written anything
START_POLL = 0.1  # seconds between two looks at a container that is being started


@contextlib.contextmanager
def submitted(
    prepared: Prepared, after: Sequence[str] = (), ok: Sequence[str] = ()
) -> Iterator[tuple[Run, Connection]]:
    """Claims a run directory, writes it, starts the container, and holds the run's lock inside the block.

    `after`: jobs that have to end before it may start; `ok`: and well. What a run makes for a cache it makes under a
    lease: raises Taken where another has that. When the container cannot be started, whatever was made for it is
    removed again: nothing half-done is left.
    """
    made: list[Path] = []
    output: outputs.Claim | None = None
    with prepared.engine.connect(prepared.address) as engine:
        _make(prepared.runs, made, 0o755)
        if prepared.plan.secrets:
            run_secrets.make_room(prepared.runs / prepared.plan.secrets_folder, made)
        run = claiming.claim(prepared.runs, prepared.plan)
        with run.lock(wait=True):
            try:
                _make_cached(prepared, run)
                output = _claim_output(prepared, run, made)
                write_run_files(prepared, run.path)
                run.call(prepared.labels.name)
                request = prepared.engine.fill(prepared.request, run)
                _make_folders(prepared.plan, run, made)
                run.write(_first_record(prepared, run, request))
                run.event("prepared", launcher=os.getpid(), memory=prepared.memory)
                run_secrets.write(prepared.plan, run)
                name = engine.submit(request, run, after, ok)
            except SlipwayError:
                if output:
                    output.give_back()
                _release(prepared.plan, run)  # first: a lease whose run is gone says nothing to others
                shutil.rmtree(run.path)
                run_secrets.remove(prepared.plan, run)
                for folder in (f for f in reversed(made) if f.exists() and not any(f.iterdir())):
                    folder.rmdir()
                raise
            note(run, "started", name=name, after=[*after, *ok])
            claiming.remember(run)
            if prepared.asked and prepared.asked.resumes:
                former.resumed(prepared.asked.resumes, run)
            yield run, engine


def _make_cached(prepared: Prepared, run: Run) -> None:
    plan = prepared.plan
    if plan.makes and (aside := store.take(Path(plan.output), run, plan.profile.kind, prepared.address)):
        say(f"{plan.output} was not whole: it is in {aside} now")


def _claim_output(prepared: Prepared, run: Run, made: list[Path]) -> outputs.Claim | None:
    """The output is this run's alone until it is collected; what a cache gets has a lease of its own."""
    plan = prepared.plan
    if plan.makes:
        return None
    folder = _output_of(plan, run)
    _make(folder, made, PRIVATE_FOLDER if plan.output.startswith(RUN_DIR) else 0o777)
    claim = outputs.Claim(folder, run, prepared.asked.resumes if prepared.asked else None)
    claim.take(plan, prepared.address, partial(lives, does=f"writes into {folder}"))
    return claim


def _output_of(plan: Plan, run: Run) -> Path:
    """On the host."""
    return Path(plan.output.replace(RUN_DIR, str(run.path)))


def lives(found: Holder, remedy: str, does: str = "makes it") -> bool:
    """Whether the run of a lease goes on, by its engine's word; one that has ended is collected.

    `remedy`: what to do where nobody can tell; `does`: what the lease is for. Raises SlipwayError 75 where only another
    host, or another user, could tell.
    """
    run = Run(Path(found.directory))
    if not os.access(run.path, os.R_OK | os.X_OK):
        return _lives_unseen(found, run, does, remedy)
    if found.host != os.uname().nodename and engines.of(found.kind).ATTACHED:
        remedy = f"wait for it: launch show {shlex.quote(found.directory)}, on {found.host}"
        raise SlipwayError(Exit.TRY_AGAIN, f"run {found.run} {does} on {found.host}", remedy=remedy)
    record, state = refresh(run)
    if state == ANOTHERS and not (record and record.outcome):
        remedy = f"wait for it: {found.directory} is of another user, who alone can look how it stands"
        raise SlipwayError(Exit.TRY_AGAIN, f"run {found.run} of another user {does}", remedy=remedy)
    return record.outcome is None if record else state != "never submitted"


def _lives_unseen(found: Holder, run: Run, does: str, remedy: str) -> bool:
    """Of a run whose directory is gone, or another user's: told where the engine knows runs by their names."""
    engine = engines.of(found.kind)
    gone = os.access(run.path.parent, os.R_OK | os.X_OK) and not os.path.lexists(run.path)
    if gone and engine.BY_NAME and found.address and found.host == os.uname().nodename:
        with engine.connect(found.address) as connection:
            if connection.status(run).state in ("missing", "exited", "created"):
                return False
        what = f"run {found.run} {does}, and its directory {found.directory} was removed"
        raise SlipwayError(Exit.TRY_AGAIN, what, remedy=f"end it: launch cancel {found.run}")
    what = f"run {found.run} of {found.host} {does}, and {found.directory} cannot be seen from here"
    raise SlipwayError(Exit.TRY_AGAIN, what, remedy=remedy)


def _release(plan: Plan, run: Run) -> None:
    if plan.makes:
        store.release(Path(plan.output), run.id)
        return
    folder = _output_of(plan, run)
    try:
        outputs.release(folder, run.id, goes_on="resume" in plan.config)
    except OSError as e:  # a lease of a run that has ended binds nobody
        say_now(f"note: {outputs.lease(folder)} could not be removed: {e.strerror or e}")


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
        name=prepared.labels.name,
        tags=prepared.labels.tags,
        asked=prepared.asked,
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
    if record is None and not run.path.exists():
        raise _removed(run, engine)
    if record is None:
        raise SlipwayError(Exit.NO_INPUT, "the launcher died before it wrote the record", where=str(run.path))
    status = engine.status(run)
    if status.state in ("running", "pending"):
        return record
    if record.outcome is None:
        if status.state == "exited" and engines.of(record.engine.kind).KEEPS_LOG:
            with _recorded(run):
                _save_log(run, engine)
        metrics.update(run, record.plan)
        told = container_reports.read(run.path)
        known = _outcome(run, record.plan, status, told)
        record = msgspec.structs.replace(
            record, state="ended", outcome=known, versions=told.versions, config=told.config
        )
        with _recorded(run):
            run.write(record)
    for left in run.path.glob(f".{run.record_file.name}.*"):  # by a launcher or collector that was killed
        left.unlink()
    _release(record.plan, run)
    engine.remove(run)
    run_secrets.remove(record.plan, run)
    with _recorded(run):
        run.event("ended")
    return record


def _removed(run: Run, engine: Connection) -> SlipwayError:
    """What is left to do, and to say, of a run whose directory somebody has removed while it ran."""
    status = engine.status(run)
    what = "the run directory was removed while the run went on: there is no record"
    if status.state == "exited":
        engine.remove(run)
        what += f"; the run has ended with {status.exit_code}, and its container is removed"
    return SlipwayError(Exit.NO_INPUT, what, where=str(run.path))


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
        reason=_with_network(ended, plan, told),
        started=status.started or (wrote.started if wrote else ""),
        finished=status.finished or (wrote.finished if wrote else ""),
        checkpoint=_on_host(told.result.get("checkpoint") or told.result.get("path") or "", plan, run),
        result=told.result,
        damaged=told.damaged,
        network=told.network,
        excluded=status.excluded,
    )


def _with_network(ended: Ended, plan: Plan, told: Reports) -> str:
    """The cause line of a step that failed says, too, where NCCL took another network than it was to use."""
    network = getattr(plan.profile, "network", None)
    refused = isinstance(network, fabrics.Network) and network.fallback == "refuse" and ended.end is End.FAILED
    other = fabrics.other_network(network, told.network) if refused else ""
    return f"{ended.reason}; network: {other}" if other else ended.reason


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
