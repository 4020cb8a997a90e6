"""One configuration of many: what a step program will write, and who set each value of it.

Launcher and step programs resolve by this same code: a launch brings this file along, as steps/slipway_resolver.py. So
it is Python 3.9 and the standard library alone. Where the base stands in an image, the launcher does not know it. What
follows from all the rest is known then, too, and what does not is UNKNOWN, never guessed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Union


class Mark:
    """What is said in place of a value."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


UNKNOWN = Mark("UNKNOWN")  # only the image's base may say it
ABSENT = Mark("ABSENT")  # nothing says it, or it was removed
TARGET = "_target_"  # what a mapping is the arguments of


@dataclass(frozen=True)
class Leaf:
    """A value that is no mapping, and who set it."""

    value: Any
    by: str


@dataclass
class Section:
    """A mapping, and who made it. `open`: the image may say more keys than these."""

    items: dict[Any, Node]
    by: str
    open: bool = False

    def get(self, key: Any) -> Node:
        """What stands there; a mark where that is unknown, or nothing."""
        return self.items.get(key, UNKNOWN if self.open else ABSENT)


Node = Union[Leaf, Section, Mark]  # noqa: UP007 (Python 3.9)


@dataclass(frozen=True)
class Assignment:
    """A value for a dotted key. `word`: what the user said for it, empty where the launcher sets it by itself."""

    key: str
    value: Any
    by: str
    word: str = ""


@dataclass(frozen=True)
class Impossible:
    """An assignment below something that is no mapping."""

    assignment: Assignment
    where: str
    found: Leaf

    def __str__(self) -> str:
        return f"{self.assignment.key}: cannot be set, since {self.where} is {self.found.value!r} and not a mapping"


@dataclass(frozen=True)
class Lost:
    """A value that an assignment took away again: `key` is where it stood, `by` who had set it."""

    key: str
    by: str
    assignment: Assignment


@dataclass
class Configuration:
    """The configuration as it is resolved so far, and what went wrong on the way."""

    root: Section = field(default_factory=lambda: Section({}, ""))
    impossible: list[Impossible] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)

    def merge(self, values: Any, by: str) -> None:
        """Mappings merge deep; all else replaces, and so does a mapping for another `_target_`."""
        merged = _merge(self.root, values, by)
        self.root = merged if isinstance(merged, Section) else Section({}, by)

    def remove(self, key: str) -> None:
        """Whatever stands at the dotted key goes, if anything does."""
        *parents, last = key.split(".")
        node = self.root
        for name in parents:
            below = node.get(name)
            if not isinstance(below, Section):
                return  # UNKNOWN, too: whether there is such a mapping stays open
            node = below
        node.items.pop(last, None)
        if node.open:
            node.items[last] = ABSENT

    def assign(self, assignment: Assignment) -> None:
        """Sets the dotted key, making missing mappings; `impossible` says where something else is in the way."""
        *parents, last = assignment.key.split(".")
        node = self.root
        for depth, name in enumerate(parents):
            below, where = node.get(name), ".".join(parents[: depth + 1])
            if isinstance(below, Leaf) and below.value is not None:
                self.impossible.append(Impossible(assignment, where, below))
                return
            if not isinstance(below, Section):
                self._lose(where, below, assignment)
                below = node.items[name] = Section({}, assignment.by, open=below is UNKNOWN)
            node = below
        self._lose(assignment.key, node.get(last), assignment)
        node.items[last] = _node(assignment.value, assignment.by)

    def _lose(self, key: str, node: Node, assignment: Assignment) -> None:
        self.lost += [Lost(where, leaf.by, assignment) for where, leaf in leaves(node, key)]

    def at(self, key: str) -> Node:
        """What stands at a dotted key; UNKNOWN or ABSENT where nothing known does."""
        node: Node = self.root
        for name in key.split("."):
            if not isinstance(node, Section):
                return node if isinstance(node, Mark) else ABSENT
            node = node.get(name)
        return node

    def value(self, key: str) -> Any:
        """The value at a dotted key, of a mapping what is known of it; UNKNOWN or ABSENT otherwise."""
        return plain(self.at(key))


def resolve(
    base: Any, layers: Iterable[tuple[str, Any]], removed: Iterable[str], assigned: Iterable[Assignment]
) -> Configuration:
    """The base, layers over it in order, less what is removed, with what is assigned after that.

    `base`: its values; or a Section, of which the launcher knows a part.
    """
    found = Configuration()
    if isinstance(base, Section):
        found.root = base
    else:
        found.merge(base, "base")
    for by, values in layers:
        found.merge(values, by)
    for key in removed:
        found.remove(key)
    for assignment in assigned:
        found.assign(assignment)
    return found


def in_image(known: dict[str, Any], by: str) -> Section:
    """A base in an image, of which no more is known than the values at these dotted keys."""
    base = Configuration(Section({}, by, open=True))
    for key, value in known.items():
        base.assign(Assignment(key, value, by))
    return base.root


def leaves(node: Node, key: str = "") -> Iterator[tuple[str, Leaf]]:
    """Every value that is known below, with its dotted key; an empty mapping is a value."""
    if isinstance(node, Leaf):
        yield key, node
    elif isinstance(node, Section):
        if not node.items and not node.open:
            yield key, Leaf({}, node.by)
        for name, item in node.items.items():
            yield from leaves(item, f"{key}.{name}" if key else str(name))


def plain(node: Node) -> Any:
    """The value without who set it; what is not known of a mapping is left out."""
    if isinstance(node, Section):
        return {name: plain(item) for name, item in node.items.items() if not isinstance(item, Mark)}
    return copy.deepcopy(node.value) if isinstance(node, Leaf) else node


def _node(value: Any, by: str) -> Node:
    if isinstance(value, dict):
        return Section({key: _node(item, by) for key, item in value.items()}, by)
    return Leaf(value, by)


def _is_whole(node: Node) -> bool:
    """Whether all of a value is known."""
    if isinstance(node, Section):
        return not node.open and all(map(_is_whole, node.items.values()))
    return node is not UNKNOWN


def _merge(below: Node, above: Any, by: str) -> Node:
    if not isinstance(above, dict):
        return Leaf(above, by)
    if below is UNKNOWN:
        return Section({key: _merge(UNKNOWN, value, by) for key, value in above.items()}, by, open=True)
    if not isinstance(below, Section):
        return _node(above, by)
    theirs, ours = plain(below.get(TARGET)) if _is_whole(below.get(TARGET)) else UNKNOWN, above.get(TARGET)
    if ours is not None and theirs is UNKNOWN:  # the same, or another: which of the known values stay is open
        return _merge(UNKNOWN, above, by)
    if ours is not None and theirs not in (None, ABSENT, ours):
        return _node(above, by)
    merged = {key: _merge(below.get(key), value, by) for key, value in above.items()}
    return Section({**below.items, **merged}, below.by, below.open)
