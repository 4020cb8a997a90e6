"""What a rule found wrong with a launch: where, what, what to do, and the exit code that it means. Pure."""

from __future__ import annotations

from typing import Literal

from slipway.errors import Exit, message
from slipway.yamldoc import Noun


class Finding(Noun, frozen=True, kw_only=True):
    """One thing that a rule found. An error stops the launch with its exit code, a warning is printed."""

    severity: Literal["error", "warning"]
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
