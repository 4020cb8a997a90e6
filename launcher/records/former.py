"""Runs that follow each other: the one that another goes on from has its name in its own record, too."""

from __future__ import annotations

from pathlib import Path

import msgspec

from launcher.core.asked import Former
from launcher.records.run_directory import Run
from slipway.console import say_now
from slipway.errors import SlipwayError


def resumed(before: Former, by: Run) -> None:
    """Names a run in the record of the one that it goes on from. Where that cannot be written it is said: what goes on
    has the other's name in any case."""
    old = Run(Path(before.directory))
    try:
        with old.lock(wait=True):
            record = old.record()
            if record and old.ours and by.id not in [run.run for run in record.resumed_by]:
                new = Former(run=by.id, directory=str(by.path))
                old.write(msgspec.structs.replace(record, resumed_by=[*record.resumed_by, new]))
    except (SlipwayError, OSError) as e:
        say_now(f"note: run {by.id} could not be named in {old.record_file}: {e}")
