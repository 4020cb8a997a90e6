"""Where a site keeps accounts, they tell of a job that the controller has forgotten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..conftest import toy
from ..support import until
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]


def test_a_forgotten_job_is_known_from_the_accounts(accounted_lab: Lab, place: Path) -> None:
    lab, slurm = accounted_lab, accounted_lab.slurm
    run = lab.submit(*toy(place / "out"), "wait=true", "--nodes", "1")
    lab.await_file(place / "out" / "waiting")
    assert slurm.call("scancel", "--full", "--signal=KILL", lab.job(run)).code == 0
    until("it is forgotten", lambda: not slurm.job(lab.job(run)))
    (run.path / "attempts.jsonl").unlink()
    told = slurm.call("sacct", "-nPX", "-j", lab.job(run), "-o", "State").out
    assert told.startswith("CANCELLED"), told
    code, cause = lab.collected(run).ended
    assert (code, cause) == (143, "cancelled") and run.outcome["reason"].startswith("cancelled"), run.outcome
