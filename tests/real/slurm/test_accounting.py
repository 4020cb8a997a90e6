"""Where a site keeps accounts, they tell of a job that the controller has forgotten."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest

from ..conftest import toy
from ..support import Tree, until
from .cluster import running
from .conftest import PROFILE, Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]


def test_a_forgotten_job_is_known_from_the_accounts(project: Tree, squashed: Path, ground: Path, place: Path) -> None:
    assert squashed.is_file()
    shared = f"shared: [{ground}]\nhf_home: {ground}/huggingface\n"
    (project.path / "launcher" / "profiles" / "lab.yaml").write_text(PROFILE + shared)
    with (
        tempfile.TemporaryDirectory(prefix="slipway-slurm-") as short,  # Slurm's sockets are below it
        running(Path(short), accounting=True, lines=("MinJobAge=2",)) as slurm,
    ):
        lab = Lab(slurm, dataclasses.replace(project, env=project.env | slurm.env))
        run = lab.submit(*toy(place / "out"), "wait=true", "--nodes", "1")
        lab.await_file(place / "out" / "waiting")
        assert slurm.call("scancel", "--full", "--signal=KILL", lab.job(run)).code == 0
        until("it is forgotten", lambda: not slurm.job(lab.job(run)))
        (run.path / "attempts.jsonl").unlink()
        told = slurm.call("sacct", "-nPX", "-j", lab.job(run), "-o", "State").out
        assert told.startswith("CANCELLED"), told
        code, cause = lab.collected(run).ended
    assert (code, cause) == (143, "cancelled") and run.outcome["reason"].startswith("cancelled"), run.outcome
