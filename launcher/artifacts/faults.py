"""What looking at files says: the nouns that every look shares."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from slipway.yamldoc import Noun

MAX_FAULTS = 20  # of each severity that are kept
Severity = Literal["error", "warning"]


class Fault(Noun, frozen=True, kw_only=True):
    """Something wrong inside an artifact; `where` is file:line or a file."""

    where: str
    what: str
    severity: Severity = "error"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What some files are: detection.Artifact says what the fields mean."""

    type: str = ""
    note: str = ""
    faults: list[Fault] = []
    facts: dict[str, str | int] = {}
    parameters: int = 0


def kept(faults: Iterable[Fault]) -> list[Fault]:
    """The first MAX_FAULTS errors, then as many warnings."""
    every = list(faults)
    return [f for s in get_args(Severity) for f in [x for x in every if x.severity == s][:MAX_FAULTS]]


def fault(where: Path | str, what: str, severity: Severity = "error") -> Fault:
    """A Fault at a path or at file:line."""
    return Fault(where=str(where), what=what, severity=severity)
