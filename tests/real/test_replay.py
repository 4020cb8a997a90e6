"""launch replay: on the CPU the same weights, byte for byte, from a record in another home; launch resume goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from .conftest import Work
from .support import Run, Tree

pytestmark = pytest.mark.real


def weights(run: Run) -> dict[str, bytes]:
    """Every file of the checkpoint that a run has reported, by its name."""
    folder = Path(run.outcome["checkpoint"])
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_copied_record_gives_the_same_weights(tree: Tree, work: Work, place: Path) -> None:
    first = tree.launch(*work.words(place / "output", "seed=7", "max_steps=12", "checkpoint_every=12"))
    assert first.code == 0, first
    before = tree.run_of(first)
    (copy := place / "copy").mkdir()
    shutil.copy(before.path / "record.json", copy)
    train, model = place / "moved" / "train.jsonl", place / "moved" / "model"
    train.parent.mkdir()
    shutil.copy(work.train, train)
    shutil.copytree(work.model, model)
    shutil.copytree(tree.path, place / "project", symlinks=True)
    homes = {"HOME": str(place / "home"), "HF_HOME": str(place / "hf"), "SLIPWAY_RUNS": str(place / "runs")}
    elsewhere = dataclasses.replace(tree, path=place / "project", runs=place / "runs", env=tree.env | homes)
    replay = ("replay", str(copy / "record.json"), f"train={train}", f"model={model}")
    again = elsewhere.launch(*replay, OMP_NUM_THREADS="2", MKL_CBWR="AUTO")
    assert again.code == 0, again
    after = elsewhere.run_of(again)
    one, other = weights(before), weights(after)
    (large,) = (name for name in one if name.endswith(".safetensors"))
    assert one.keys() == other.keys() and len(one[large]) > 2**20
    assert [name for name in one if one[name] != other[name]] == []
    assert after.path.parent == place / "runs"
    assert after.record["asked"]["replays"] == {"run": before.id, "directory": str(before.path), "differs": []}
    assert before.outcome["result"]["last_loss"] == after.outcome["result"]["last_loss"]

    with train.open("a") as f:
        f.write(work.train.read_text().splitlines()[0] + "\n")
    refused = elsewhere.launch(*replay)
    assert refused.code == 65 and "input train: " in refused.err
    drifted = elsewhere.launch(*replay, "--allow-drift")
    assert drifted.code == 0, drifted
    (what,) = elsewhere.run_of(drifted).record["asked"]["replays"]["differs"]
    assert what.startswith("input train: ")
    assert weights(elsewhere.run_of(drifted))[large] != one[large]


def test_a_run_goes_on_and_its_output_is_the_next_ones_input(tree: Tree, work: Work, place: Path) -> None:
    first = tree.launch(*work.words(place / "output", "max_steps=4", "checkpoint_every=2"))
    assert first.code == 0, first
    nothing = tree.launch("resume", tree.run_of(first).id)
    assert (nothing.code, nothing.out) == (0, "") and "nothing to do: at step 4 of 4" in nothing.err
    on = tree.launch("resume", tree.run_of(first).id, "max_steps=6")
    assert on.code == 0 and "steps 5 to 6" in on.err, on
    run = tree.run_of(on)
    assert run.outcome["result"]["steps_of_this_run"] == 2
    assert run.record["asked"]["resumes"]["run"] == tree.run_of(first).id
    assert [by["run"] for by in tree.run_of(first).record["resumed_by"]] == [run.id]

    words = [w for w in work.words(place / "next", "max_steps=1") if not w.startswith("model=")]
    following = tree.launch(*words, f"model=run:{run.id}")
    assert following.code == 0 and f"note: model=: of run {run.id}, {place}/output/" in following.err, following
    plan = json.loads((tree.run_of(following).path / "plan.json").read_text())
    assert plan["from_run"]["model"]["run"] == run.id
    assert Path(plan["inputs"]["model"]["path"]).samefile(run.outcome["checkpoint"])

    told = tree.launch("lineage", tree.run_of(following).outcome["checkpoint"])
    assert told.code == 0, told
    makers = [line.split()[2] for line in told.out.splitlines() if line.strip().startswith("made by ")]
    assert makers == [tree.run_of(following).id, run.id]
    assert f"went on from {tree.run_of(first).id}\n" in told.out
    assert told.out.count("versions nemo-automodel 0.7.0, ") == 2
    assert told.out.count("made elsewhere: no run has left its name there\n") == 3, (
        "the data twice, and the first model"
    )


def test_a_launch_waits_for_another_to_end_well(tree: Tree, work: Work, place: Path) -> None:
    first = tree.launch("--detach", *work.words(place / "output", "max_steps=3", "checkpoint_every=3"))
    assert first.code == 0, first
    run = Run(tree.runs / first.out.strip())
    words = [w for w in work.words(place / "next", "max_steps=1") if not w.startswith("model=")]
    after = tree.launch("--after", run.id, *words, f"model=run:{run.id}")
    assert after.code == 0, after
    assert f"waiting for run {run.id} (" in after.err
    assert run.outcome["finished"] <= tree.run_of(after).outcome["started"]
