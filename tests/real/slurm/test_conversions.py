"""A model's conversion as a job of its own on a real Slurm: once, before every job that needs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ..cache import conversions, converted, model, reads, takes
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


def convert(lab: Lab, kept: Path, place: Path, name: str) -> Run:
    """A launch of what is given a model of Hugging Face and takes one of Megatron, which submits and returns."""
    words = ("a/takes", "--convert", "--detach", f"policy={kept}", f"output={place / name}")
    done = lab.launch("--profile", "lab", *words, XDG_CONFIG_HOME=str(place / "config"))
    assert done.code == 0, done
    return Run(lab.tree.runs / done.out.strip())


def test_convert_submits_both_jobs(lab: Lab, work: Work, place: Path) -> None:
    """The second is planned before the first has begun, and is not started if that fails; a retry makes it anew."""
    takes(place / "config")
    before = lab.tree.all_runs()
    kept = model(work.model, place, "half")
    run = convert(lab, kept, place, "one")
    need = run.record["plan"]["needs"][0]
    made = Path(need["place"])
    until("the converter", (made / "reached").exists)
    (conversion,) = conversions(lab.tree, before, "a/converts")
    job = lab.job(conversion)
    assert f"Dependency=afterany:{job}" in lab.slurm.call("scontrol", "show", "job", lab.job(run)).out
    lab.slurm.call("scancel", job)
    lab.await_end(run)
    assert lab.collected(run).ended == (78, "entrypoint")
    assert f"/inputs/policy-{need['key'][:8]}: the model is not there" in run.outcome["reason"]

    again = convert(lab, kept, place, "two")
    assert again.record["plan"]["needs"] == [need]
    until("it again", (made / "reached").exists)
    (made / "go").touch()
    lab.await_end(again)
    assert lab.collected(again).ended == (0, "step"), again.record
    later = convert(lab, kept, place, "three")
    lab.await_end(later)
    assert lab.collected(later).ended == (0, "step"), later.record
    assert len(conversions(lab.tree, before, "a/converts")) == 2
    listed = json.loads(lab.launch("cache", "list", "--profile", "lab", "--json").out)
    assert [i["state"] for i in listed if made.name in i["folder"]] == ["whole", "quarantined"]
