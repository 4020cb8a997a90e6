"""launcher/catalog/causes.yaml: every row is tried on the real lines that it was written for."""

from __future__ import annotations

import re

import pytest

from launcher.catalog import causes
from launcher.catalog.causes import Row, Seen
from launcher.records.outcome import End

ROWS = causes.load().lines
SEEN = [(row, seen) for row in ROWS for seen in row.seen]
WORDS = {"run": "R", "step": "S", "profile": "P"}  # that a remedy may say
# What the issue of a failed run has to be told apart from: each by a row, or by an end.
WANTED = {
    "gpu-memory", "host-memory", "nccl-timeout", "driver", "missing-file", "mount", "container", "ray-nodes", "disk",
    "checkpoint", "checkpoint-folder", "tokenizer", "template", "data", "divergence", "time-limit", "preemption",
}  # fmt: skip


@pytest.mark.parametrize(("row", "seen"), SEEN, ids=[f"{r.id}-{n}" for n, (r, _) in enumerate(SEEN)])
def test_a_real_line_is_known_by_its_own_row_first(row: Row, seen: Seen) -> None:
    assert next((other.id for other in ROWS if other.match(seen.line)), "") == row.id
    match = row.match(seen.line)
    assert match and (not seen.says or row.said(match) == seen.says)
    assert seen.source


def test_every_cause_has_a_row_with_a_line_and_a_remedy() -> None:
    assert {row.id for row in ROWS} >= WANTED and len({row.id for row in ROWS}) == len(ROWS)
    assert all(row.seen and row.by and row.remedy.format(**WORDS) for row in ROWS)
    assert {row.end for row in ROWS if row.end} <= {str(end.value) for end in End}


def test_what_is_quoted_is_of_the_pattern() -> None:
    for row in ROWS:
        assert set(re.findall(r"{(\w+)}", row.says)) <= set(re.compile(row.pattern).groupindex), row.id


def test_every_end_but_those_that_its_user_wanted_has_a_remedy() -> None:
    wanted = {End.DONE, End.CANCELLED, End.STOPPED}
    assert set(causes.load().ends) == {str(end.value) for end in End if end not in wanted}
    assert all(remedy.format(**WORDS) for remedy in causes.load().ends.values())
