"""`extends:` and `words:` of a step.yaml: what comes together, in which order, and what is wrong where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import REPO, Project

from launcher.catalog import definitions
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

ROOT, MINE = Root(REPO), "launcher/steps/my/step/step.yaml"


@pytest.fixture
def mine(project: Project) -> Any:
    """A step of the text, beside what the project has."""

    def load(text: str, **files: str) -> definitions.Step:
        for name, more in files.items():
            project.write(f"launcher/steps/my/{name}.yaml", more)
        project.write(MINE, text)
        return definitions.find_step(project.root, "my/step")

    return load


def test_a_step_may_be_another_one_with_a_few_lines(mine: Any) -> None:
    sft = definitions.find_step(ROOT, "sft/automodel")
    own = mine("extends: [sft/automodel]\ntitle: Mine\nparameters: {seed: {help: dice}}\nenv: {A: b}\n")
    assert (own.title, own.parameters["seed"].help) == ("Mine", "dice")
    assert own.parameters["seed"].keys == sft.parameters["seed"].keys
    assert own.parameters.keys() == sft.parameters.keys() and own.inputs == sft.inputs
    assert own.env == {**sft.env, "A": "b"}
    assert (own.aliases, own.id) == ([], "my/step"), "a name is one step's alone"


def test_its_configurations_are_those_of_the_step_that_it_extends_where_it_has_none(
    mine: Any, project: Project
) -> None:
    own = mine("extends: [sft/automodel]\n")
    theirs = REPO / "launcher" / "steps" / "sft" / "automodel"
    assert definitions.overlay(own, "tiny") == yamldoc.parse_plain((theirs / "tiny.yaml").read_text(), "")
    project.write("launcher/steps/my/step/tiny.yaml", "step_scheduler: {max_steps: 1}\n")
    assert definitions.overlay(own, "tiny") == {"step_scheduler": {"max_steps": 1}}


def test_later_names_win_and_the_step_wins_over_all(mine: Any) -> None:
    files = {"a": "title: A\nenv: {X: a, Y: a, Z: a}\n", "b": "title: B\nenv: {X: b, Y: b}\nwhy: b\n"}
    own = mine("extends: [sft/automodel, my/a, my/b]\nenv: {X: own}\n", **files)
    assert (own.title, own.why) == ("B", "b")
    assert {name: own.env[name] for name in "XYZ"} == {"X": "own", "Y": "b", "Z": "a"}


def test_wires_and_releases_follow_each_other_and_other_lists_replace(mine: Any) -> None:
    first = "wires: [{set: {a: 1}}]\nreleases: [{when: {x: '1'}}]\nconfig_roots: [a]\n"
    before = definitions.find_step(ROOT, "sft/automodel")
    own = mine(
        "extends: [sft/automodel, my/a]\nwires: [{set: {a: 2}}]\nreleases: [{when: {x: '2'}}]\nconfig_roots: [b]\n",
        a=first,
    )
    assert [w.set for w in own.wires[len(before.wires) :]] == [{"a": 1}, {"a": 2}]
    assert [r.when for r in own.releases[len(before.releases) :]] == [{"x": "1"}, {"x": "2"}]
    assert own.config_roots == ["b"]


def test_what_comes_by_two_ways_counts_once(mine: Any) -> None:
    files = {"a": "wires: [{set: {a: 1}}]\n", "b": "extends: [my/a]\n", "c": "extends: [my/a]\n"}
    own = mine("extends: [sft/automodel, my/b, my/c]\n", **files)
    assert [w.set for w in own.wires if "a" in w.set] == [{"a": 1}]


def test_a_word_stands_in_keys_and_in_texts(mine: Any) -> None:
    common = "title: About <section>\nenv: {<name>: '<section> and <section>, below <0.6'}\n"
    own = mine("extends: [sft/automodel, my/a]\nwords: {section: dpo, name: N}\n", a=common)
    assert (own.title, own.env["N"]) == ("About dpo", "dpo and dpo, below <0.6")


@pytest.mark.parametrize(
    ("text", "files", "where", "what", "remedy"),
    [
        ("extends: [sft/automodell]", {}, "my/step/step.yaml:1:11", "extends the unknown 'sft/automodell'",
         "sft/automodel"),
        ("title: x\nextends:\n  - my/common\n  - my/bb", {"b": "why: x"}, "my/step/step.yaml:3:5",
         "extends the unknown 'my/common'", ""),
        ("extends: [my/bbb]", {"bbbb": "why: x"}, "my/step/step.yaml:1:11", "extends the unknown 'my/bbb'", "my/bbbb"),
        ("extends: [7]", {}, "my/step/step.yaml:1:11", "extends the unknown 7", ""),
        ("extends: [../../x]", {}, "my/step/step.yaml:1:11", "extends the unknown '../../x'", ""),
        ("extends: sft/automodel", {}, "my/step/step.yaml", "extends: expected a list of names", ""),
        ("extends: [my/a]", {"a": "extends: [my/b]", "b": "extends: [my/a]"}, "my/b.yaml:1:11", "extends itself", ""),
        ("extends: [my/step]", {}, "my/step/step.yaml:1:11", "extends itself", ""),
        ("extends: [sft/automodel]\ntitel: x", {}, "my/step/step.yaml:2:1", "unknown key 'titel'", "title"),
        ("extends: [sft/automodel, my/a]", {"a": "why: x\ntitel: x"}, "my/a.yaml:2:1", "unknown key 'titel'", "title"),
        ("extends: [sft/automodel]\nshape: {gpus: x}", {}, "my/step/step.yaml:2:9", "shape.gpus: Expected `int`", ""),
        ("extends: [sft/automodel, my/a]\nwires: [{set: {}}]", {"a": "wires:\n  - {set: {}}\n  - {sett: {}}"},
         "my/a.yaml:3:6", "unknown key 'sett'", "set"),
        ("extends: [sft/automodel, my/a]\nwires: [{sett: {}}]", {"a": "wires: [{set: {}}]"},
         "my/step/step.yaml:2:10", "unknown key 'sett'", "set"),
        ("extends: [sft/automodel, my/a]", {"a": "why: <section>"}, "my/a.yaml",
         "<section> stands for a word that the step does not say", ""),
        ("extends: [sft/automodel]\ninherited: [/x]", {}, "my/step/step.yaml:2:1", "unknown key 'inherited'", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_file_and_line(
    mine: Any, project: Project, text: str, files: dict[str, str], where: str, what: str, remedy: str
) -> None:
    with pytest.raises(SlipwayError) as e:
        mine(text + "\n", **files)
    assert e.value.code == Exit.CONFIG
    assert e.value.where == f"{project.path}/launcher/steps/{where}"
    assert e.value.what.startswith(what) and remedy in e.value.remedy


def test_a_users_own_step_extends_one_of_the_project(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "slipway.d" / "steps" / "mine" / "grpo"
    folder.mkdir(parents=True)
    (folder / "step.yaml").write_text("extends: [rl/nemo_rl/grpo]\ntitle: Mine\n")
    own, theirs = (definitions.find_step(project.root, name) for name in ("mine/grpo", "rl/grpo"))
    assert own.title == "Mine" and own.inputs == theirs.inputs and own.releases == theirs.releases
    assert definitions.overlay(own, "tiny") == definitions.overlay(theirs, "tiny")
