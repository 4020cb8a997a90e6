"""One exception base, one table of exit codes, and how an error reads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; own errors follow BSD's sysexits.h. 2 belongs to click."""

    OK = 0
    DIFFERS = 1  # --check, verify, compare: the answer is "not the same"
    WORDS = 64  # the command line itself
    DATA = 65  # bad data, or a mismatch with the lock
    NO_INPUT = 66  # an input is missing
    UNAVAILABLE = 69  # no engine, no registry; of a run: its container did not start
    INTERNAL = 70  # of a run: nobody knows how it ended
    CANNOT_WRITE = 73
    TRY_AGAIN = 75  # of a run: a node failed
    NOT_MET = 76  # of a run: it ended well, and has not come to what was expected of it (--expect)
    NOT_PERMITTED = 77
    CONFIG = 78  # profile, step or matrix; also what an entrypoint refuses


def visible(text: str) -> str:
    """`text` as one line that only prints: what would steer a terminal is shown as Python would write it.

    Everything that came from a file, a container or a name is printed by way of this, but for the log of a step.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def message(head: str, remedy: str = "") -> str:
    """One message, of lines of which all but the first are indented: nothing in it can look like another message."""
    lines = [*re.split(r"\n(?=  )", head), *([f"  {remedy}"] if remedy else [])]
    return "\n".join(visible(line) for line in lines)


def quoted(said: str) -> str:
    """What a program has said, for the end of a message: as lines of their own, which `message` keeps."""
    return "".join(f"\n  {line}" for line in said.strip().splitlines())


class SlipwayError(Exception):
    """An error for the user: what was found, where, and what to do.

    `where` is a file with line and column, a file and key, or a word of the command line.
    """

    def __init__(self, code: Exit, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return message(head, self.remedy)


def nearest(word: str, known: Iterable[str]) -> str:
    """Says which of `known` was probably meant, or lists them when none is close; for remedies."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known here"
