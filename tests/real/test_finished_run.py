"""One run from words to checkpoint: what it says while it runs, what it leaves, what the record knows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from images.locking.model import Entry

from .conftest import Work
from .support import Done, Run, Tree

pytestmark = pytest.mark.real
STEPS = 40


@dataclass(frozen=True)
class Finished:
    words: tuple[str, ...]
    output: Path
    planned: Done  # the dry run of the same words, before
    done: Done
    run: Run


@pytest.fixture(scope="module")
def finished(project: Tree, work: Work, ground: Path) -> Finished:
    """The run that this module looks at from all sides."""
    output = ground / "finished" / "output"
    words = work.words(output, f"max_steps={STEPS}", f"checkpoint_every={STEPS}")
    before = sorted(ground.rglob("*")), project.docker.containers.list(all=True)
    planned = project.launch(*words, "--dry-run", "--json")
    assert planned.code == 0, planned
    assert (sorted(ground.rglob("*")), project.docker.containers.list(all=True)) == before, "a dry run makes nothing"

    launched = project.start("launch", *words)
    launched.await_line(rf"step 1/{STEPS} .*loss \d+\.\d+")
    assert project.container(project.run_of(launched)).status == "running", "its first step can be read while it runs"
    done = launched.finish()
    assert done.code == 0, done
    return Finished(words, output, planned, done, project.run_of(done))


def test_every_step_has_a_line_with_its_loss(finished: Finished) -> None:
    for step in range(1, STEPS + 1):
        assert f"step {step}/{STEPS} | epoch 0 | loss " in finished.done.out


def test_the_numbers_of_every_step_are_kept(finished: Finished, tree: Tree) -> None:
    """Read from the log while it came, by the launcher that stayed."""
    lines = [json.loads(line) for line in (finished.run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["steps"]) for line in lines] == [(n, STEPS) for n in range(1, STEPS + 1)]
    for line in lines:
        assert all(line[name] > 0 for name in ("loss", "grad_norm", "lr", "tokens_per_s", "step_s")), line
        assert line["not_finite"] == {} and line["memory_bytes"] is not None
    assert f"{lines[-1]['loss']:.3f}" == f"{finished.run.outcome['result']['last_loss']:.3f}"
    (row,) = (
        row for row in map(json.loads, tree.launch("runs", "--json").out.splitlines()) if row["run"] == finished.run.id
    )
    assert (row["steps_done"], row["steps"]) == (STEPS, STEPS)


def test_the_end_says_what_a_person_wants_to_know(finished: Finished, tree: Tree) -> None:
    last = finished.done.err[finished.done.err.index(f"run        {finished.run.id}") :]
    assert f"run        {finished.run.id}: done\n" in last
    assert f"checkpoint {finished.output}/epoch_0_step_{STEPS - 1}/model/consolidated" in last
    assert f", {finished.run.record['plan']['image']}\n" in last
    seconds = next(line.split()[1] for line in last.splitlines() if line.startswith("time "))
    assert 1 < int(seconds) < 1000
    assert tree.container(finished.run) is None, "and the container is gone"


def test_the_checkpoint_loads_generates_and_has_learned(finished: Finished, work: Work, tree: Tree) -> None:
    checkpoint = finished.run.outcome["checkpoint"]
    mounts = [word for folder in (work.folder, finished.output, finished.run.path) for word in ("--mount", str(folder))]
    words = ("python", "verify.py", checkpoint, str(finished.run.path / "container" / "result.json"))
    done = tree.images("run", "automodel", "--flavour", "cpu", *mounts, "--", *words)
    assert done.code == 0, done
    assert "generates" in done.out


def test_the_record_tells_the_run(finished: Finished, entry: Entry) -> None:
    record = finished.run.record
    assert record["plan"] == json.loads((finished.run.path / "plan.json").read_text())
    assert record["plan"]["entry"] == record["versions"]["entry"] == entry.checksum
    found = record["versions"]["environments"]["main"]["packages"]
    expected = entry.environments["main"].packages
    assert {name: found[name] for name in expected} == expected
    assert "checkpoint_dir: /output" in record["config"] and f"max_steps: {STEPS}" in record["config"]
    assert finished.run.ended == (0, "step")
    assert record["outcome"]["result"]["steps"] == STEPS
    assert record["argv"] == list(finished.words)
    assert finished.run.events == ["prepared", "started", "ended"]


def test_what_ran_is_what_the_dry_run_printed(finished: Finished) -> None:
    run = finished.run
    assert (run.path / "request.json").read_text() == finished.planned.out
    filled = finished.planned.out.replace("${RUN_ID}", run.id).replace("${RUN_DIR}", str(run.path))
    assert run.record["request"] == json.loads(filled)


def test_other_processes_find_it(finished: Finished, tree: Tree) -> None:
    shown = tree.show(finished.run)
    assert shown.code == 0 and "state      done\n" in shown.out and "sft/automodel: exit 0" in shown.out
    assert json.loads(tree.launch("show", finished.run.id, "--json").out) == finished.run.record
    listed = tree.launch("runs").out.splitlines()
    assert [line.split()[1:3] for line in listed if line.startswith(finished.run.id)] == [["done", "0"]]
    assert tree.launch("logs", finished.run.id).out == finished.done.out == finished.run.log


def test_its_output_is_not_overwritten(finished: Finished, tree: Tree) -> None:
    before = tree.all_runs()
    again = tree.launch(*finished.words)
    assert again.code == 73 and "--resume" in again.err and str(finished.output) in again.err
    assert tree.all_runs() == before
