"""--expect against a real engine: a run that ended with 0 and has not come to what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Work
from .support import Tree, told

pytestmark = pytest.mark.real


def test_what_a_run_has_not_come_to_is_no_success(tree: Tree, work: Work, place: Path) -> None:
    """It has an end of its own, which all commands tell alike, and nothing that waits for it starts."""
    words = ("test/link", "--flavour", "cpu", f"model={work.model}")
    missed = tree.launch(*words, f"output={place}/one", "loss=5", "--expect", "loss<2")
    assert missed.code == 76, missed
    run = tree.run_of(missed)
    why = "it has not come to what was expected: expected loss < 2, found 5"
    assert told(tree, run) == ("not met", 76, why)
    assert "slipway: not a success: expected loss < 2, found 5\n" in missed.out
    assert f"cause      {why}\n" in missed.err and f"launch resume {run.id} max_steps=MORE" in missed.err
    assert run.outcome["checkpoint"] == f"{place}/one/last/model"
    following = tree.launch(*words, f"output={place}/two", "--after", run.id)
    assert (following.code, following.err.splitlines()[-2]) == (
        78, f"error: --after {run.id}: it has not ended well: not met ({why})")  # fmt: skip
    assert tree.launch(*words[:3], f"model=run:{run.id}").code == 66
    assert [json.loads(line)["state"] for line in tree.launch("runs", "--json", "--state", "not met").out.splitlines()]


def test_what_it_has_come_to_is_one(tree: Tree, work: Work, place: Path) -> None:
    words = ("test/link", "--flavour", "cpu", f"model={work.model}", f"output={place}/out", "loss=1.9")
    done = tree.launch(*words, "--expect", "loss<2", "--expect", "loss_drop>5", "--expect", "steps==3")
    assert done.code == 0, done
    run = tree.run_of(done)
    assert (run.path / "container" / "made").readlink() == place / "out" / "last" / "model"
    again = tree.launch("replay", run.id, f"output={place}/again", "--dry-run")
    assert again.code == 0 and "SLIPWAY_EXPECT" in again.out
