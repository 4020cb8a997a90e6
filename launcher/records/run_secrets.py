"""The secrets of a run: files for the time that it runs, beside the run directories and for their owner alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from launcher.core.plan import Plan
from launcher.records.run_directory import Run
from slipway.errors import Exit, SlipwayError
from slipway.files import PRIVATE, PRIVATE_FOLDER, cannot_write, own_folder, read_text, write_atomic


def place(plan: Plan, run: Run) -> Path:
    """Where a run's secrets are while it runs."""
    return run.path.parent / plan.secrets_folder / run.id


def write(plan: Plan, run: Run) -> None:
    """Files that nobody else can read, for the time of the run; raises SlipwayError 66 or 73."""
    folder = place(plan, run)
    for name, where in plan.profile.secrets.items():
        value = (
            os.environ.get(name, "") if where == "env" else read_text(Path(where.removeprefix("file:"))).rstrip("\n")
        )
        with cannot_write(folder):
            folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
        write_atomic(folder / name, value, PRIVATE)


def make_room(folder: Path, made: list[Path]) -> None:
    """Where runs keep their secrets. Raises SlipwayError 77: in a folder of runs that users share, it is another's."""
    new = not folder.exists()
    try:
        own_folder(folder)
        made += [folder] if new else []
    except SlipwayError as e:
        remedy = "runs with secrets need a folder of your own: --runs-dir, or `runs:` in the profile"
        raise SlipwayError(e.code, e.what, where=e.where, remedy=remedy) from e


def remove(plan: Plan, run: Run) -> None:
    """Raises SlipwayError 73: nothing else would tell that they are still on the disk."""
    try:
        if plan.secrets:
            shutil.rmtree(place(plan, run))
    except FileNotFoundError:
        return
    except OSError as e:
        what, remedy = f"this run's secrets cannot be removed: {e.strerror or e}", "remove that folder by hand"
        raise SlipwayError(Exit.CANNOT_WRITE, what, where=str(place(plan, run)), remedy=remedy) from e
