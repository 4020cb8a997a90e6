"""What is wrong: where, what, what to do, and the exit code that it means. Pure.

Rules find it in a launch, looks find it in files; what stops a command at once is raised as an `errors.SlipwayError`.
"""

from __future__ import annotations

from typing import Literal

from slipway.errors import Exit, message
from slipway.yamldoc import Noun

Severity = Literal["error", "warning"]


class Finding(Noun, frozen=True, kw_only=True):
    """An error stops what was asked for, with its exit code; a warning is printed. `where` is a file, a file and its
    line or key, or a word of the command line."""

    severity: Severity
    where: str
    what: str
    remedy: str = ""
    code: int = int(Exit.OK)

    def __str__(self) -> str:
        return message(f"{self.severity}: {self.where}: {self.what}", self.remedy)


def error(code: Exit, where: str, what: str, remedy: str = "") -> Finding:
    """A finding that stops the launch with `code`."""
    return Finding(severity="error", where=where, what=what, remedy=remedy, code=int(code))


def warning(where: str, what: str, remedy: str = "") -> Finding:
    """A finding that is printed."""
    return Finding(severity="warning", where=where, what=what, remedy=remedy)
