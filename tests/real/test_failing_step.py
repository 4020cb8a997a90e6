"""A step that fails: whose code it is, and what stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import Work, toy
from .support import Tree

pytestmark = pytest.mark.real


REFUSES = "{% if messages[0]['content'] == 'unspeakable' %}{{ raise_exception('not this one') }}{% endif %}"


def test_a_recipe_that_raises(tree: Tree, work: Work, place: Path) -> None:
    """It trains and saves; the third step's data then has a conversation that the model's template does not take."""
    output, model, train = place / "output", place / "model", place / "train.jsonl"
    shutil.copytree(work.model, model)
    template = model / "chat_template.jinja"
    template.write_text(REFUSES + template.read_text())
    words = [{"role": "user", "content": "unspeakable"}, {"role": "assistant", "content": "words"}]
    lines = work.train.read_text().splitlines()[:80]
    train.write_text("\n".join([*lines[:40], json.dumps({"messages": words}), *lines[40:]]))

    inputs = (f"train={train}", f"model={model}", f"output={output}")
    settings = ("max_steps=5", "checkpoint_every=1", "dataloader.shuffle=false")
    done = tree.launch("sft/automodel", "--flavour", "cpu", "-c", "tiny", *inputs, *settings)
    run = tree.run_of(done)
    assert done.code == 1
    assert run.ended == (1, "step")
    assert run.outcome["reason"].endswith("TemplateError: not this one")
    assert f"run        {run.id}: failed\n" in done.err
    cause = "cause      the chat template does not take a conversation of the data: not this one\n"
    assert cause in done.err and cause in tree.launch("explain", run.id).out
    assert sorted(p.name for p in output.glob("epoch_*")) == ["epoch_0_step_0", "epoch_0_step_1"], "what it wrote stays"
    assert not run.outcome.get("checkpoint"), "but none is called its result"
    assert tree.container(run) is None
    assert " failed " in next(line for line in tree.launch("runs").out.splitlines() if line.startswith(run.id))


def test_its_exit_code_passes_through(tree: Tree, place: Path) -> None:
    done = tree.launch(*toy(place / "output", "code=7"))
    run = tree.run_of(done)
    assert done.code == 7
    assert run.ended == (7, "step")
    assert (place / "output" / "written").read_text() == "by the toy\n"
    assert tree.container(run) is None
