"""Whose word counts: a file that is found by standing somewhere decides what runs, with the caller's keys."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from slipway.errors import Exit, SlipwayError

_PROGRAM = f"{Path(__file__).parent}/"  # who can write here needs no file of the project: it is what runs
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP)  # cannot be read either, so it decides nothing


def trusted(path: Path, top: Path | None = None) -> Path:
    """`path`, once it is known that nobody else wrote it: it and each folder from `top` down to it.

    They belong to the caller, to root or to whom SLIPWAY_TRUST names, and no other may write there; of a link this
    holds for itself and for what it leads to. What is not there passes. Folders above `top` are not asked: whoever
    may rename `top` cannot put there what belongs to the caller. Raises SlipwayError 77.
    """
    if not str(path).startswith(_PROGRAM):
        callers = _callers()
        depth = len(path.relative_to(top or path).parts)
        for at in (*reversed(path.parents[:depth]), path):
            _look(at, callers)
    return path


def _look(at: Path, callers: set[int]) -> None:
    try:
        found = os.lstat(at)
        _judge(at, found, callers)
        if stat.S_ISLNK(found.st_mode):
            _judge(at, at.stat(), callers)
    except OSError as e:
        if e.errno not in _ABSENT:
            raise


def _judge(at: Path, found: os.stat_result, callers: set[int]) -> None:
    if found.st_uid not in callers:
        raise _foreign(at, found)
    if stat.S_ISLNK(found.st_mode):
        return  # its mode says nothing
    if found.st_mode & stat.S_IWOTH:
        raise _writable(at, found, "everybody", "chmod o-w")
    if found.st_mode & stat.S_IWGRP:
        if _has_acl(at):
            raise _writable(at, found, "whoever its access control list names", "setfacl -b")
        if not _is_private(found.st_gid, callers):
            raise _writable(at, found, f"the group {_group(found.st_gid)}", "chmod g-w")


def _callers() -> set[int]:
    """Who may decide what runs here. Raises SlipwayError 78 for a user in SLIPWAY_TRUST whom nobody knows."""
    named = os.environ.get("SLIPWAY_TRUST", "").replace(",", " ").split()
    return {0, os.geteuid(), *map(_uid, named)}


def _uid(word: str) -> int:
    try:
        return int(word) if word.isdecimal() else pwd.getpwnam(word).pw_uid
    except KeyError as e:
        remedy = "names or uids of users, with commas"
        raise SlipwayError(Exit.CONFIG, f"there is no user {word!r}", where="SLIPWAY_TRUST", remedy=remedy) from e


def _is_private(gid: int, callers: set[int]) -> bool:
    """Whether a group is that of one trusted user alone, as useradd makes them (USERGROUPS_ENAB).

    Such users have umask 002, so the group may write all their files. It is known by its name, which is the user's;
    where this machine has no such group, as a container has not those of its host, by its number. Whether others have
    it as their first group is not looked for: that is to read all of a site's directory.
    """
    import grp

    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return gid in callers
    try:
        owner = pwd.getpwnam(group.gr_name)
    except KeyError:
        return False
    return owner.pw_gid == gid and owner.pw_uid in callers and set(group.gr_mem) <= {owner.pw_name}


def _has_acl(at: Path) -> bool:
    """Whether the group's bits stand for more than the group (acl(5): they are the mask)."""
    try:
        return "system.posix_acl_access" in os.listxattr(at)
    except OSError as e:
        if e.errno != errno.ENOTSUP:
            raise
        return False


def _foreign(at: Path, found: os.stat_result) -> SlipwayError:
    owner, me = _user(found.st_uid), _user(os.geteuid())
    what = f"belongs to {owner}, mode {_mode(found)}: what it says would run as {me}"
    remedy = (
        "go elsewhere, or name a project of your own: SLIPWAY_ROOT=…; if it is yours: "
        f"chown {os.geteuid()} {at}; if {owner} may run what he likes as you: SLIPWAY_TRUST={found.st_uid}"
    )
    return SlipwayError(Exit.NOT_PERMITTED, what, where=str(at), remedy=remedy)


def _writable(at: Path, found: os.stat_result, who: str, change: str) -> SlipwayError:
    what = f"belongs to {_user(found.st_uid)}, mode {_mode(found)}: {who} may write there what would run as you"
    remedy = "go elsewhere, or name another project: SLIPWAY_ROOT=…"
    if not found.st_mode & stat.S_ISVTX:  # else it is a folder for all, as /tmp is, and has to stay one
        remedy = f"{change} {at}; or {remedy}"
    if change == "chmod g-w":
        remedy += "; one of a group keeps the project that it shares, the others name him in SLIPWAY_TRUST"
    return SlipwayError(Exit.NOT_PERMITTED, what, where=str(at), remedy=remedy)


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    try:
        return f"{grp.getgrgid(gid).gr_name} (gid {gid})"
    except KeyError:
        return f"gid {gid}"
