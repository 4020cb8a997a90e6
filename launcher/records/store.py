"""Folders that runs make for others: whole ones, what is left of others, and leases of who makes one now.

A folder is whole once it has its marker. Its lease is `.leases/<folder>`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from launcher.artifacts import marker
from launcher.artifacts.marker import MARKER
from launcher.core.requirement import Requirement
from launcher.records import leases, run_directory
from launcher.records.leases import Holder, Taken
from launcher.records.run_directory import Run
from slipway import canonical
from slipway.errors import Exit
from slipway.files import cannot_write, write_atomic

LEASES, QUARANTINE = ".leases", ".quarantine"
UNSEEN = "if it has ended: launch cache prune --force FOLDER"  # where nobody can tell whether a holder lives


def holder(folder: Path) -> Holder | None:
    """Who has the folder's lease. Raises SlipwayError 65 where it cannot be read."""
    return leases.holder(_lease(folder))


def take(folder: Path, run: Run, kind: str, address: str = "") -> Path | None:
    """The lease for a run, then an empty place: where what was left of another went to. Raises Taken or 73."""
    try:
        leases.take(_lease(folder), run, kind, address)
    except Taken:
        raise Taken(Exit.TRY_AGAIN, "is being made by another run", where=str(folder)) from None
    if marker.read(folder):
        release(folder, run.id)
        raise Taken(Exit.TRY_AGAIN, "was made meanwhile", where=str(folder))
    return _quarantine(folder, run.id)


def release(folder: Path, run_id: str) -> None:
    """Gives a run's lease back; one that it has not, or not any more, is left alone."""
    leases.release(_lease(folder), run_id)


def _lease(folder: Path) -> Path:
    return folder.parent / LEASES / folder.name


def _quarantine(folder: Path, run_id: str) -> Path | None:
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    aside = folder.parent / QUARANTINE / f"{folder.name}.{run_id}"
    with cannot_write(aside):
        aside.parent.mkdir(exist_ok=True)
        folder.rename(aside)
    return aside


def adopt(source: Path, made: Requirement) -> None:
    """A whole folder made elsewhere becomes what is required, without copying where links can do it.

    Raises SlipwayError 73 where the place is taken.
    """
    folder = Path(made.place)
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    with cannot_write(folder):
        shutil.rmtree(part, ignore_errors=True)
        try:
            shutil.copytree(source, part, copy_function=_link)
            files = {str(p.relative_to(part)): p.stat().st_size for p in sorted(part.rglob("*")) if p.is_file()}
            said = msgspec.to_builtins(made) | {"schema": 1, "run": "", "finished": run_directory.now(), "files": files}
            write_atomic(part / MARKER, canonical.pretty(said))
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another filesystem
        shutil.copy2(source, target)
    return target
