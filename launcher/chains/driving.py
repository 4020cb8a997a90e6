"""Runs what of a pipeline has to be run: on Slurm at once, each job after those that it needs; elsewhere in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from launcher.chains.links import Chain, Link
from launcher.engines import slurmjobs
from launcher.planning.run_files import Prepared
from launcher.records.outcome import End
from launcher.records.run_directory import Record, Run
from launcher.runs import lifecycle, waiting
from slipway.console import say
from slipway.errors import Exit, SlipwayError


class Start(Protocol):
    """Submits a launch that nothing stops, and stays with it where its engine does; the exit code.

    `again`: plans it anew; `jobs`: those of Slurm that have to end well first.
    """

    def __call__(self, prepared: Prepared, again: Callable[[], Prepared], jobs: list[str]) -> int: ...


@dataclass
class Ends:
    """What has become of the steps so far. `failed`: step -> exit code; `held`: step -> why it was not started;
    `jobs`: step -> the job of Slurm that goes on; `started`: steps that this launcher has started; `stopped`: who stays
    with the pipeline wants it to end."""

    failed: dict[str, int]
    held: dict[str, str]
    jobs: dict[str, str]
    started: set[str]
    stopped: bool = False

    @property
    def code(self) -> int:
        """Of the first that failed."""
        return next(iter(self.failed.values()), int(Exit.OK))


def drive(chain: Chain, start: Start, report: Callable[[Link, Prepared], int], follow: bool) -> Ends:
    """Goes through the chain; a step that fails holds what depends on it, and nothing else.

    `report`: says what was found of a launch, and returns the code of its first error. `follow`: stays with jobs, too.
    """
    ends = Ends({}, {}, {}, set())
    for link in chain.links.values():
        if ends.stopped:
            ends.held[link.name] = "stopped before"
        elif before := [b for b, _ in link.needs.values() if b in ends.failed or b in ends.held]:
            ends.held[link.name] = f"needs steps.{before[0]}"
            say(f"{link.name}: not started: {ends.held[link.name]}, which {_how(before[0], ends)}")
        elif link.stands == "not met":
            say(f"{link.name}: not met {link.why}")
            ends.failed[link.name] = int(Exit.NOT_MET)
        else:
            _go(chain, link, ends, start, report)
    if follow:
        for name in list(ends.jobs):
            _await(chain.links[name], ends)
    return ends


def _how(name: str, ends: Ends) -> str:
    return f"ended with {ends.failed[name]}" if name in ends.failed else "was not started"


def _go(chain: Chain, link: Link, ends: Ends, start: Start, report: Callable[[Link, Prepared], int]) -> None:
    if link.stands == "running" and ends.started & {before for before, _ in link.needs.values()}:
        _outlive(link)
    if link.run:
        chain.book.take(link.name, link.planned.plan.step, link.key, link.parts, link.run)
    if link.stands == "done":
        say(f"{link.name}: done before, {link.why}: run {link.run.id if link.run else ''}")
    elif link.stands == "running":
        _found(link, ends)
    elif jobs := _jobs(chain, link, ends):
        _start(chain, link, ends, start, report, jobs)
    elif not ends.failed.keys() & {before for before, _ in link.needs.values()}:
        _start(chain, link, ends, start, report, [])
    else:
        ends.held[link.name] = "what it needs has failed"


def _outlive(link: Link) -> None:
    """Of a job that waits for one which has failed since: Slurm is about to cancel it, and another takes its place."""
    assert link.run is not None
    say(f"{link.name}: run {link.run.id} waits for what has failed: waiting for its end")
    record = waiting.await_end(link.run)
    link.stands, link.run, link.made = "to run", None, ""
    link.why = f"{record.outcome.word if record.outcome else 'ended'} before: {record.run}"


def _jobs(chain: Chain, link: Link, ends: Ends) -> list[str]:
    """The jobs that it has to wait for; where Slurm does not start it, what it needs has ended when this returns."""
    waits = [before for before, _ in link.needs.values() if before in ends.jobs]
    if link.planned.plan.profile.kind == "slurm":
        return list(dict.fromkeys(ends.jobs[before] for before in waits))
    for before in waits:
        _await(chain.links[before], ends)
    return []


def _start(
    chain: Chain, link: Link, ends: Ends, start: Start, report: Callable[[Link, Prepared], int], jobs: list[str]
) -> None:
    say(f"{link.name}: {link.planned.plan.step}: {link.why}")
    if not chain.look_again(link):
        say(f"note: {link.name}: what it is made of has changed since it was checked")
    prepared = chain.prepare(link, fetch=True)
    if code := report(link, prepared):
        ends.failed[link.name] = code
        return
    plan, book = prepared.plan, chain.book
    book.intend(link.name, plan.step, link.key, link.parts, prepared.runs)
    code = start(prepared, lambda: chain.prepare(link), jobs)
    run = book.run_of(link.name)
    if run is None:
        ends.failed[link.name] = code or int(Exit.INTERNAL)
        return
    book.settle(link.name, run)
    link.run = run
    ends.started.add(link.name)
    record, _ = lifecycle.refresh(run)
    if record and record.outcome:
        _ended(link, record, ends)
    else:
        _running(link, run, record, ends)


def _found(link: Link, ends: Ends) -> None:
    """A run that a launcher of before has started: that one is waited for."""
    assert link.run is not None
    say(f"{link.name}: run {link.run.id} of before goes on: {link.why}")
    record, _ = lifecycle.refresh(link.run)
    if record and record.outcome:
        _ended(link, record, ends)
    elif slurmjobs.recorded_job(link.run.path):
        _running(link, link.run, record, ends)
    else:
        _ended(link, waiting.await_end(link.run), ends)


def _running(link: Link, run: Run, record: Record | None, ends: Ends) -> None:
    """A job that goes on: whoever needs it waits for it, by what it will leave."""
    job = slurmjobs.recorded_job(run.path)
    if record is None or job is None:
        raise SlipwayError(Exit.INTERNAL, "goes on, and is no job", where=f"run {run.id}")
    link.stands = "running"
    link.awaits(run, record)
    ends.jobs[link.name] = job


def _await(link: Link, ends: Ends) -> None:
    assert link.run is not None
    say(f"{link.name}: waiting for run {link.run.id}, job {ends.jobs[link.name]}")
    record = waiting.await_end(link.run)
    del ends.jobs[link.name]
    _ended(link, record, ends)


def _ended(link: Link, record: Record, ends: Ends) -> None:
    outcome = record.outcome
    assert outcome is not None
    if outcome.end is not End.DONE:
        ends.failed[link.name] = outcome.exit_code
        ends.stopped = ends.stopped or outcome.end is End.STOPPED
        say(f"{link.name}: {outcome.word}: {outcome.reason}")
    elif not outcome.checkpoint:
        ends.failed[link.name] = int(Exit.NO_INPUT)
        say(f"{link.name}: run {record.run} is done, and has reported nothing that another step could take")
    else:
        link.stands, link.made = "done", outcome.checkpoint
        say(f"{link.name}: done: {outcome.checkpoint}")
