"""`input=run:RUN`: what another run has made, as an input. Only runs that have ended well, by their records."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from launcher.catalog import profiles
from launcher.core.asked import Former
from launcher.core.plan import RUN_DIR
from launcher.records import run_directory
from launcher.records.outcome import End
from launcher.records.run_directory import Record, Run
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

PREFIX = "run:"


def folders(root: Root, given: str | None, profile: str | None) -> list[Path]:
    """Where runs are: where --runs-dir or the profile says; else where that of this shell does, then all others.

    A profile that cannot be read is left out, unless it is the one that is named.
    """
    named = profile or os.environ.get("SLIPWAY_PROFILE", "").strip() or "docker"
    found = [run_directory.runs_dir(root, given, profiles.find_profile(root, named).runs)]
    if not given and not profile:
        for name in profiles.profile_files(root):
            with contextlib.suppress(SlipwayError):
                found.append(run_directory.runs_dir(root, None, profiles.find_profile(root, name).runs))
        found.append(run_directory.runs_dir(root, None, None))
    others = (f for f in found[1:] if f.is_dir() and os.access(f, os.R_OK | os.X_OK))
    return list(dict.fromkeys([found[0], *others]))


def find(root: Root, name: str, given: str | None, profile: str | None = None) -> Run:
    """The run of that name in `folders`. Raises SlipwayError as run_directory.find does."""
    first, *others = folders(root, given, profile)
    return run_directory.find(first, name, *others)


def taken(root: Root, runs: str | None, inputs: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Former]]:
    """The inputs with paths in place of runs, and input -> the run whose output it is.

    Raises SlipwayError 64 or 66 where there is no such run, 66 where it has not ended well or has made nothing, 75
    where it still goes on.
    """
    paths, former = dict(inputs), {}
    for name, value in inputs.items():
        if value.startswith(PREFIX):
            run = find(root, value.removeprefix(PREFIX), runs)
            paths[name] = output(run, run.record(), f"{name}={value}")
            former[name] = Former(run=run.id, directory=str(run.path))
    return paths, former


def output(run: Run, record: Record | None, where: str) -> str:
    """What a run that has ended well has made, on the host. Raises SlipwayError 66 or 75."""
    if record is None:
        what = f"run {run.id} was never submitted, or its launcher died before: it has made nothing"
        raise SlipwayError(Exit.NO_INPUT, what, where=where)
    outcome = record.outcome
    if outcome is None:
        remedy = f"launch wait {shlex.quote(str(run.path))}, or launch with --after {run.id}"
        raise SlipwayError(Exit.TRY_AGAIN, f"run {run.id} has not ended yet", where=where, remedy=remedy)
    if outcome.end is not End.DONE:
        what = f"run {run.id} has not ended well: {outcome.word} ({outcome.reason})"
        go_on = "go on with it: launch resume" if "resume" in record.plan.config else "see why: launch show"
        saved = f"; or name what it left yourself: {outcome.checkpoint}" if outcome.checkpoint else ""
        raise SlipwayError(Exit.NO_INPUT, what, where=where, remedy=f"{go_on} {run.id}{saved}")
    if outcome.checkpoint:
        return outcome.checkpoint
    made = record.plan.output.replace(RUN_DIR, str(run.path))
    what = f"run {run.id} ({record.plan.step}) has reported no output"
    raise SlipwayError(Exit.NO_INPUT, what, where=where, remedy=f"look into {made}, and name the path itself")


def notes(inputs: Mapping[str, str], former: Mapping[str, Former]) -> list[str]:
    """Which path each has become."""
    return [f"note: {name}=: of run {run.run}, {inputs[name]}" for name, run in former.items()]
