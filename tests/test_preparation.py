"""launcher/planning/preparation.py: a directory that `-o` wrote is submitted as it was written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import Engine, Inputs, Project, errors, tree, write_chats

from launcher.planning import preparation, run_files

Change = Callable[[Path], object]


@pytest.fixture
def written(project: Project, inputs: Inputs, built: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `launch -o written` writes, for an output in tmp_path/out."""
    monkeypatch.setenv("DOCKER_HOST", built.address)
    monkeypatch.setenv("HOME", project.env["HOME"])
    options = preparation.Options(step="sft/automodel", words=(*inputs.words, f"output={tmp_path}/out"))
    run_files.write_directory(preparation.prepare(project.root, options), tmp_path / "written")
    return tmp_path / "written"


def test_it_is_submitted_under_a_run_id_of_its_own(project: Project, written: Path, built: Engine) -> None:
    """The stand-in refuses the container, after it was asked for the one that was written."""
    before = tree(written)
    assert project.launch("submit", str(written)).code == 69
    run_id = built.refused["Labels"]["slipway.run"]
    assert run_id.endswith(f"-sft.automodel-{built.refused['Labels']['slipway.plan'][:6]}")
    text = (written / "request.json").read_text()
    filled = text.replace("${RUN_ID}", run_id).replace("${RUN_DIR}", f"{project.path}/runs/{run_id}")
    assert built.refused == json.loads(filled)
    assert tree(written) == before


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            lambda t: (t / "written/slipway/steps/automodel_finetune.py").write_text("print()"),
            65, "T/written/slipway/steps/automodel_finetune.py: was changed since it was written",
        ),
        (
            lambda t: (t / "written/slipway/entrypoint.sh").unlink(),
            65, "T/written/slipway/entrypoint.sh: was changed since it was written",
        ),
        (
            lambda t: edit(t / "written/request.json", '"User": "', '"User": "1'),
            65, "T/written: request.json is not what plan.json says",
        ),
        (
            lambda t: edit(t / "written/plan.json", '"allow_drift": false', '"allow_drift": true'),
            65, "T/written: request.json is not what plan.json says",
        ),
        (
            lambda t: write_chats(t / "chats.jsonl", json.dumps({"messages": []})),
            65, "train=T/chats.jsonl: was changed since this was planned",
        ),
        (lambda t: (t / "chats.jsonl").unlink(), 65, "train=T/chats.jsonl: was changed since this was planned"),
        (lambda t: (t / "out/LATEST").mkdir(parents=True), 73, "output=T/out: is not empty any more"),
    ],
)  # fmt: skip
def test_what_was_changed_since_is_refused(
    project: Project, written: Path, built: Engine, tmp_path: Path, change: Change, code: int, said: str
) -> None:
    change(tmp_path)
    before = tree(tmp_path)
    done = project.launch("submit", str(written))
    assert (done.code, errors(done.stderr).replace(str(tmp_path), "T")) == (code, f"error: {said}\n")
    assert tree(tmp_path) == before
    assert not [line for line in built.asked if not line.startswith("GET ")]


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(("name", "text"), [("plan.json", ""), ("plan.json", "[]"), ("request.json", "{")])
def test_what_is_no_run_directory_is_refused(project: Project, written: Path, name: str, text: str) -> None:
    (written / name).write_text(text)
    done = project.launch("submit", str(written))
    assert done.code == 65 and f"error: {written}: " in done.stderr


def test_an_engine_that_is_gone_is_said_and_nothing_is_left(
    project: Project, written: Path, built: Engine, tmp_path: Path
) -> None:
    (project.path / "runs").mkdir()
    before = tree(tmp_path)
    project.env["DOCKER_HOST"] = f"unix://{tmp_path}/dead"
    done = project.launch("submit", str(written))
    assert (done.code, built.asked != []) == (69, True)
    assert "no Docker engine answers" in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("asked", "profile", "gpus", "flavour", "why"),
    [
        ("cpu", "cuda", 4, "cpu", "--flavour"),
        (None, "cuda", 0, "cuda", "the profile says so"),
        (None, "cpu", 4, "cpu", "the profile says so"),
        (None, "auto", 4, "cuda", "the engine has 4 GPUs"),
        (None, "auto", 1, "cuda", "the engine has 1 GPU"),
        (None, "auto", 0, "cpu", "the engine has no GPUs"),
    ],
)
def test_the_flavour_is_the_options_the_profiles_or_what_the_engine_can_run(
    asked: Any, profile: str, gpus: int, flavour: str, why: str
) -> None:
    assert preparation.flavour_of(asked, profile, gpus) == (flavour, f"flavour {flavour}: {why}")


def test_a_launch_says_what_converts_and_what_it_could_not_look_at(
    project: Project, inputs: Inputs, built: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", built.address)
    profile = "schema: 1\nkind: docker\nflavour: cuda\ngpu: {model: H100, memory: 80GiB}\n"
    project.write("launcher/profiles/site.yaml", profile)
    words = (f"train={inputs.train}", f"model={inputs.model}", f"tokenizer={inputs.model}")
    found = preparation.prepare(project.root, preparation.Options("sft/megatron_bridge", words, "site"))
    assert f"run first: launch convert/hf_to_megatron model={inputs.model} " in found.findings[0].remedy
    found = preparation.prepare(project.root, preparation.Options("sft/automodel", inputs.words, "site"))
    unknown = "note: memory: not estimated, since nothing here says "
    untold = "the type behind model.torch_dtype=auto, the model's sizes"
    assert found.notes[2:] == [unknown + untold], "all that is counted is stated of its base"
    found = preparation.prepare(
        project.root, preparation.Options("sft/automodel", (*inputs.words, "dataset.seq_length=null"), "site")
    )
    note, memory = found.notes[2:]
    assert memory == f"{unknown}dataset.seq_length, {untold}"
    assert "only the image's /opt/" in note and note.endswith(" may say it: dataset.seq_length")
    found = preparation.prepare(project.root, preparation.Options("pretrain/megatron_bridge", (), "site"))
    said = ["warning: no data= is named: Megatron-Bridge trains on its mock data, from which no model learns anything"]
    assert [n.partition(" of ")[0] for n in found.notes[1:] if "shape:" not in n] == [*said, "note: memory: about 3.7"]
