"""Arguments of a request as shell text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from launcher.core.plan import RUN_DIR, RUN_ID
from slipway.errors import Exit


def quote(word: str) -> str:
    """Shell quoting that leaves our two placeholders, and nothing else, to the shell, where they are variables."""
    pieces = re.split(f"({re.escape(RUN_ID)}|{re.escape(RUN_DIR)})", word)
    return "".join(f'"{p}"' if p in (RUN_ID, RUN_DIR) else shlex.quote(p) for p in pieces if p) or "''"


def refusing(text: str, why: Iterable[str]) -> str:
    """A script, or one command, that says `why` and ends with 78 in place of what it would do.

    In a script that comes before everything: sbatch then reads none of its options, and so asks for little.
    """
    said = "".join(f"echo {shlex.quote(f'slipway: refused: {line}')} >&2\n" for line in why)
    first, newline, rest = text.partition("\n")
    if first.startswith("#!"):
        return f"{first}{newline}{said}exit {int(Exit.CONFIG)}\n{rest}"
    return f"{{\n{said}(exit {int(Exit.CONFIG)})\n}} &&\n{text}"  # a shell into which it is pasted goes on
