"""What the doctor's checks share: folders and their room, enroot's password file, and what probe.sh prints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from launcher.doctor import Result, Site, failed, ok, warning
from slipway.errors import Exit

ENOUGH = 20 * 2**30  # bytes; an image of these libraries takes about that
UNPACKED = 68 * 2**30  # bytes; 1.3 times the largest of their root file systems, NeMo RL's of 52 GB
_NEEDED = {"data": UNPACKED, "runtime": 0}  # bytes in enroot's folders; ENOUGH in the others
LOCAL = ("btrfs", "ext2/ext3", "f2fs", "overlayfs", "xfs", "zfs")  # as `stat -f -c %T` calls them
Facts = dict[str, dict[str, list[str]]]  # node -> key -> values


def facts(text: str) -> Facts:
    """What probe.sh has printed, by node."""
    found: Facts = {}
    for node, key, value in (line.split("\t") for line in text.splitlines() if line.count("\t") == 2):
        found.setdefault(node, {}).setdefault(key, []).append(value)
    return found


def size(n: float) -> str:
    return f"{n / 2**30:.0f} GiB"


def folder(path: Path, what: str) -> Result:
    """A folder that is to be written: there, or below one where it can be made; with room."""
    nearest = next(p for p in (path, *path.parents) if p.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return failed(f"{path} cannot be written", f"name another: {what}", Exit.CANNOT_WRITE)
    free = shutil.disk_usage(nearest).free
    seen = f"{path}{'' if path.exists() else ' (will be made)'}, {size(free)} free"
    return ok(seen) if free >= ENOUGH else warning(seen, "an image takes about 20 GiB")


def readable(path: Path, what: str) -> Result:
    """A folder from which is only read; images are made in it by somebody, with room."""
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        return failed(f"{path} cannot be read", f"name another: {what}", Exit.NOT_PERMITTED)
    if path.is_dir() and not os.access(path, os.W_OK):
        return ok(f"{path}, for reading alone")
    return folder(path, what)


class Place(NamedTuple):
    """One of enroot's folders on a node: `cache /path`, the bytes that are free there, and its kind of file system.

    `closed`: it, or where it would be made, may not be written by this user.
    """

    name: str
    free: int
    filesystem: str
    closed: bool = False

    @property
    def problem(self) -> str:
        """Why an image may not start from there; empty where nothing is known against it."""
        kind = self.name.partition(" ")[0]
        data = kind == "data"
        if self.closed:
            return "cannot be made or written by you: no container starts"
        if data and self.filesystem == "tmpfs":
            return "is in memory (tmpfs), which an unpacked image fills"
        if data and self.filesystem and self.filesystem not in LOCAL:
            return f"is on {self.filesystem}: every node unpacks its image there over the network"
        needed = _NEEDED.get(kind, ENOUGH)
        return f"has {size(self.free)} free, of {size(needed)} that an image takes" if self.free < needed else ""


def places(node: dict[str, list[str]]) -> Iterator[Place]:
    """enroot's folders on a node."""
    for key, (kibibytes, *_) in ((k, v) for k, v in node.items() if k.startswith("free ")):
        name = key.removeprefix("free ")
        kind = node.get(f"filesystem {name}", [""])[0]
        yield Place(name, int(kibibytes or 0) * 1024, kind, f"closed {name}" in node)


def credentials(_: Site) -> Iterator[Result]:
    """enroot's file of passwords, which is never read here."""
    config = Path(os.environ.get("XDG_CONFIG_HOME", "").strip() or Path.home() / ".config") / "enroot"
    file = Path(os.environ.get("ENROOT_CONFIG_PATH", "").strip() or config) / ".credentials"
    if not file.is_file():
        yield ok(f"no {file}: only registries that ask for no password")
    elif file.stat().st_mode & 0o077:
        yield failed(f"{file} may be read by others", f"chmod 600 {file}", Exit.NOT_PERMITTED)
    else:
        yield ok(f"{file}, for its owner alone")


def runs(site: Site) -> Iterator[Result]:
    yield folder(site.runs, "runs: in the profile, or --runs-dir")
