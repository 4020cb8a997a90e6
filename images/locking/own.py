"""The user's own lock, beside the project's: entries with packages added (`images build --with`), and their files."""

from __future__ import annotations

import fcntl
from pathlib import Path

import msgspec

from images.locking.model import Entry, Group, Lock
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, make_folders, write_atomic
from slipway.project import Root

FILE = "versions.lock"  # below the project's state
HEADER = "# Made by `images build --with`; do not edit.\n"
_STATE = ".slipway/"  # how `Group.file` names the state, wherever that is


def load(root: Root) -> dict[str, Entry]:
    """The entries of the user's own lock; none where there is no such file. Raises SlipwayError 65 or 77."""
    path = root.kept(FILE)
    if not path.is_file():
        return {}
    lock = yamldoc.load(path, Lock)
    if lock.checksum != lock.contents:
        what = "its contents are not those that it was written with: it was edited by hand"
        remedy = "delete it, and build the images anew: images build LIBRARY --with …"
        raise SlipwayError(Exit.DATA, what, where=str(path), remedy=remedy)
    return lock.entries


def keep(root: Root, entries: dict[str, Entry], texts: dict[str, str]) -> None:
    """Writes `entries` into the user's own lock, and the files that their groups name. Raises SlipwayError 73."""
    with cannot_write(root.state):
        make_folders(root.state)
        with root.kept("versions.lock.held").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # another command may add an entry of its own meanwhile
            for file, text in texts.items():
                write_atomic(_kept(root, file), text)
            lock = Lock(schema=1, matrix="", libraries={}, entries=load(root) | entries)
            sealed = msgspec.structs.replace(lock, checksum=lock.contents)
            write_atomic(root.kept(FILE), HEADER + yamldoc.dump(msgspec.to_builtins(sealed)))


def named(entry: str, group: str) -> str:
    """The `file` of a group of such an entry."""
    return f"{_STATE}own/{entry}/requirements-{group}.txt"


def file_of(root: Root, group: Group) -> Path:
    """Where the requirements of a group are, of the project's lock or of the user's own. Raises SlipwayError 77."""
    return _kept(root, group.file) if group.file.startswith(_STATE) else root.file(group.file)


def _kept(root: Root, file: str) -> Path:
    return root.kept(file.removeprefix(_STATE))
