"""The groups of packages of an entry: what is resolved together, and which pins stay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import msgspec

from images.locking import own
from images.locking.model import Entry, Group, Lock, MatrixEntry, MatrixGroup
from slipway import canonical
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text, sha256_file
from slipway.project import Root


class Packages(Protocol):
    """What asks the package index; see resolve.py."""

    def pins(self, groups: dict[str, MatrixGroup], before: str) -> dict[str, str]:
        """The hashed requirements text of every group, resolved together but for those with `no_deps`.

        `before`: earlier pins, as requirements; each stays where it still fits.
        """

    def added(self, group: MatrixGroup, pins: dict[str, str], before: str) -> dict[str, tuple[MatrixGroup, str]]:
        """Groups and their hashed requirements: `group` and all that it asks for, less the `pins` (name -> version)
        beside which it is installed; what has no wheel in one of its own, with its build tools in another.

        Empty where there is nothing to add. Raises SlipwayError 65 where one of the pins would have to be another.
        """


def pins_of(text: str) -> dict[str, str]:
    """name -> version of a requirements text, names normalised as PEP 503 does."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", text, re.MULTILINE)
    return {canonical_name(name): version for name, version in found}


def canonical_name(package: str) -> str:
    """The name of a package as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def without(text: str, names: set[str]) -> str:
    """The requirements text less the packages of an earlier group (a requirement and its hash lines are one block)."""
    blocks: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith(" ") and blocks:
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return "".join("".join(b) for b in blocks if not set(pins_of(b[0])) & names)


def check_moving(root: Root, old: Lock | None, ask: tuple[str, ...], moving: tuple[str, ...]) -> None:
    """Raises SlipwayError 64 for a package to move that no group of the libraries `ask`, or of the lock, has."""
    entries = [e for e in old.entries.values() if not ask or e.library in ask] if old else []
    pinned = {package for entry in entries for package in pins_of(pins_before(root, entry))}
    for name in moving:
        if canonical_name(name) not in pinned:
            what = f"no group of {', '.join(ask) or 'the lock'} has a package {name!r}"
            raise SlipwayError(Exit.WORDS, what, where="--upgrade-package", remedy=nearest(name, pinned))


def lock_groups(
    root: Root, key: str, wish: MatrixEntry, before: Entry | None, resolver: Packages, moving: tuple[str, ...]
) -> tuple[dict[str, Group], dict[Path, str]]:
    """The groups of an entry `key`, and the files (path -> text) that they name and that are new."""
    kept, pins, names = _intact_groups(root, wish, before), pins_before(root, before), set(map(canonical_name, moving))
    if kept is not None and not pins_of(pins).keys() & names:
        return kept, {}
    groups, files = {}, {}
    for wanted in _resolved_together(wish):
        for name, text in resolver.pins(wanted, without(pins, names)).items():
            file = f"images/{key}/requirements-{name}.txt"
            pinned = msgspec.structs.asdict(wish.groups[name])
            groups[name] = Group(**pinned, file=file, sha256=canonical.sha256(text.encode()))
            files[root.path / file] = text
    return groups, files


def _resolved_together(wish: MatrixEntry) -> list[dict[str, MatrixGroup]]:
    """The groups that end up in the image, in the order of their layers; and each group of build tools alone."""
    installed = {g: wish.groups[g] for e in wish.environments.values() for g in e.groups}
    tools = [{n: g} for n, g in wish.groups.items() if n not in installed]
    return [installed, *tools] if installed else tools


def pins_before(root: Root, before: Entry | None) -> str:
    """The requirements of an entry; of a file that is not the one that was locked, the versions that the lock says."""
    if before is None or not before.groups:
        return ""
    paths = {own.file_of(root, group): group.sha256 for group in before.groups.values()}
    text = "".join(read_text(p) for p, sha256 in paths.items() if p.is_file() and sha256_file(p) == sha256)
    said = {n: v for e in before.environments.values() if e.groups for n, v in e.packages.items() if v[0].isdigit()}
    return text + "".join(f"{name}=={version}\n" for name, version in said.items() if name not in pins_of(text))


def _intact_groups(root: Root, wish: MatrixEntry, before: Entry | None) -> dict[str, Group] | None:
    """The old groups where all of them are still what is wanted; one environment is resolved as a whole."""
    if before is None or set(before.groups) != set(wish.groups):
        return None
    for name, group in before.groups.items():
        path = root.path / group.file
        same = all(getattr(group, f) == getattr(wish.groups[name], f) for f in MatrixGroup.__struct_fields__)
        if not same or not path.is_file() or sha256_file(path) != group.sha256:
            return None
    return before.groups
