"""slipway/tables.py: columns, and what is left out where a terminal is narrow."""

from __future__ import annotations

import pytest

from slipway import tables

ROWS = [("RUN", "STEP", "AGE", "NOTE"), ("a", "sft/automodel", "3 h", ""), ("bb", "rl/grpo", "2 d", "a \x1b[31mnote")]


def test_columns_are_as_wide_as_needed_and_nothing_steers_the_terminal() -> None:
    assert tables.columns(ROWS) == (
        "RUN  STEP           AGE  NOTE\na    sft/automodel  3 h\nbb   rl/grpo        2 d  a \\x1b[31mnote\n"
    )
    assert tables.columns([], width=10) == ""
    assert tables.columns([("a",), ("bb",)], indent="  ") == "  a\n  bb\n"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (24, ["RUN  STEP           AGE…", "a    sft/automodel  3 h", "bb   rl/grpo        2 d…"]),
        (22, ["RUN  AGE  NOTE", "a    3 h", "bb   2 d  a \\x1b[31mn…"]),
        (7, ["RUN  N…", "a", "bb   a…"]),
    ],
)
def test_on_a_narrow_terminal_columns_are_left_out_in_order(width: int, lines: list[str]) -> None:
    """The column of notes may be cut, and takes no other column's place."""
    assert tables.columns(ROWS, width=width, spared=(1, 2)).splitlines() == lines
