"""launch pipeline against a real engine: chains that fail, change, are cut off; and one of the real libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import Work
from .support import PATIENCE, Run, Tree, until

pytestmark = pytest.mark.real

CHAIN = """\
schema: 1
params:
  model: {help: a model}
  code: {help: with what the second ends, default: 0}
flavour: cpu
steps:
  first:
    step: test/link
    inputs: {model: params.model}
  second:
    step: test/link
    inputs: {model: steps.first}
    set: {code: params.code}
  third:
    step: test/link
    inputs: {model: steps.second}
  beside:
    step: test/link
    inputs: {model: steps.first}
    set: {loss: 1.25}
"""


def stands(tree: Tree, *words: str) -> dict[str, tuple[str, str]]:
    """What a dry run says of each step: how it stands, and why."""
    done = tree.launch("pipeline", *words, "--dry-run", "--json")
    return {step["step"]: (step["stands"], step["why"]) for step in json.loads(done.out)["steps"]}


def shown(tree: Tree, *words: str) -> dict[str, str]:
    """The state of the last run of each step."""
    done = tree.launch("pipeline", *words, "--show", "--json")
    assert done.code == 0, done
    return {step["step"]: step["state"] for step in json.loads(done.out)["steps"]}


def steps_of(runs: list[Run]) -> list[str]:
    return [run.record["tags"]["pipeline-step"] for run in runs]


def test_a_failure_stops_what_depends_on_it_and_a_change_runs_what_depends_on_that(
    tree: Tree, work: Work, place: Path
) -> None:
    """Of four steps, of which the second fails; then it does not; then the model is another."""
    (place / "chain.yaml").write_text(CHAIN)
    shutil.copytree(work.model, place / "model")
    words = (str(place / "chain.yaml"), f"model={place}/model")
    before = tree.all_runs()
    failed = tree.launch("pipeline", *words, "code=7")
    assert failed.code == 7, failed
    assert steps_of(tree.since(before)) == ["first", "second", "beside"]
    assert "not started: third (needs steps.second)\n" in failed.err
    assert shown(tree, words[0]) == {
        "first": "done", "second": "failed", "third": "not started", "beside": "done"}  # fmt: skip
    second = tree.since(before)[1]
    assert stands(tree, *words, "code=7")["second"] == (
        "to run", f"failed before: {second.id} (the step failed: exit code 7)")  # fmt: skip
    assert stands(tree, *words)["second"] == ("to run", "link.code: 7 -> 0")
    before = tree.all_runs()
    mended = tree.launch("pipeline", *words)
    assert mended.code == 0, mended
    assert steps_of(tree.since(before)) == ["second", "third"]
    third = tree.since(before)[1]
    made = third.record["plan"]["inputs"]["model"]
    assert made["path"] == f"{tree.since(before)[0].path}/output/last/model" and not made.get("expected")
    assert third.record["plan"]["from_run"]["model"]["run"] == tree.since(before)[0].id
    before = tree.all_runs()
    assert tree.launch("pipeline", *words).code == 0
    assert tree.since(before) == []
    config = json.loads((place / "model" / "generation_config.json").read_text())
    (place / "model" / "generation_config.json").write_text(json.dumps(config | {"max_length": 77}))
    assert stands(tree, *words) == {
        "first": ("to run", "input model has changed"),
        "second": ("to run", "input model: steps.first makes another"),
        "third": ("to run", "input model: steps.second makes another"),
        "beside": ("to run", "input model: steps.first makes another"),
    }


def test_a_killed_launcher_has_lost_nothing(tree: Tree, work: Work, place: Path) -> None:
    """The next one waits for the step that goes on, and goes on behind it."""
    text = CHAIN.replace("inputs: {model: params.model}", "inputs: {model: params.model}\n    set: {wait: true}")
    (place / "killed.yaml").write_text(text)
    words = ("pipeline", str(place / "killed.yaml"), f"model={work.model}", "--until", "second")
    before = tree.all_runs()
    launched = tree.start("launch", *words)
    run = tree.run_of(launched)
    until("the step", (run.path / "output" / "waiting").exists)
    launched.kill()
    assert shown(tree, words[1])["first"] == "running"
    again = tree.start("launch", *words)
    again.await_told(f"first: run {run.id} of before goes on")
    (run.path / "output" / "go").touch()
    done = again.finish()
    assert done.code == 0, done
    assert steps_of(tree.since(before)) == ["first", "second"]


def test_a_gate_that_is_not_met_and_then_is(tree: Tree, work: Work, place: Path) -> None:
    """The run of before is judged anew: what was trained for hours is not trained again for another condition."""
    text = CHAIN.replace("set: {code: params.code}", "set: {code: params.code, loss: 5}\n    expect: {loss: '<2'}")
    (place / "gate.yaml").write_text(text)
    words = ("pipeline", str(place / "gate.yaml"), f"model={work.model}", "--until", "third")
    before = tree.all_runs()
    missed = tree.launch(*words)
    assert missed.code == 76 and steps_of(tree.since(before)) == ["first", "second"], missed
    second = tree.since(before)[1]
    again = tree.launch(*words)
    assert again.code == 76 and len(tree.since(before)) == 2, again
    assert f"second: not met in {second.id}: expected loss < 2, found 5\n" in again.err
    (place / "gate.yaml").write_text(text.replace("'<2'", "'<6'"))
    met = tree.launch(*words)
    assert met.code == 0 and steps_of(tree.since(before)) == ["first", "second", "third"], met


def result(run: Run) -> dict[str, Any]:
    return dict(run.outcome["result"])


@pytest.mark.long  # each of its steps is run by a selftest
def test_conversations_become_a_quantized_model(yard: Tree, work: Work) -> None:
    """AutoModel twice, merging, and Model Optimizer, as shipped; what is made is what the next one read."""
    words = ("pipeline", "sft-lora-quantize", f"train={work.train}", f"model={work.model}", "--flavour", "cpu")
    before = yard.all_runs()
    done = yard.start("launch", *words, "config=tiny", "max_steps=2", "format=int8").finish(4 * PATIENCE)
    assert done.code == 0, done.err
    sft, lora, merge, quantize = runs = yard.since(before)
    assert steps_of(runs) == ["sft", "lora", "merge", "quantize"]
    assert [result(run)["steps"] for run in (sft, lora)] == [2, 2]
    read = [{name: i["path"] for name, i in run.record["plan"]["inputs"].items()} for run in runs]
    assert read[1]["model"] == read[2]["base"] == sft.outcome["checkpoint"]
    assert (read[2]["adapter"], read[3]["model"]) == (lora.outcome["checkpoint"], merge.outcome["checkpoint"])
    assert result(quantize)["format"] == "int8"
    config = json.loads((Path(quantize.outcome["checkpoint"]) / "config.json").read_text())
    assert config["quantization_config"]["quant_algo"] == "W8A8_SQ_PER_CHANNEL"
    lineage = yard.launch("lineage", quantize.id).out
    assert all(f"made by {run.id} (" in lineage for run in runs) and str(work.train) in lineage


@pytest.mark.long
def test_conversations_are_packed_and_a_model_goes_to_megatron_and_back(dock: Tree, work: Work) -> None:
    before = dock.all_runs()
    words = ("pipeline", "sft-megatron", f"train={work.train}", f"model={work.model}", "--flavour", "cpu")
    done = dock.start("launch", *words, "config=tiny", "max_steps=3", "pack_size=128").finish(4 * PATIENCE)
    assert done.code == 0, done.err
    runs = dock.since(before)
    assert steps_of(runs) == ["pack", "to_megatron", "sft", "to_hf"]
    assert result(runs[2])["steps"] == 3 and (Path(runs[3].outcome["checkpoint"]) / "config.json").is_file()
