"""Tables for people: columns as wide as needed, and lines as long as the terminal is wide."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence

from slipway.errors import visible


def terminal_width() -> int | None:
    """In characters; None where what is printed goes elsewhere, and nothing is to be left out."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def columns(
    rows: Iterable[Sequence[str]], *, indent: str = "", width: int | None = None, spared: Sequence[int] = ()
) -> str:
    """Rows of equal length as lines; the last column is as long as each is.

    `width`: of the terminal. Where the columns before the last do not fit, those of `spared` (by number, in that order)
    are left out; what is longer still ends with `…`.
    """
    listed = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    shown = list(range(len(widths)))
    for number in spared:
        if width is None or len(indent) + sum(widths[n] + 2 for n in shown[:-1]) - 2 <= width:
            break
        shown.remove(number)
    padded = ([row[n].ljust(widths[n]) for n in shown[:-1]] + [row[n] for n in shown[-1:]] for row in listed)
    lines = ((indent + "  ".join(cells)).rstrip() for cells in padded)
    return "".join(f"{line if width is None or len(line) <= width else f'{line[: width - 1]}…'}\n" for line in lines)
