"""A model's conversion as a job of its own on a real Slurm: once, before every job that needs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ..cache import conversions, converted, model, reads
from ..conftest import Work
from ..support import Run, until
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]


def submit(lab: Lab, kept: Path, place: Path, name: str) -> Run:
    return lab.submit(*reads(kept, place / name), "--megatron-cache", str(place / "cache"))


def test_one_job_converts_for_two_that_wait(lab: Lab, work: Work, place: Path) -> None:
    before = lab.tree.all_runs()
    kept = model(work.model, place, "half")
    words = ("--profile", "lab", *reads(kept, place / "one"), "--megatron-cache", str(place / "cache"))
    planned = lab.launch(*words, "--dry-run")
    assert planned.code == 0 and planned.out.count("#!/usr/bin/env bash") == 2, planned
    runs = [submit(lab, kept, place, "one")]
    until("the converter", lambda: list((place / "cache").glob("*/model_*/reached")))
    runs.append(submit(lab, kept, place, "two"))
    (conversion,) = conversions(lab.tree, before)
    job = lab.job(conversion)
    for run in runs:
        assert f"Dependency=afterany:{job}" in lab.slurm.call("scontrol", "show", "job", lab.job(run)).out
        assert "pending" in lab.launch("show", run.id).out
    assert [i["state"] for i in converted(lab.tree, place / "cache")] == ["being made"]
    next((place / "cache").glob("*/model_*")).joinpath("go").touch()
    for run, name in zip(runs, ("one", "two"), strict=True):
        lab.await_end(run)
        assert lab.collected(run).ended == (0, "step"), run.record
        assert "slipway.json" in json.loads((place / name / "seen.json").read_text())["found"]
    assert len(conversions(lab.tree, before)) == 1


def test_a_conversion_that_was_cancelled_is_told_by_the_job_that_needs_it(lab: Lab, work: Work, place: Path) -> None:
    """And the next launch makes it anew."""
    before = lab.tree.all_runs()
    kept = model(work.model, place, "end")
    run = submit(lab, kept, place, "one")
    until("the converter", lambda: list((place / "cache").glob("*/model_*/reached")))
    (conversion,) = conversions(lab.tree, before)
    lab.slurm.call("scancel", lab.job(conversion))
    lab.await_end(run)
    assert lab.collected(run).ended == (78, "entrypoint")
    assert "its conversion did not finish" in run.outcome["reason"]
    assert [i["state"] for i in converted(lab.tree, place / "cache")] == ["unfinished"]
    again = submit(lab, kept, place, "two")
    found = until("it again", lambda: list((place / "cache").glob("*/model_*/reached")))
    found[0].with_name("go").touch()
    lab.await_end(again)
    assert lab.collected(again).ended == (0, "step"), again.record
    assert sorted(i["state"] for i in converted(lab.tree, place / "cache")) == ["quarantined", "whole"]


def test_a_cache_that_other_nodes_do_not_see_is_refused(lab: Lab, work: Work, place: Path) -> None:
    done = lab.launch(
        "--profile", "lab", *reads(model(work.model, place), place / "one"), "--megatron-cache", "/tmp/elsewhere"
    )
    assert done.code == 78 and "is under no shared folder" in done.err and not Path("/tmp/elsewhere").exists()


def test_a_converter_that_fails_is_tried_once_by_a_launch(lab: Lab, work: Work, place: Path) -> None:
    before = lab.tree.all_runs()
    run = submit(lab, model(work.model, place, "fault"), place, "one")
    lab.await_end(run)
    assert lab.collected(run).ended == (78, "entrypoint")
    (conversion,) = conversions(lab.tree, before)
    assert lab.collected(conversion).ended == (3, "step")
