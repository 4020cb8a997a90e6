"""Temporary folders of `images`: locked while the command that made one, or a program of it, lives; else taken away.

Who is killed (kill -9) leaves its folder and no lock: the kernel releases it with the last process that holds it. The
next command that needs such a folder removes those.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from images.building import rootfs
from slipway.files import cannot_write
from slipway.project import Root

_PREFIX = "slipway-held-"


def contexts(root: Root) -> Path:
    """Where builds have theirs: TMPDIR, else in the project's state, where a base's tar needs no copy."""
    named = os.environ.get("TMPDIR")
    return Path(named) if named else root.kept("tmp")


def unpacking() -> Path:
    """Where images are unpacked: a project may be on a file system of many machines.

    Not tempfile.gettempdir(): it tries the folder with a file of its own, which one that is killed would leave.
    """
    return Path(os.environ.get("ENROOT_TEMP_PATH") or os.environ.get("TMPDIR") or "/tmp")


def sweep(root: Root) -> None:
    """Removes what killed commands have left."""
    for base in {contexts(root), unpacking()}:
        _sweep(base)


@contextlib.contextmanager
def make(base: Path, kind: str) -> Iterator[tuple[Path, int]]:
    """A folder in `base`, gone afterwards, and the lock for programs to inherit. Raises SlipwayError 73."""
    while True:
        with cannot_write(base):
            work = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-", dir=base))
        fd = os.open(work, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if work.exists():  # before it was locked, another's sweep may have taken it for one that was left
            break
        os.close(fd)
    try:
        yield work, fd
    finally:
        rootfs.remove(work)
        os.close(fd)


def _sweep(base: Path) -> None:
    """Removes our folders in `base` that nobody holds any more."""
    for left in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, still held, or just removed by another sweep
            fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    rootfs.remove(left)
            finally:
                os.close(fd)
