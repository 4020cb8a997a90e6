"""What a real container reports that is no number, or no report at all: the run is collected, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import toy
from .support import Run, Tree, until

pytestmark = pytest.mark.real


def row(tree: Tree, run: Run) -> str:
    """Of `launch runs`, with single spaces, less the id."""
    listed = tree.launch("runs")
    assert listed.code == 0, listed
    return next(" ".join(line.split()[1:]) for line in listed.out.splitlines() if line.startswith(run.id))


@pytest.mark.parametrize(("loss", "named"), [("nan", "NaN"), ("-inf", "-Infinity")])
def test_a_loss_that_is_no_number(tree: Tree, place: Path, loss: str, named: str) -> None:
    done = tree.launch(*toy(place / "output", f"loss={loss}"))
    run = tree.run_of(done)
    assert (done.code, f"loss       7.664 -> {named} in 3 steps\n" in done.err) == (0, True), done
    assert f"slipway: not finite: last_loss is {named}" in run.log
    written = json.loads((run.path / "container" / "result.json").read_text(), parse_constant=pytest.fail)
    assert (written["last_loss"], written["not_finite"]) == (None, {"last_loss": named})
    assert row(tree, run).startswith("done 0 ") and f" 3 {named} " in row(tree, run)
    shown = tree.show(run)
    assert (shown.code, f"loss       7.664 -> {named} in 3 steps\n" in shown.out) == (0, True)
    assert tree.launch("logs", run.id).out == done.out
    assert tree.launch("cancel", run.id).code == 0


def test_links_and_pipes_in_place_of_reports(tree: Tree, place: Path) -> None:
    """Whoever looks first collects the run, and keeps nothing that lies outside of it."""
    run = Run(tree.runs / tree.launch(*toy(place / "output", "plants=true"), "--detach").out.strip())
    until("the step's end", lambda: (run.path / "container" / "0" / "status.json").exists())
    told = until("the collected run", lambda: said if (said := row(tree, run)).startswith("done 0 ") else "")
    for what in ("result.json: is no regular file", "config.yaml: config.yaml is a link", "failed: failed is a link"):
        assert f"container/{what}" in told
    assert "/bin/" not in run.record["config"] and run.record["config"] == ""
    shown = tree.show(run)
    assert (shown.code, "step       test/toy: exit 0\n" in shown.out) == (65, True)
    assert "line 3" in tree.launch("logs", run.id).out
    assert tree.container(run) is None
