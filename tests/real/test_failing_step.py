"""A step that fails: whose code it is, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Work, toy
from .support import Tree

pytestmark = pytest.mark.real


def test_a_recipe_that_raises(tree: Tree, work: Work, place: Path) -> None:
    """It trains, writes a checkpoint, and then its result is not what the step promises."""
    output = place / "output"
    words = work.words(output, "max_steps=1", "checkpoint.save_consolidated=false")
    done = tree.launch(*words)
    run = tree.run_of(done)
    assert done.code == 1
    assert run.ended == (1, "step")
    assert "RuntimeError" in run.outcome["reason"] and "RuntimeError" in done.out
    assert f"run        {run.id}: failed\n" in done.err
    assert (output / "epoch_0_step_0" / "model").is_dir(), "what it wrote stays"
    assert not run.outcome.get("checkpoint")
    assert tree.container(run) is None
    assert " failed " in next(line for line in tree.launch("runs").out.splitlines() if line.startswith(run.id))


def test_its_exit_code_passes_through(tree: Tree, place: Path) -> None:
    done = tree.launch(*toy(place / "output", "code=7"))
    run = tree.run_of(done)
    assert done.code == 7
    assert run.ended == (7, "step")
    assert (place / "output" / "written").read_text() == "by the toy\n"
    assert tree.container(run) is None


def test_a_configuration_that_the_step_refuses(tree: Tree, place: Path) -> None:
    """78 from the step program is the container's refusal, not the program's failure."""
    done = tree.launch(*toy(place / "output", "toy.lines.more=1"))
    run = tree.run_of(done)
    assert done.code == 78
    assert run.ended == (78, "entrypoint")
    assert "toy.lines.more: cannot be set" in run.outcome["reason"]
