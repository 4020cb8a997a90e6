"""Leases: who makes, or writes into, a folder now. One is taken in one step, and lives as its run does.

A lease is a folder with one file, `<run id>.json`, renamed into its place: that succeeds over nothing, or over what a
holder that gives back has just emptied, on any filesystem. So nobody can take away another one than he has seen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from launcher.catalog.profiles import KINDS
from launcher.records import run_directory
from launcher.records.run_directory import Run
from slipway import canonical, inbox
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, write_atomic
from slipway.inbox import Damaged
from slipway.yamldoc import Noun


class Holder(Noun, frozen=True, kw_only=True):
    """Who has a lease: a run, in its directory, by an engine of its kind that answers at `address`, from this host."""

    run: str
    directory: str
    kind: str
    host: str
    since: str
    address: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no engine {self.kind!r}")


class Taken(SlipwayError):
    """Another run has the lease, or has made meanwhile what it is for."""


def holder(lease: Path) -> Holder | None:
    """Who has a lease. Raises SlipwayError 65 where it cannot be read."""
    for path in sorted(lease.glob("*.json")):
        data = inbox.read(path.parent, path.name, shared=True)
        if data is not None:  # else it was given back in this moment
            try:
                return inbox.decode(data, Holder, path)
            except Damaged as e:
                raise Damaged(f"is no lease: {e.what}", path) from e
    return None


def take(lease: Path, run: Run, kind: str, address: str = "") -> None:
    """The lease for a run. Raises Taken or SlipwayError 73."""
    ours = Holder(
        run=run.id,
        directory=str(run.path),
        kind=kind,
        host=os.uname().nodename,
        since=run_directory.now(),
        address=address,
    )
    new = lease.with_name(f".{lease.name}.{run.id}")
    with cannot_write(lease):
        try:
            new.mkdir(parents=True)
            write_atomic(new / f"{run.id}.json", canonical.pretty(ours))
            new.rename(lease)  # over nothing, or over what a holder that gives back has just emptied
        except (OSError, SlipwayError):
            shutil.rmtree(new, ignore_errors=True)
            if not lease.is_dir():
                raise
            raise Taken(Exit.TRY_AGAIN, "is taken by another run", where=str(lease)) from None
    for left in lease.parent.glob(f".{lease.name}.*"):  # by launchers that were killed; of one that is not, it is taken
        shutil.rmtree(left, ignore_errors=True)


def release(lease: Path, run_id: str) -> None:
    """Gives a run's lease back; one that it has not, or not any more, is left alone."""
    with contextlib.suppress(FileNotFoundError):
        (lease / f"{run_id}.json").unlink()
        with contextlib.suppress(OSError):  # somebody else has it already
            lease.rmdir()
