"""Files that somebody else may have written: a container, or another user of the machine.

Such a file is opened below a folder, without following a link in any part of its name and without waiting for whoever
would write it, and is read only where it is a regular file, belongs to the folder's owner or to root, and is not too
long. What is in it has to be of the type that is asked for.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from slipway.errors import Exit, SlipwayError

LIMIT = 4 * 2**20  # bytes: a hundred times what a report has
DEPTH = 64  # of lists and mappings in each other
NOT_FINITE = "not_finite"  # the key that names what was NaN or infinite
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SURROGATE = re.compile("[\ud800-\udfff]")
T = TypeVar("T")


class Damaged(SlipwayError):
    """A file that is not what it should be; exit code 65."""

    def __init__(self, what: str, where: Path | str) -> None:
        super().__init__(Exit.DATA, what, where=str(where))


def opened(folder: Path, name: str, shared: bool = False) -> BinaryIO | None:
    """`folder/name` for reading; None where there is none. `shared`: whoever wrote it.

    Raises Damaged, or SlipwayError 77 where it may not be read.
    """
    handle = _checked(folder, name, shared)
    return None if handle is None else os.fdopen(handle, "rb")


def _checked(folder: Path, name: str, shared: bool) -> int | None:
    try:
        handle, owner = _open(folder, name)
    except FileNotFoundError:
        return None
    except OSError as e:
        if e.errno == errno.EACCES:
            raise SlipwayError(Exit.NOT_PERMITTED, "may not be read", where=str(folder / name)) from e
        raise Damaged(_why_not(e, folder, name), folder / name) from e
    found = os.fstat(handle)
    fault = "is no regular file" if not stat.S_ISREG(found.st_mode) else ""
    if found.st_uid not in (owner, 0) and not shared:
        fault = fault or f"belongs to uid {found.st_uid}, its folder to uid {owner}"
    if fault:
        os.close(handle)
        raise Damaged(fault, folder / name)
    return handle


def _open(folder: Path, name: str) -> tuple[int, int]:
    """An open file, and the uid that owns `folder`."""
    *parents, last = name.split("/")
    at = os.open(folder, _FOLDER)
    try:
        owner = os.fstat(at).st_uid
        for part in parents:
            above, at = at, os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(above)
        return os.open(last, os.O_RDONLY | _SAFE, dir_fd=at), owner
    finally:
        os.close(at)


def _why_not(error: OSError, folder: Path, name: str) -> str:
    places = [folder.joinpath(*name.split("/")[:n]) for n in range(len(name.split("/")) + 1)]
    link = next((p for p in places[1:] if p.is_symlink()), None)
    if not folder.is_dir():
        return f"{folder.name} is no folder"
    return f"{link.name} is a link" if link else f"cannot be read: {error.strerror}"


def read(folder: Path, name: str, limit: int = LIMIT, shared: bool = False) -> bytes | None:
    """The bytes of `folder/name`; None where there is none. Raises Damaged, also for more than `limit`, or 77."""
    handle = _checked(folder, name, shared)
    if handle is None:
        return None
    try:
        data = b"".join(_pieces(handle, limit + 1))
    except OSError as e:
        raise Damaged(f"cannot be read: {e.strerror}", folder / name) from e
    finally:
        os.close(handle)
    if len(data) > limit:
        raise Damaged(f"is longer than {limit} bytes", folder / name)
    return data


def _pieces(handle: int, most: int) -> Iterator[bytes]:
    """What is in a file, up to `most` bytes."""
    while most > 0 and (piece := os.read(handle, min(most, 2**20))):
        most -= len(piece)
        yield piece


def read_text(folder: Path, name: str, limit: int = LIMIT) -> str | None:
    """The same as text; what is no UTF-8 comes as U+FFFD."""
    data = read(folder, name, limit)
    return None if data is None else data.decode(errors="replace")


def read_json(folder: Path, name: str, type_: type[T], limit: int = LIMIT) -> T | None:
    """A JSON object as a noun, or as a dict that any record can hold. Raises Damaged."""
    data = read(folder, name, limit)
    return None if data is None else convert(plain(data, folder / name), type_, folder / name)


def convert(value: Any, type_: type[T], where: Path | str) -> T:
    """A value as `type_`. Raises Damaged."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as e:
        raise Damaged(str(e), where) from e


def decode(data: bytes, type_: type[T], where: Path | str) -> T:
    """Strict JSON as `type_`, for what this program wrote itself. Raises Damaged."""
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, RecursionError) as e:
        raise Damaged(str(e), where) from e


def plain(data: bytes, where: Path | str) -> dict[str, Any]:
    """A JSON object that can be written again: its numbers are finite, its texts are Unicode, its depth is bounded.

    Python writes NaN and infinities, which JSON does not have: they become null, and what they were is told under
    the key `not_finite`, by their dotted keys. Raises Damaged.
    """
    try:
        value = json.loads(data.decode(errors="replace"))
    except RecursionError as e:
        raise Damaged("is nested too deep", where) from e
    except ValueError as e:
        raise Damaged(f"is no JSON: {e}", where) from e
    if not isinstance(value, dict):
        raise Damaged("is no JSON object", where)
    odd: dict[str, str] = {}
    cleaned: dict[str, Any] = _clean(value, "", DEPTH, odd, where)
    return {**cleaned, NOT_FINITE: odd} if odd else cleaned


def _clean(value: Any, key: str, depth: int, odd: dict[str, str], where: Path | str) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, float) and not math.isfinite(value):
        odd[key] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return None
    if not isinstance(value, dict | list):
        return value
    if not depth:
        raise Damaged(f"is nested deeper than {DEPTH}", where)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    whole = [(_SURROGATE.sub("\ufffd", str(k)), v) for k, v in items]
    made = {k: _clean(v, f"{key}.{k}" if key else k, depth - 1, odd, where) for k, v in whole}
    return made if isinstance(value, dict) else list(made.values())


def opener(path: str, flags: int) -> int:
    """For `open()` of a file that is written in place, for its owner alone: no link is followed, no pipe waited for."""
    return os.open(path, flags | _SAFE, 0o600)
