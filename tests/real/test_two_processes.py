"""Two processes on one machine: torchrun, gloo, one checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Work
from .support import Tree

pytestmark = pytest.mark.real


def test_two_ranks_train_together(tree: Tree, work: Work, place: Path) -> None:
    output = place / "output"
    done = tree.launch(*work.words(output, "max_steps=2", "--procs", "2"))
    assert done.code == 0, done
    assert "World size: 2" in done.out and "Backend: gloo" in done.out
    run = tree.run_of(done)
    assert run.record["plan"]["shape"] == {"nodes": 1, "gpus": 0, "procs": 2}
    assert sorted(p.name for p in (run.path / "container" / "0" / "ranks").iterdir()) == ["0.pid", "1.pid"]
    assert run.outcome["result"]["steps"] == 2
    assert (Path(run.outcome["checkpoint"]) / "config.json").is_file()
    assert len(list((output / "epoch_0_step_1" / "dataloader").iterdir())) == 2, "each rank read data of its own"
    losses = [json.loads(line)["loss"] for line in (output / "training.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert tree.container(run) is None
