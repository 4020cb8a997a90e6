"""Prints which keys classes of a library take, for the image's record; run by the image's own Python:

    python -I -B -c THIS_TEXT [SECTION=]CLASS...

CLASS is the full name of a class or function that takes a section of a configuration by name; SECTION which, where it
is always the same. stdout is one JSON document: `sections`, section -> class; `targets`, CLASS -> class; `known`,
class -> its `keys`, with the classes that a key's value may be made of, as far as dataclasses say; and `why` one is not
known. The standard library, and what it imports.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import signal
import sys
import typing
from typing import Any

PLAIN = (int, float, str, bool, type(None))
MOST = 400  # classes
SECONDS = 300  # for all of it


def full_name(found: Any) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def imported(name: str) -> Any:
    """What a full name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def take(found: Any, known: dict[str, Any]) -> str:
    """Adds a class, and those that its fields are made of; its full name."""
    name = full_name(found)
    if name in known or len(known) >= MOST:
        return name
    parameters = inspect.signature(found).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known[name] = described = {
        "name": found.__qualname__,
        "keys": {key: [] for key in named},
        "plain": [],
        "open": any(p.kind is p.VAR_KEYWORD for p in parameters),
    }
    types = hints(found) if dataclasses.is_dataclass(found) else {}
    for key in named:
        parts = alternatives(types.get(key, Any))
        described["keys"][key] = [take(part, known) for part in parts if dataclasses.is_dataclass(part)]
        if all(part in PLAIN for part in parts):
            described["plain"].append(key)
    return name


def hints(found: Any) -> dict[str, Any]:
    """The types of a dataclass's fields; none where they cannot be told, as names of what is not imported."""
    try:
        return typing.get_type_hints(found)
    except Exception:  # noqa: BLE001 - whatever a library's own names raise
        return {}


def alternatives(hint: Any) -> list[Any]:
    """The types that a union has, or the one."""
    kinds = [typing.Union] + ([type(int | str)] if sys.version_info >= (3, 10) else [])
    if typing.get_origin(hint) in kinds:
        return [part for argument in typing.get_args(hint) for part in alternatives(argument)]
    return [hint]


def look(words: list[str]) -> dict[str, Any]:
    """What is printed."""
    sections: dict[str, str] = {}
    targets: dict[str, str] = {}
    known: dict[str, Any] = {}
    why: dict[str, str] = {}
    for word in words:
        section, _, name = word.rpartition("=")
        try:
            place, key = (sections, section) if section else (targets, name)
            place[key] = take(imported(name), known)
        except Exception as e:  # noqa: BLE001 - whatever a library raises while it is imported
            why[section or name] = f"{name}: {type(e).__name__}: {' '.join(str(e).split())[:300]}"
    return {"sections": sections, "targets": targets, "known": known, "why": why}


def late(*_: Any) -> None:
    os._exit(75)  # PID 1 of a container does not end by a signal alone


def main() -> None:
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints while it is imported
    said = look(sys.argv[1:])
    with os.fdopen(out, "w", encoding="utf-8") as stream:
        json.dump(said, stream, allow_nan=False)
        stream.flush()
        os._exit(0)  # what a library has begun, such as threads, is nothing to wait for


if __name__ == "__main__":
    main()
