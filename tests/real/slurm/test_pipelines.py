"""launch pipeline on a real Slurm: jobs that wait for each other, planned before what they read is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..conftest import Work
from ..support import Run, told
from ..test_pipelines import CHAIN, shown, stands
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]
MISSED = "it has not come to what was expected: expected loss < 2, found 5"


def dependency(lab: Lab, run: Run) -> str:
    said = lab.slurm.call("scontrol", "show", "job", lab.job(run)).out
    return next(word for word in said.split() if word.startswith("Dependency="))


def test_what_depends_on_a_gate_that_is_not_met_does_not_start(lab: Lab, work: Work, place: Path) -> None:
    """With no launcher anywhere: Slurm cancels it. What depends on the others runs, and reads what they have left."""
    text = CHAIN.replace("inputs: {model: params.model}", "inputs: {model: params.model}\n    set: {wait: true}")
    text = text.replace("set: {code: params.code}", "set: {code: params.code, loss: 5}\n    expect: {loss: '<2'}")
    (place / "night.yaml").write_text(text)
    words = (str(place / "night.yaml"), f"model={work.model}", "--profile", "lab")
    done = lab.launch("pipeline", *words)
    assert done.code == 0, done
    first, second, third, beside = runs = [Run(lab.tree.runs / line) for line in done.out.split()]
    for run, before in ((second, first), (third, second), (beside, first)):
        assert dependency(lab, run).startswith(f"Dependency=afterok:{lab.job(before)}")
    lab.await_file(first.path / "output" / "waiting")
    assert [stands for stands, _ in stands(lab.tree, *words).values()] == ["running"] * 4
    (first.path / "output" / "go").touch()
    lab.await_end(second, "FAILED")
    lab.await_end(third, "CANCELLED")
    lab.await_end(beside)
    assert told(lab.tree, second) == ("not met", 76, MISSED)
    assert told(lab.tree, third) == ("cancelled", 143, "cancelled: while it waited in the queue")
    assert told(lab.tree, beside) == told(lab.tree, first) == ("done", 0, "done")
    assert beside.record["plan"]["inputs"]["model"]["path"] == f"{first.path}/container/made"
    assert (beside.path / "output" / "last" / "model" / "config.json").is_file()
    assert set(shown(lab.tree, words[0], "--profile", "lab").values()) == {"done", "not met", "cancelled"}

    (place / "night.yaml").write_text(text.replace("'<2'", "'<6'"))
    again = lab.launch("pipeline", *words, "--follow")
    assert again.code == 0, again
    assert f"second: done before, what is expected has changed, and is met: run {second.id}\n" in again.err
    (last,) = [Run(lab.tree.runs / line) for line in again.out.split()]
    assert told(lab.tree, last) == ("done", 0, "done")
    model = last.record["plan"]["inputs"]["model"]
    assert model["fingerprint"] == second.record["tags"]["pipeline-key"]
    lineage = lab.launch("lineage", last.id).out
    assert all(f"made by {run.id} (" in lineage for run in (first, second, last)) and "has changed" not in lineage
    assert len(runs) == 4


def test_a_link_that_leads_elsewhere_is_refused(lab: Lab, work: Work, place: Path) -> None:
    """Whatever ran in the first container could have left it: no other job mounts what it names."""
    text = CHAIN.replace("inputs: {model: params.model}", "inputs: {model: params.model}\n    set: {wait: true}")
    (place / "linked.yaml").write_text(text)
    words = (str(place / "linked.yaml"), f"model={work.model}", "--profile", "lab", "--until", "second")
    first, second = (Run(lab.tree.runs / line) for line in lab.launch("pipeline", *words).out.split())
    lab.await_file(first.path / "output" / "waiting")
    assert lab.slurm.call("scontrol", "hold", lab.job(second)).code == 0
    (first.path / "output" / "go").touch()
    lab.await_end(first)
    link = first.path / "container" / "made"
    link.unlink()
    link.symlink_to(work.model)
    assert lab.slurm.call("scontrol", "release", lab.job(second)).code == 0
    lab.await_end(second)
    assert told(lab.tree, second) == ("refused", 78, f"refused: {link}: leads out of {first.path}/output")
