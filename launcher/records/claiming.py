"""A new run's directory, and its id: no other run has had that, not even one whose directory was removed since."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from pathlib import Path

from launcher.core.plan import Plan
from launcher.records import run_directory
from launcher.records.run_directory import STAMP, Run
from slipway import inbox
from slipway.errors import Exit, SlipwayError
from slipway.files import PRIVATE, cannot_write, make_folders, make_private, write_atomic

LONGEST = 4096  # bytes of a file that names a run


def claim(runs: Path, plan: Plan, when: datetime.datetime | None = None) -> Run:
    """A new run directory `<time>-<step>-<plan hash, 6>`; -2, -3 … when taken. Raises SlipwayError 73.

    It is for its owner alone from the first moment: what is written into it is safe from others before it has a mode of
    its own. The folder of all runs can be written by others only where somebody has made it so.

    The time is later than that of the caller's newest run there, also where the clock went back, and where that run was
    removed since: runs are in the order of their names, and no two have the same.
    """
    name = f"{plan.step.replace('/', '.')}-{plan.hash[:6]}"
    with cannot_write(runs):
        make_folders(runs)
        stem = f"{_stamp(runs, name, when or datetime.datetime.now(datetime.UTC))}-{name}"
        for number in range(1, 10_000):
            path = runs / (stem if number == 1 else f"{stem}-{number}")
            try:
                make_private(path)
            except FileExistsError:
                continue
            return Run(path)
    raise SlipwayError(Exit.TRY_AGAIN, "too many runs of one plan in one second", where=str(runs))


def _stamp(runs: Path, name: str, when: datetime.datetime) -> str:
    """The time for a new run's id: a second after the newest one's, unless that is earlier, or of the same plan."""
    stamp = when.strftime(STAMP)
    there = (i for i in run_directory.names(runs) if i[: len(stamp)] >= stamp)
    later = sorted(there, key=run_directory.order, reverse=True)
    newest = next((i for i in later if (runs / i).lstat().st_uid == os.geteuid()), "")
    last = _remembered(runs)
    newest = max(newest, last if last[: len(stamp)] >= stamp else "", key=run_directory.order)
    if not newest:
        return stamp
    before = newest[: len(stamp)]
    if (runs / newest).exists() and re.fullmatch(rf"{re.escape(before)}-{re.escape(name)}(-\d+)?", newest):
        return before
    with contextlib.suppress(ValueError, OverflowError):  # no time, though it looks like one
        return (datetime.datetime.strptime(before, STAMP) + datetime.timedelta(seconds=1)).strftime(STAMP)
    return stamp


def remember(run: Run) -> None:
    """Leaves the id of the caller's newest run in the folder of all runs: its directory may be removed, in this second
    even, and the next run is not to have its id. Where it cannot be written, the directory alone tells."""
    with contextlib.suppress(SlipwayError):
        write_atomic(_last(run.path.parent), f"{run.id}\n", PRIVATE)


def _last(runs: Path) -> Path:
    return runs / f".last-{os.geteuid()}"


def _remembered(runs: Path) -> str:
    """The id that `remember` has left; empty where there is none that can be read."""
    with contextlib.suppress(SlipwayError):
        found = (inbox.read_text(runs, _last(runs).name, LONGEST) or "").strip()
        return found if run_directory.is_id(found) else ""
    return ""
