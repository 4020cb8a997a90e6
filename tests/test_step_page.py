"""docs/step-yaml.md names every key that a step.yaml may have, and its example is a step."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import msgspec
import pytest
from helpers import REPO, Project

from launcher.catalog import definitions
from launcher.catalog.trials import Selftest

PAGE = (REPO / "docs" / "step-yaml.md").read_text()
NOUNS = (
    definitions.Step, definitions.Input, definitions.Output, definitions.Parameter, definitions.Shape,
    definitions.Graceful, definitions.Resume, definitions.Command, definitions.BaseConfig, definitions.Wire,
    definitions.InputChange, definitions.Release, definitions.Backend, definitions.Sample, definitions.Cache,
    definitions.Rehearsal, Selftest,
)  # fmt: skip
NOT_WRITTEN = {"id", "folder", "inherited"}


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_every_key_is_on_the_page(noun: type[msgspec.Struct]) -> None:
    on_page = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", PAGE))))
    assert set(noun.__struct_fields__) - NOT_WRITTEN <= on_page


def test_the_example_is_a_step(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = textwrap.dedent(re.search(r"(?ms)^    # (slipway\.d\S+)\n(.*?)\n\n`extends`", PAGE)[2])  # type: ignore[index]
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "slipway.d" / "steps" / "mine" / "grpo" / "step.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    step, theirs = (definitions.find_step(project.root, name) for name in ("mine/grpo", "rl/grpo"))
    assert step.parameters.keys() - theirs.parameters.keys() == {"clip"}
    assert step.presets == {**theirs.presets, "grpo.num_prompts_per_step": 64}
