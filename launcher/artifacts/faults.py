"""What is wrong with files, as every look says it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from slipway.errors import Exit
from slipway.findings import Finding, Severity, error, warning

MAX_FAULTS = 20  # of each severity that are kept


def kept(faults: Iterable[Finding]) -> list[Finding]:
    """The first MAX_FAULTS errors, then as many warnings."""
    every = list(faults)
    return [f for s in get_args(Severity) for f in [x for x in every if x.severity == s][:MAX_FAULTS]]


def fault(where: Path | str, what: str, severity: Severity = "error") -> Finding:
    """Something wrong inside an artifact, at a path or at file:line."""
    return error(Exit.DATA, str(where), what) if severity == "error" else warning(str(where), what)
