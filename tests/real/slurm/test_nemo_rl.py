"""NeMo RL itself on the tests' Slurm: two nodes train as one, each with a Ray of its own in its container."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import squash
from ..nemo_rl.site import LONG, Mill, milled, numbers
from ..support import Run, Tree
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]


@pytest.fixture
def quarry(_lab: Lab, project: Tree, ground: Path, address: str) -> Iterator[tuple[Lab, Mill]]:
    """The lab, in the project that has NeMo RL's image, as a .sqsh."""
    mill = milled(project, ground, address)
    profile = _lab.tree.path / "launcher" / "profiles" / "lab.yaml"
    (mill.tree.path / "launcher" / "profiles" / "lab.yaml").write_text(profile.read_text())
    squash(mill.image, mill.tree, address)
    lab = Lab(_lab.slurm, dataclasses.replace(mill.tree, env=_lab.tree.env))
    yield lab, mill
    lab.slurm.call("scancel", "--user=root")
    lab.slurm.wait_for_idle()
    lab.tree.end_all()


def test_two_nodes_fine_tune_one_model(quarry: tuple[Lab, Mill], place: Path) -> None:
    lab, mill = quarry
    words = ("rl/sft", "-c", "tiny", f"policy={mill.model}", *mill.rows("chats"), f"output={place / 'out'}")
    running = lab.tree.start("launch", "--profile", "lab", *words, "--nodes", "2", "--procs", "1", "--follow")
    running.process.wait(LONG)
    done = running.finish()
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    log = "".join(path.read_text() for path in sorted((run.path / "logs").glob("*.log")))
    assert (done.code, run.ended) == (0, (0, "step")), log[-5000:]
    assert "Ray cluster initialized with 2 nodes" in log and "rank=1" in log
    assert len(numbers(log, "Loss")) == 2
    step = place / "out" / "step_2"
    assert run.outcome["checkpoint"] == str(step)
    shards = sorted(path.name for path in (step / "policy" / "weights").glob("*.distcp"))
    assert shards == ["__0_0.distcp", "__1_0.distcp"]  # one of each node
