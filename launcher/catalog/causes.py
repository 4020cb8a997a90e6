"""Why runs fail: what a line of a log means and what to do about it, as data (causes.yaml, beside this file)."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal

from slipway import yamldoc
from slipway.yamldoc import Noun

FILE = Path(__file__).with_name("causes.yaml")  # a part of this program, as this module is


class Seen(Noun, frozen=True, kw_only=True):
    """A real line, and where it was found; `says`: what is told of it."""

    line: str
    source: str
    says: str = ""


class Row(Noun, frozen=True, kw_only=True):
    """A pattern of lines and what they mean. `by`: who writes such lines; `words`: a line that it fits has one of them;
    `says`: words with the pattern's groups.

    `follows`: it comes of something else, as a rule; `end`: the state of a run that says the same by itself; `ranks`:
    which rank was last is told with it; `memory`: the plan's estimate of a GPU's memory is.
    """

    id: str
    cause: str
    by: str
    words: list[str]
    pattern: str
    remedy: str
    says: str = ""
    end: str = ""
    follows: bool = False
    ranks: bool = False
    memory: bool = False
    seen: list[Seen] = []

    def match(self, line: str) -> re.Match[str] | None:
        """What of a line says it."""
        return re.search(self.pattern, line) if any(word in line for word in self.words) else None

    def said(self, match: re.Match[str]) -> str:
        """What is told of a match; empty where it has nothing to say."""
        groups = {name: value or "" for name, value in match.groupdict().items()}
        return self.says.format_map(groups).strip() if any(groups.values()) else ""


class Causes(Noun, frozen=True, kw_only=True):
    """`ends`: state of a run that has ended -> what to do; `lines`: of its logs."""

    schema: Literal[1]
    ends: dict[str, str]
    lines: list[Row]


@functools.cache
def load() -> Causes:
    """All that is known."""
    return yamldoc.load(FILE, Causes)
