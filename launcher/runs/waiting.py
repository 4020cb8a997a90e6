"""`--after RUN`: a launch that starts when other runs have ended well, and not otherwise."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

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
            _check(run, lifecycle.await_end(run))
    return jobs


def _check(run: Run, record: Record) -> None:
    outcome = record.outcome
    if outcome is None or outcome.end is End.DONE:
        return
    code = Exit.TRY_AGAIN if outcome.exit_code == Exit.TRY_AGAIN else Exit.CONFIG
    what = f"it has not ended well: {outcome.word} ({outcome.reason})"
    remedy = f"launch show {shlex.quote(run.id)} says more; without --after nothing waits for it"
    raise SlipwayError(code, what, where=f"--after {run.id}", remedy=remedy)
