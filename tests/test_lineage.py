"""launch lineage: of what a checkpoint is made, by the names that runs leave in their outputs and by their records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import CHAT, IMAGE, Engine, Inputs, Project, record_of, write_chat_model
from test_outputs import checkpointed

from launcher.core.asked import Asked
from launcher.core.plan import Plan
from launcher.records import outputs
from launcher.records.run_directory import Outcome, Run

STEP = "sft/automodel"
FIRST, SECOND = "20260101T000000Z-sft.automodel-aaaaaa", "20260102T000000Z-sft.automodel-bbbbbb"
PACKAGES = {"nemo-automodel": "0.7.0", "torch": "2.13.0+cpu"}
VERSIONS = {"environments": {"main": {"python": "/opt/venv/bin/python", "version": "3.11.2", "packages": PACKAGES}}}


def trained(project: Project, run_id: str, output: Path, *words: str) -> tuple[Run, Path]:
    """A run that is done, and the checkpoint that it has left below `output`."""
    run = Run(project.path / "runs" / run_id)
    done = project.launch("-o", str(run.path), STEP, f"output={output}", *words)
    assert done.code == 0, done
    plan = msgspec.json.decode((run.path / "plan.json").read_bytes(), type=Plan)
    asked = msgspec.json.decode((run.path / "asked.json").read_bytes(), type=Asked)
    checkpointed(output)
    checkpoint = write_chat_model(output / "epoch_0_step_9" / "model" / "consolidated")
    (checkpoint / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "by": run_id}))
    outputs.sign(output, outputs.of_plan(plan, run))
    outcome = Outcome(exit_code=0, cause="step", reason="done", checkpoint=str(checkpoint), result={"steps": 10})
    facts: dict[str, Any] = {"state": "ended", "outcome": outcome, "versions": VERSIONS}
    run.write(record_of(run, plan, asked=msgspec.structs.replace(asked, commit="c" * 40), **facts))
    (run.path / "lock").touch()
    run.event("ended")
    return run, checkpoint


@pytest.fixture
def chain(project: Project, inputs: Inputs, built: Engine, tmp_path: Path) -> Path:
    """A checkpoint that was trained on from one that was trained from a model made elsewhere."""
    assert built.address
    trained(project, FIRST, tmp_path / "first", *inputs.words)
    return trained(project, SECOND, tmp_path / "second", inputs.words[0], f"model=run:{FIRST}")[1]


def told(project: Project, name: str | Path, tmp_path: Path) -> str:
    done = project.launch("lineage", str(name))
    assert done.code == 0, done
    return done.stdout.replace(str(tmp_path), "T")


def test_the_tree_goes_back_to_the_data(project: Project, chain: Path, tmp_path: Path) -> None:
    said = told(project, chain, tmp_path)
    image = f"automodel/0.7.0-cpu, {IMAGE}"
    assert [line.partition(" (chat")[0].partition(" (checkpoint")[0] for line in said.splitlines()] == [
        "T/second/epoch_0_step_9/model/consolidated",
        f"  made by {SECOND} (done, step 10): {STEP}",
        f"  image    {image}",
        "  versions nemo-automodel 0.7.0, 1 more (--json)",
        f"  commit   {'c' * 40}",
        "    model = T/first/epoch_0_step_9/model/consolidated",
        f"      made by {FIRST} (done, step 10): {STEP}",
        f"      image    {image}",
        "      versions nemo-automodel 0.7.0, 1 more (--json)",
        f"      commit   {'c' * 40}",
        "        model = T/llama",
        "          made elsewhere: no run has left its name there",
        "        train = T/chats.jsonl",
        "          made elsewhere: no run has left its name there",
        "    train = T/chats.jsonl",
        "      made elsewhere: no run has left its name there",
    ]
    assert "(checkpoint_hf, fingerprint " in said and "(chat_jsonl, fingerprint " in said
    of_run = told(project, "last", tmp_path)
    assert of_run.splitlines()[1:] == said.splitlines()[1:] and of_run.startswith("T/second/epoch_0_step_9/model/")


def test_records_that_are_gone_leave_what_the_output_says(project: Project, chain: Path, tmp_path: Path) -> None:
    shutil.rmtree(project.path / "runs")
    said = told(project, chain, tmp_path)
    assert f"  made by {SECOND} (its record is gone): {STEP}\n" in said
    assert f"      made by {FIRST} (its record is gone): {STEP}\n" in said, "each output has its run's name"
    assert "versions" not in said and said.count(f"image    automodel/0.7.0-cpu, {IMAGE}\n") == 2


def test_a_run_directory_that_moved_is_found_by_its_id(project: Project, chain: Path, tmp_path: Path) -> None:
    before = told(project, chain, tmp_path)
    (project.path / "runs").rename(tmp_path / "moved")
    done = project.launch("lineage", str(chain), "--runs-dir", str(tmp_path / "moved"))
    assert done.stdout.replace(str(tmp_path), "T") == before


def test_what_has_changed_or_is_gone_since_is_said(
    project: Project, inputs: Inputs, chain: Path, tmp_path: Path
) -> None:
    with inputs.train.open("a") as f:
        f.write(json.dumps(CHAT) + "\n")
    shutil.rmtree(inputs.model)
    lines = [line.strip() for line in told(project, chain, tmp_path).splitlines()]
    assert sum(line.startswith("has changed since: its fingerprint is ") for line in lines) == 2
    assert lines[lines.index(next(line for line in lines if "T/llama" in line)) + 1] == "is not there any more"


def test_what_was_made_elsewhere_says_so(project: Project, inputs: Inputs, chain: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(chain, tmp_path / "copied")
    for path in (inputs.model, copy):
        assert told(project, path, tmp_path).splitlines()[1:] == ["  made elsewhere: no run has left its name there"]
    done = project.launch("lineage", "nothing")
    assert done.code == 66 and "there is no run 'nothing'" in done.stderr


def test_the_tree_as_json_has_every_version(project: Project, chain: Path) -> None:
    tree = json.loads(project.launch("lineage", "--json", str(chain)).stdout)
    made = tree["made_by"]
    assert made["versions"] == PACKAGES
    assert made["inputs"]["model"]["made_by"]["run"] == FIRST
    assert made["inputs"]["train"]["note"].startswith("made elsewhere") and made["inputs"]["train"]["made_by"] is None


def test_the_tree_as_prov_is_what_the_library_reads(project: Project, chain: Path) -> None:
    from prov.model import ProvActivity, ProvDerivation, ProvDocument, ProvEntity, ProvGeneration, ProvUsage

    done = project.launch("lineage", "--prov", str(chain))
    document = ProvDocument.deserialize(content=done.stdout)
    numbers = [(ProvEntity, 4), (ProvActivity, 2), (ProvGeneration, 2), (ProvUsage, 4), (ProvDerivation, 4)]
    assert [len(list(document.get_records(kind))) for kind, _ in numbers] == [n for _, n in numbers]
    assert project.launch("lineage", "--prov", "--json", str(chain)).code == 64


def test_every_step_leaves_its_name_in_its_output(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    """Also one that cannot go on; a launch that the engine refuses takes it away again."""
    plan = trained(project, FIRST, tmp_path / "first", *inputs.words)[0].record()
    assert plan and built.address
    merge = msgspec.structs.replace(plan.plan, step="convert/x", config={}, output=str(tmp_path / "new"))
    (tmp_path / "new").mkdir()
    claim = outputs.Claim(tmp_path / "new", Run(tmp_path / SECOND))
    claim.take(merge, "unix:///x", lambda *_: True)
    found = outputs.origin(tmp_path / "new")
    assert found and (found.step, found.run) == ("convert/x", SECOND) and found.inputs["train"].type == "chat_jsonl"
    assert "made by" in told(project, tmp_path / "new", tmp_path)
    outputs.release(tmp_path / "new", SECOND, goes_on=False)
    assert outputs.origin(tmp_path / "new") is None, "it has made nothing"
    claim.take(merge, "unix:///x", lambda *_: True)
    claim.give_back()
    assert outputs.is_empty(tmp_path / "new") and outputs.origin(tmp_path / "new") is None
