"""`--after RUN`: a launch that starts when other runs have ended well, and not otherwise."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable

from launcher import engines
from launcher.engines import slurmjobs
from launcher.records.outcome import End
from launcher.records.run_directory import Record, Run
from launcher.runs import lifecycle
from slipway.console import say
from slipway.errors import Exit, SlipwayError


def for_success(runs: Iterable[Run], kind: str, dry_run: bool) -> list[str]:
    """Returns when all have ended well, or with the jobs of those that Slurm can wait for. `kind`: of the engine.

    A dry run waits for nothing. Raises SlipwayError 78 where one has ended otherwise, 75 where the same run may succeed
    another time; 66 and 77 as await_end.
    """
    jobs = []
    for run in runs:
        record, state = lifecycle.refresh(run)
        if record and record.outcome:
            _check(run, record)
        elif kind == "slurm" and record and record.engine.kind == kind and (job := slurmjobs.recorded_job(run.path)):
            jobs.append(job)
        elif dry_run:
            say(f"note: --after: run {run.id} is {state}: the launch would wait for it")
        else:
            say(f"waiting for run {run.id} ({state})")
            _check(run, await_end(run))
    return jobs


def await_end(run: Run, deadline: float | None = None) -> Record:
    """The run's record, once it has ended, whichever process looks after it. `deadline`: of the monotonic clock.

    Raises SlipwayError 66: it was never submitted, 75: it goes on at the deadline, 77: another user's.
    """
    while True:
        record, state = lifecycle.refresh(run)
        if state == lifecycle.ANOTHERS:
            raise SlipwayError(Exit.NOT_PERMITTED, "is another user's run", where=str(run.path))
        if record and record.outcome:
            return record
        if record is None and state != "being prepared":
            raise SlipwayError(Exit.NO_INPUT, f"cannot be waited for: {state}", where=str(run.path))
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise SlipwayError(Exit.TRY_AGAIN, f"run {run.id} goes on: {state}", where="--timeout")
        if record:
            with engines.of_record(record) as engine:
                lifecycle.await_start(run, engine)
                engine.wait(run, left)
        time.sleep(lifecycle.START_POLL)  # whoever looks after it brings it home


def _check(run: Run, record: Record) -> None:
    outcome = record.outcome
    if outcome is None or outcome.end is End.DONE:
        return
    code = Exit.TRY_AGAIN if outcome.exit_code == Exit.TRY_AGAIN else Exit.CONFIG
    what = f"it has not ended well: {outcome.word} ({outcome.reason})"
    remedy = f"launch show {shlex.quote(run.id)} says more; without --after nothing waits for it"
    raise SlipwayError(code, what, where=f"--after {run.id}", remedy=remedy)
