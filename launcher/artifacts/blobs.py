"""Blobs of the hub's cache: a snapshot's files are links to them, and their names say what is in them.

A blob is named by the sha256 of its content where it stands in the hub's large file storage, else as git names it
(sha1). Which blob a file of a commit is, is told by the list that huggingface_hub writes beside the snapshots; git's
own objects, which would prove that list against the commit, are not in the cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launcher.artifacts import hub_cache
from launcher.artifacts.faults import fault
from launcher.artifacts.hub_cache import Place
from slipway.findings import Finding

SMALL, IN_ALL = 1 << 20, 64 << 20  # bytes of a file, and of all files of an input, that are hashed before a launch
_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class _Listed(NamedTuple):
    """What the list of a commit says of a file; `size` is -1 where it does not."""

    blob: str
    size: int


def linked(file: Path) -> str:
    """The blob that a file of a snapshot is a link to; empty where it is none."""
    name = file.readlink().name if file.is_symlink() else ""
    return name if _NAME.fullmatch(name) else ""


def expected(place: Place, files: Sequence[Path]) -> dict[Path, str]:
    """File -> the blob whose content it has to have, by its link, else by the commit's list, where either tells."""
    listed = _listed(place)
    found = {f: linked(f) or (listed[_name(f)].blob if _name(f) in listed else "") for f in files}
    return {f: blob for f, blob in found.items() if _NAME.fullmatch(blob)}


def content(file: Path, like: str) -> str:
    """The name of a blob with this content, of the kind of `like`. Raises OSError."""
    with file.open("rb") as f:
        if len(like) == 64:
            return hashlib.file_digest(f, "sha256").hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def changed(file: Path, blob: str, found: str) -> list[Finding]:
    """The fault of a file whose content is the blob `found`, where it has to be `blob`."""
    what = f"the content is not that of this blob of the hub's but of {found}: remove both, and fetch it again"
    return [_fault(file, blob, what)] if found != blob else []


def fingerprint(place: Place, files: Sequence[Path], others: str) -> str:
    """sha256 over the commit, and name, blob and size of every file, the blob as the last of its links names it.

    `others`: of the content of those that are no links. The same weights in another format, which somebody may fetch
    beside them at any time, make no other input.
    """
    digest = hashlib.sha256(f"{place.id.revision}\0{others}\0".encode())
    by_name = {_name(f): f for f in files}
    for name in list(by_name) if place.id.below else hub_cache.needed(list(by_name), ""):
        blob, size = by_name[name].resolve().name, by_name[name].stat().st_size
        digest.update(f"{name}\0{blob}\0{size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def faults(place: Place, files: Sequence[Path]) -> list[Finding]:
    """Where files are not those of their commit, as far as links, sizes and small files tell. Raises OSError."""
    listed, blobs, left = _listed(place), expected(place, files), IN_ALL
    found: list[Finding] = []
    for file in files:
        size = file.stat().st_size
        wrong = _unlisted(file, size, listed) if listed else []
        if not wrong and file in blobs and size <= min(SMALL, left):
            left -= size
            wrong = changed(file, blobs[file], content(file, blobs[file]))
        found += wrong
    return found


def _unlisted(file: Path, size: int, listed: dict[str, _Listed]) -> list[Finding]:
    said, blob = listed.get(_name(file)), linked(file)
    if not said:
        return [_fault(file, blob, "the commit has no such file: remove it")]
    if blob and said.blob and blob != said.blob:
        return [_fault(file, blob, f"in the commit it is the blob {said.blob}: remove the link, and fetch it again")]
    if said.size not in (-1, size):
        what = f"{size} bytes, in the commit it has {said.size}: remove both, and fetch it again"
        return [_fault(file, blob, what)]
    return []


def _fault(file: Path, blob: str, what: str) -> Finding:
    """At both: what is said of a file alone, reading all of its rows says again."""
    return fault(f"{file} -> {blob or 'no blob'}", what)


def _name(file: Path) -> str:
    """Of a file in its snapshot."""
    found = hub_cache.place(file)
    return found.id.below if found else file.name


def _listed(place: Place) -> dict[str, _Listed]:
    """Name -> what the list of the commit says; nothing where there is no list that can be read."""
    try:
        files = json.loads((place.repository / "trees" / f"{place.id.revision}.json").read_bytes())["files"]
        return {name: _entry(said) for name, said in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _entry(said: dict[str, Any]) -> _Listed:
    size = said["lfs_size"] if "lfs_size" in said else said.get("size")
    return _Listed(str(said.get("lfs_sha256") or said.get("blob_id") or ""), size if isinstance(size, int) else -1)
