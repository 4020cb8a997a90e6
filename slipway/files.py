"""Files that are whole or absent: written beside their place, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from slipway.errors import Exit, SlipwayError

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
_OTHERS = 0o077


@contextlib.contextmanager
def cannot_write(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into the error with exit code 73 that names `path`."""
    try:
        yield
    except OSError as e:
        raise SlipwayError(Exit.CANNOT_WRITE, f"cannot write: {e.strerror or e}", where=str(path)) from e


@contextlib.contextmanager
def cannot_read(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into the error with exit code 66 that names `path`."""
    try:
        yield
    except OSError as e:
        raise SlipwayError(Exit.NO_INPUT, f"cannot read: {e.strerror or e}", where=str(path)) from e


def write_atomic(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    """Writes `path` whole or not at all, also across a crash; makes missing parents. Raises SlipwayError 73."""
    with written(path, mode) as f:
        f.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def written(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """The same, of what is written to the file that this yields. `mode` counts whatever the umask is."""
    with cannot_write(path):
        make_folders(path.parent)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 until it is whole
        try:
            with os.fdopen(fd, "wb") as f:
                yield f
                f.flush()
                if not mode & _OTHERS:
                    _give_to_owner(f.fileno(), path.parent)
                os.fchmod(f.fileno(), mode)
                os.fsync(f.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _give_to_owner(handle: int, folder: Path) -> None:
    """A private file that root writes into a user's folder is that user's, who could not read it otherwise."""
    if os.geteuid() == 0:
        theirs, ours = folder.stat(), os.fstat(handle)
        if theirs.st_uid != ours.st_uid:
            os.fchown(handle, theirs.st_uid, theirs.st_gid)


def make_folders(path: Path) -> None:
    """Makes a folder and its missing parents. What the umask says counts, but nobody else may ever write there."""
    for part in reversed([p for p in (path, *path.parents) if not p.exists()]):
        part.mkdir(0o755, exist_ok=True)


def private(path: str, flags: int) -> int:
    """For `open(opener=)`: what it makes is for its owner alone."""
    return os.open(path, flags, PRIVATE)


def make_private(path: Path) -> None:
    """A new folder for its owner alone, from the first moment. Raises FileExistsError."""
    path.mkdir(PRIVATE_FOLDER)
    _drop_acl(path)


def keep_private(folder: Path) -> None:
    """Takes all rights of others from `folder` and everything below; programs stay programs.

    A group that a folder hands down (setgid) stays: quotas go by it, and the group may do nothing here.
    """
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
    _drop_acl(folder)


def _drop_acl(folder: Path | int) -> None:
    """A default ACL, handed down by the folder above, would count in place of the umask for what is made in it."""
    try:
        names = os.listxattr(folder) if hasattr(os, "listxattr") else []
    except OSError as e:
        if e.errno != errno.ENOTSUP:
            raise
        return
    for name in names:
        if name.startswith("system.posix_acl_"):
            os.removexattr(folder, name)


def own_folder(path: Path) -> None:
    """Makes a folder for its owner alone, or takes the one that is there, which has to be ours and no link.

    Raises SlipwayError 77, where others can make folders beside ours and somebody did.
    """
    with cannot_write(path):
        with contextlib.suppress(FileExistsError):
            make_private(path)
        check_own(path)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchmod(handle, stat.S_IMODE(os.fstat(handle).st_mode) & ~_OTHERS)
            _drop_acl(handle)
        finally:
            os.close(handle)


def check_own(path: Path) -> None:
    """Raises SlipwayError 77 for what is there and is no folder of ours."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        what = f"belongs to {owner(path)}" if stat.S_ISDIR(found.st_mode) else "is no folder"
        raise SlipwayError(Exit.NOT_PERMITTED, f"{what}; expected a folder of your own", where=str(path))


def owner(path: Path) -> str:
    """The name of a file's owner, the number where it has none."""
    uid = path.lstat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def read_text(path: Path) -> str:
    """The text of `path`. Raises SlipwayError 66 where it is missing or is no UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise SlipwayError(Exit.NO_INPUT, f"cannot read: {why}", where=str(path)) from e


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
