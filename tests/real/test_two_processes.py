"""Two processes on one machine: torchrun, gloo, one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .support import Tree
from .tried import Tried

pytestmark = pytest.mark.real


def test_two_ranks_train_together(tree: Tree, tried: Callable[[str], Tried]) -> None:
    """By the selftest, which has two."""
    found = tried("automodel")
    run = found.run("sft/automodel")
    assert "World size: 2" in run.log and "Backend: gloo" in run.log
    assert run.record["plan"]["shape"] == {"nodes": 1, "gpus": 0, "procs": 2}
    assert sorted(p.name for p in (run.path / "container" / "0" / "ranks").iterdir()) == ["0.pid", "1.pid"]
    assert run.outcome["result"]["steps"] == 40
    assert (found.made("sft/automodel") / "config.json").is_file()
    loaders = found.made("sft/automodel").parents[1] / "dataloader"
    assert len(list(loaders.iterdir())) == 2, "each rank read data of its own"
    losses = (found.output("sft/automodel") / "training.jsonl").read_text().splitlines()
    assert len([json.loads(line)["loss"] for line in losses]) == 40
    assert tree.container(run) is None
