"""Folders of a cache of converted models: whole ones, what is left of others, and leases of who makes one now.

A folder is whole once it has the marker, which the run that makes it writes last. Its lease is `.leases/<folder>`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from launcher.catalog.cache_location import MARKER, Converted
from launcher.records import leases, run_directory
from launcher.records.leases import Holder, Taken
from launcher.records.run_directory import Run
from slipway import canonical, inbox
from slipway.errors import Exit
from slipway.files import cannot_write, write_atomic

LEASES, QUARANTINE = ".leases", ".quarantine"
UNSEEN = "if it has ended: launch cache prune --force FOLDER"  # where nobody can tell whether a holder lives
MARKER_LIMIT = 64 * 2**20  # bytes: it names every file of a checkpoint


class Made(Converted, frozen=True, kw_only=True):
    """A marker. `run`: which made it (empty: it was adopted); `files`: path below the folder -> bytes."""

    schema: Literal[1]
    run: str
    finished: str
    files: dict[str, int]


def marker(folder: Path) -> Made | None:
    """What the marker says; None where the folder is not whole. Raises SlipwayError 65 or 77 where none can tell."""
    data = inbox.read(folder, MARKER, MARKER_LIMIT, shared=True) if folder.is_dir() else None
    try:
        return None if data is None else msgspec.json.decode(data, type=Made)
    except (msgspec.DecodeError, RecursionError):
        return None  # it is written in one step, so what is no marker is none of ours


def holder(folder: Path) -> Holder | None:
    """Who has the folder's lease. Raises SlipwayError 65 where it cannot be read."""
    return leases.holder(_lease(folder))


def take(folder: Path, run: Run, kind: str, address: str = "") -> Path | None:
    """The lease for a run, then an empty place: where what was left of another went to. Raises Taken or 73."""
    try:
        leases.take(_lease(folder), run, kind, address)
    except Taken:
        raise Taken(Exit.TRY_AGAIN, "is being made by another run", where=str(folder)) from None
    if marker(folder):
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


def faults(folder: Path, made: Made) -> Iterator[str]:
    """What is not as the marker says: files that are gone or of another length."""
    for name, size in made.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: is gone"
        elif path.stat().st_size != size:
            yield f"{path}: has {path.stat().st_size} bytes, not {size}"


def adopt(source: Path, folder: Path, converted: Converted) -> None:
    """A whole conversion made elsewhere becomes one of this cache, without copying where links can do it.

    Raises SlipwayError 73 where the folder is there.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    with cannot_write(folder):
        shutil.rmtree(part, ignore_errors=True)
        try:
            shutil.copytree(source, part, copy_function=_link)
            files = {str(p.relative_to(part)): p.stat().st_size for p in sorted(part.rglob("*")) if p.is_file()}
            said = {
                **msgspec.to_builtins(converted),
                "schema": 1,
                "run": "",
                "finished": run_directory.now(),
                "files": files,
            }
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
