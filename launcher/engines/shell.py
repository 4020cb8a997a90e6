"""Words of a request as shell text."""

from __future__ import annotations

import re
import shlex

from launcher.plan import RUN_DIR, RUN_ID


def quote(word: str) -> str:
    """Shell quoting that leaves our two placeholders, and nothing else, to the shell, where they are variables."""
    pieces = re.split(f"({re.escape(RUN_ID)}|{re.escape(RUN_DIR)})", word)
    return "".join(f'"{p}"' if p in (RUN_ID, RUN_DIR) else shlex.quote(p) for p in pieces if p) or "''"
