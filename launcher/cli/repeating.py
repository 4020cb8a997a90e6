"""The commands that launch again what the record of a run says."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from launcher.cli import launching, options
from slipway.console import say
from slipway.errors import Exit, SlipwayError
from slipway.project import find_root


@click.command()
@click.argument("run_name", metavar="RUN")
@click.argument("words", nargs=-1)
@click.option("--allow-drift", is_flag=True, default=None, help="Accept what is not as it was, or as the lock says.")
@options.after
@options.detach
@options.follow
@options.dry_run
@options.runs_dir
def resume(
    run_name: str,
    words: tuple[str, ...],
    allow_drift: bool | None,
    after: tuple[str, ...],
    detach: bool,
    follow: bool,
    dry_run: bool,
    runs_dir: str | None,
) -> None:
    """Go on with a run that has ended: the same launch, from its last checkpoint.

    \b
    launch resume last
    launch resume 5c7673 max_steps=200

    Step, profile, inputs, words and output are those of its record; WORDS are added, or replace those of the same name.
    """
    from launcher.planning import repeating
    from launcher.planning.checks import preflight
    from launcher.planning.probe import Looks
    from launcher.runs import lifecycle

    root = find_root()
    run = options.find_run(run_name, runs_dir)
    record, state = lifecycle.refresh(run)
    if not run.ours:
        raise SlipwayError(Exit.NOT_PERMITTED, "is another user's run", where=str(run.path))
    if record is None:
        raise SlipwayError(Exit.NO_INPUT, f"there is nothing to go on with: {state}", where=str(run.path))
    if record.outcome is None:
        remedy = f"launch wait {run.id}, or launch cancel {run.id}"
        raise SlipwayError(Exit.TRY_AGAIN, f"run {run.id} goes on: {state}", remedy=remedy)
    if record.resumed_by:
        say(f"note: run {record.resumed_by[-1].run} has gone on from it already: this goes on from where that came")
    argv, folder = tuple(sys.argv[1:]), runs_dir or str(run.path.parent)
    asked = repeating.resumed(run, record, words, allow_drift=allow_drift, runs_dir=folder, argv=argv)
    looks = Looks()
    jobs = options.await_runs(root, asked, looks, after, dry_run)
    again = partial(_planned, root, asked, looks, dry_run)
    prepared = again()
    if preflight.first_error(prepared.findings) is None and not _progress(prepared, record, bool(words)):
        sys.exit(Exit.OK)
    launch = launching.Launch(root, looks, again, detach, follow, tuple(jobs))
    sys.exit(launch.report(prepared, dry_run))


@click.command()
@click.argument("run_name", metavar="RUN|record.json")
@click.argument("words", nargs=-1, metavar="[INPUT=PATH]…")
@click.option("--profile", metavar="NAME", help="Where to run; that of the record otherwise.")
@click.option("--allow-drift", is_flag=True, help="Run although something differs; what is recorded.")
@options.detach
@options.follow
@options.dry_run
@options.runs_dir
def replay(
    run_name: str,
    words: tuple[str, ...],
    profile: str | None,
    allow_drift: bool,
    detach: bool,
    follow: bool,
    dry_run: bool,
    runs_dir: str | None,
) -> None:
    """Repeat a run, by its record and this repository at its commit.

    \b
    launch replay 5c7673
    launch replay record.json train=/new/train.jsonl model=/new/llama output=out

    What entry, image, inputs, code, configuration or environment have another way is named, and refused (65). Inputs
    that have moved are given again. Without output= it goes into the run directory.
    """
    from launcher.planning import drift, repeating
    from launcher.planning.probe import Looks
    from launcher.records import run_directory

    root = find_root()
    if Path(run_name).is_file():
        record = run_directory.read_record(Path(run_name).absolute())
    elif (found := options.find_run(run_name, runs_dir).record()) is not None:
        record = found
    else:
        raise SlipwayError(Exit.NO_INPUT, "was never submitted: there is no record", where=f"run {run_name}")
    given = {"profile": profile, "allow_drift": allow_drift, "runs_dir": runs_dir, "argv": tuple(sys.argv[1:])}
    asked, looks = repeating.replayed(record, words, **given), Looks()

    def again() -> Any:
        return drift.told(record, _planned(root, asked, looks, dry_run))

    sys.exit(launching.Launch(root, looks, again, detach, follow).report(again(), dry_run))


def _planned(root: Any, asked: Any, looks: Any, dry_run: bool) -> Any:
    from launcher.planning import preparation

    prepared = preparation.prepare(root, asked, looks)
    return prepared if dry_run else preparation.fetched(root, asked, prepared, looks)


def _progress(prepared: Any, record: Any, changed: bool) -> bool:
    """Says which steps are left, where that is known; whether any are. `changed`: the launch is not quite the same."""
    from launcher.planning import repeating

    asked = prepared.spec.step.resume
    at = repeating.reached(Path(prepared.plan.output), asked) if asked else None
    most = repeating.total(prepared.spec)
    told = record.outcome.result.get("total_steps")
    if not changed and type(told) is int:  # the epochs may end before the steps do
        most = told
    if at is None or most is None:
        return True
    if at >= most:
        say(f"nothing to do: at step {at} of {most}")
        return False
    say(f"steps {at + 1} to {most}")
    return True
