"""Which pin moved: locks, entries and images side by side, in words. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from images.building import render
from images.locking.model import Entry, Lock, named
from slipway.errors import Exit, SlipwayError, nearest

# Of an entry: what an image is not made from, and what only says its name in another way.
_SILENT = {("image",), ("tested",), ("sources",), ("notes",), ("library",), ("release",), ("flavour",), ("platform",)}
_SILENT_IN = {("base", "reported"), ("groups", "file"), ("repositories", "reported")}  # section, key
SAID = "/etc/slipway/entry.json"  # in an image: what it is made from
BASE_LABEL = "org.opencontainers.image.base"
_STAND_INS = {"built over": "slipway.substituted", "left out": "slipway.left-out"}
_EACH = {"environments": "environment", "groups": "group", "repositories": "repository"}


class Image(NamedTuple):
    """What a built image says of itself: its entry.json, and what its labels say of the base and of stand-ins."""

    name: str  # library/release-flavour
    said: dict[str, Any]


Side = Lock | Entry | Image


class Difference(NamedTuple):
    """`old` or `new` is None where there is nothing on that side; `note` is for people."""

    entry: str
    what: str
    old: str | None
    new: str | None
    note: str = ""

    def __str__(self) -> str:
        head = f"{self.entry}: {self.what}{self.note}" if self.what else self.entry
        if self.old is None:
            return f"{head}: added {_short(self.new)}"
        if self.new is None:
            return f"{head}: removed {_short(self.old)}"
        return f"{head}: {_short(self.old)} -> {_short(self.new)}"

    def json(self) -> dict[str, str | None]:
        """As `images diff --json` prints it."""
        return {"entry": self.entry, "what": self.what, "from": self.old, "to": self.new}


def image(entry_json: str, labels: dict[str, str]) -> Image:
    """The Image that has this /etc/slipway/entry.json and these labels."""
    said = json.loads(entry_json)
    said["entry checksum"] = said.pop("entry")
    reference, _, tag = labels.get(f"{BASE_LABEL}.name", "").rpartition(":")
    said["base"] = {"image": reference or None, "tag": tag or None, "digest": labels.get(f"{BASE_LABEL}.digest")}
    said |= {what: labels.get(label) for what, label in _STAND_INS.items()}
    return Image(named(said["library"], said["release"], said["flavour"], said.get("platform", "")), said)


def diff(a: Side, b: Side) -> list[Difference]:
    """What is different in `b`, sorted; nothing where they are the same.

    Of a lock beside an entry or image, the entry of the same name counts. Beside an image, an entry is what an image of
    it would say, and only of what this one speaks of. Raises SlipwayError 64 where a lock has no such entry.
    """
    if isinstance(a, Lock) and isinstance(b, Lock):
        return _locks(a, b)
    a, b = _single(a, b), _single(b, a)
    name = a.name if a.name == b.name else f"{a.name} -> {b.name}"
    if isinstance(a, Entry) and isinstance(b, Entry):
        return _rows(name, msgspec.structs.asdict(a), msgspec.structs.asdict(b))
    left, right = _said(a), _said(b)
    common = left.keys() & right.keys()
    return _rows(name, {k: left[k] for k in common}, {k: right[k] for k in common})


def _single(side: Side, other: Side) -> Entry | Image:
    if not isinstance(side, Lock):
        return side
    assert not isinstance(other, Lock)
    if other.name not in side.entries:
        what = f"the lock has no entry {other.name}"
        raise SlipwayError(Exit.WORDS, what, remedy=nearest(other.name, side.entries))
    return side.entries[other.name]


def _locks(a: Lock, b: Lock) -> list[Difference]:
    found: list[Difference] = []
    for name in sorted(a.entries.keys() | b.entries.keys()):
        old, new = a.entries.get(name), b.entries.get(name)
        if old and new:
            found += _rows(name, msgspec.structs.asdict(old), msgspec.structs.asdict(new))
        else:
            found.append(Difference(name, "", old.checksum if old else None, new.checksum if new else None))
    for name in sorted(a.libraries.keys() | b.libraries.keys()):
        defaults = [lock.libraries[name].default if name in lock.libraries else {} for lock in (a, b)]
        found += _rows(name, *({"default": d} for d in defaults))
    return found


def _said(side: Entry | Image) -> dict[str, Any]:
    if isinstance(side, Image):
        return side.said
    base, labels = side.base, dict[str, str]()
    if base.image:
        labels[f"{BASE_LABEL}.name"] = f"{base.image}:{base.tag}"
    if base.digest:
        labels[f"{BASE_LABEL}.digest"] = base.digest
    return image(render.entry_json(side), labels).said


def _rows(name: str, a: dict[str, Any], b: dict[str, Any]) -> list[Difference]:
    old, new = dict(_flat(a)), dict(_flat(b))
    tags = {side.get(("base", "tag")) for side in (old, new)}
    note = f" (tag {tags.pop()})" if len(tags) == 1 else ""
    return [
        Difference(name, _words(at), old.get(at), new.get(at), note if at == ("base", "digest") else "")
        for at in sorted(old.keys() | new.keys())
        if old.get(at) != new.get(at)
    ]


def _flat(value: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, item in value.items():
        here = (*at, key)
        if isinstance(item, msgspec.Struct):
            yield from _flat(msgspec.structs.asdict(item), here)
        elif isinstance(item, dict):
            yield from _flat(item, here)
        elif item not in (None, []) and here not in _SILENT and (*at[:1], key) not in _SILENT_IN:
            yield here, ", ".join(map(str, item)) if isinstance(item, list) else str(item)


def _words(at: tuple[str, ...]) -> str:
    """`environment main: torch` for (environments, main, packages, torch)."""
    if at[0] not in _EACH:
        return " ".join(at)
    rest = at[3:] if at[0] == "environments" and at[2] == "packages" else at[2:]
    return f"{_EACH[at[0]]} {at[1]}: {' '.join(rest)}"


def _short(value: str | None) -> str:
    """Digests and commits by their first twelve digits; commas and all else as they are."""
    return re.sub(r"\b(?:sha256:)?([0-9a-f]{12})[0-9a-f]{28,52}\b", r"\1", value or "")
