"""launcher/configuration.py and `launch config`: what a launch sets, foreseen as the step program merges it."""

from __future__ import annotations

import copy
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPO, Engine, Inputs, Project, SpecOf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images import lock as locks
from images.model import Entry
from launcher.catalog import commands, definitions, releases
from launcher.catalog.definitions import Step
from launcher.core import arguments
from launcher.core.arguments import Arguments
from launcher.planning import configuration
from slipway import resolver
from slipway.errors import SlipwayError
from slipway.project import Root
from slipway.resolver import ABSENT

sys.path.insert(0, str(REPO / "entrypoints" / "steps"))

import slipway_step

INPUTS = ("model=/m", "train=/t", "tokenizer=/m")
VALUES = st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.sampled_from(["bf16", "x"]),
                   st.dictionaries(st.sampled_from(["fp8", "x"]), st.integers(0, 2), max_size=2))  # fmt: skip


@cache
def runnable() -> list[tuple[Step, Entry]]:
    """Every step with every entry of the lock that it runs in, as the release takes it."""
    found = []
    for step in definitions.all_steps(Root(REPO)):
        for entry in locks.load_lock(Root(REPO)).entries.values():
            if entry.library == step.library and _runs(step, entry):
                found.append((releases.at_release(step, entry), entry))
    return found


def _runs(step: Step, entry: Entry) -> bool:
    try:
        return bool(commands.base_config(step, entry) and commands.choose_command(step, entry))
    except SlipwayError:
        return False


@cache
def overlay(folder: str, name: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(Path(folder, f"{name}.yaml").read_text())
    return value


def lists_of(names: list[str], most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), max_size=most, unique=True) if names else st.just([])


@st.composite
def launches(draw: Any) -> dict[str, Any]:
    """What a LaunchSpec is made of; and what the base in an image really says, where it stands there."""
    step, entry = draw(st.sampled_from(runnable()))
    base = commands.base_config(step, entry)
    own = sorted({p.stem for p in Path(step.folder).glob("*.yaml")} - {"step", "default"})
    names = ["default", *draw(lists_of([n for n in own if not n.startswith("base")], 2))]
    layers = [(name, overlay(step.folder, name)) for name in names]
    keys = sorted({*step.roles.values(), *step.presets, *(k for p in step.parameters.values() for k in p.keys)})
    keys = [k for k in [*keys, *(f"{k}.x" for k in keys), *step.config_roots] if not owned(step, k)]
    overrides = {key: draw(VALUES) for key in draw(lists_of(keys, 4))}
    numbers = [n for n, p in step.parameters.items() if p.type == "int" and p.keys]
    parameters = {name: draw(st.integers(1, 9)) for name in draw(lists_of(numbers, 3))}
    inputs = {name: f"/data/{name}" for name in draw(lists_of(list(step.inputs), 4))}
    said = Arguments(inputs=inputs, parameters=parameters, overrides=overrides)
    true = base.get("values", {root: draw(VALUES) for root in draw(lists_of(step.config_roots, 4))})
    spec = {"step": step, "entry": entry, "base": base, "overlays": layers, "words": said}
    return {"spec": spec, "true": stated(step, true) if "path" in base else true}


def owned(step: Step, key: str) -> bool:
    return any(f"{key}.".startswith(f"{o}.") or o.startswith(f"{key}.") for o in step.owned())


def stated(step: Step, values: dict[str, Any]) -> dict[str, Any]:
    """The file in the image, which has what step.yaml states of it."""
    config = copy.deepcopy(values)
    for key, value in step.presets.items():
        *parents, last = key.split(".")
        node = config
        for name in parents:
            if not isinstance(node.get(name), dict):
                node[name] = {}
            node = node[name]
        node[last] = value
    return config


@given(launch=launches())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_foreseen_is_what_the_step_program_merges(spec_of: SpecOf, launch: dict[str, Any]) -> None:
    spec = spec_of(**launch["spec"])
    paths = {name: f"/inputs/{name}" for name in spec.words.inputs}
    plan = configuration.planned(spec, paths) | {"base": {"values": launch["true"]}}
    try:
        written = slipway_step.merge_config(without_resume(plan))
    except slipway_step.ConfigError:
        assert spec.config.impossible or "path" in spec.base
        return
    assert not spec.config.impossible
    for key, leaf in resolver.leaves(spec.config.root):
        assert at(written, key) == leaf.value, key
    if "values" in spec.base:
        assert resolver.plain(spec.config.root) == written
    for key in spec.step.roles.values():
        assert spec.config.value(key) is not ABSENT or at(written, key) is ABSENT


def without_resume(config: dict[str, Any]) -> dict[str, Any]:
    """That of a run that goes on from nothing."""
    return {key: value for key, value in config.items() if key != "resume"}


def at(config: Any, key: str) -> Any:
    for name in key.split(".") if key else ():
        config = config.get(name, ABSENT) if isinstance(config, dict) else ABSENT
    return config


def test_each_word_is_set_in_its_turn(spec_of: SpecOf, step: Step) -> None:
    said = Arguments(inputs={"train": "/t"}, parameters={"max_steps": 7}, overrides={"optimizer.lr": 2.0})
    spec = spec_of(words=said)
    found = [(a.key, a.by, a.word) for a in configuration.assignments(spec, {"train": "/inputs/t"})]
    assert found[:2] == [
        ("step_scheduler.max_steps", "max_steps=", "max_steps=7"),
        ("optimizer.lr", "optimizer.lr=", "optimizer.lr=2.0"),
    ]
    assert found[-1] == (step.output.key, "output=", "")


# From here on, commands.


@pytest.fixture
def asked(built: Engine, inputs: Inputs) -> tuple[str, ...]:
    assert built.address
    return ("sft/automodel", "--flavour", "cpu", *inputs.words)


def test_every_setting_is_printed_with_who_set_it(project: Project, asked: tuple[str, ...]) -> None:
    said = (*asked, "-c", "tiny", "max_steps=9", "optimizer.lr=1e-3")
    done = project.launch("config", *said)
    assert done.code == 0, done
    lines = {line.split(":")[0].strip(): line for line in done.stdout.splitlines()}
    assert lines["max_steps"].split("#")[1] == " max_steps=" and lines["lr"].split("#")[1] == " optimizer.lr="
    assert "# -c tiny" in lines["seq_length"] and "# default" in lines["shuffle"] and "# base" in lines["backend"]
    assert project.launch(*said, "-o", str(project.path / "made")).code == 0
    plan = json.loads((project.path / "made" / "plan.json").read_text())
    assert yaml.safe_load(done.stdout) == slipway_step.merge_config(
        {k: v for k, v in plan["config"].items() if k != "resume"}
    )


def test_the_difference_to_the_default_is_one_line_a_key(project: Project, asked: tuple[str, ...]) -> None:
    done = project.launch("config", *asked, "--diff", "default", "max_steps=9")
    assert (done.code, done.stdout) == (0, "step_scheduler.max_steps: (absent) -> 9  # max_steps=\n"), done
    assert project.launch("config", *asked, "--diff", "default").stdout == ""


def test_a_run_that_goes_on_shows_from_where(project: Project, asked: tuple[str, ...]) -> None:
    said = (*asked, f"output={project.path}/out", "--resume")
    found = project.launch("config", *said)
    assert re.search(r"^  restore_from: LATEST +# --resume$", found.stdout, re.M), found
    other = project.launch("config", *said, "checkpoint.restore_from=/output/epoch_0_step_3")
    assert (other.code, "# checkpoint.restore_from=\n" in other.stdout) == (0, True), other


def test_as_json_it_is_a_list(project: Project, asked: tuple[str, ...]) -> None:
    rows = {r["key"]: r for r in json.loads(project.launch("config", *asked, "--json", "seed=5").stdout)}
    assert rows["seed"] == {"key": "seed", "value": 5, "by": "seed="}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            ("learning_rate=1e-3", "optimizer.lr=2e-3"),
            "optimizer.lr=0.002: sets optimizer.lr, which learning_rate=0.001 sets, too",
        ),
        (("model.a.b=1", "model.a={c: 2}"), 'model.a={"c":2}: sets model.a.b, which model.a.b=1 sets, too'),
        (("model.a=null", "model.a.b=1"), "model.a.b=1: sets model.a, which model.a=null sets, too"),
    ],
)  # fmt: skip
def test_two_words_for_one_key_are_refused(
    project: Project, asked: tuple[str, ...], said: tuple[str, ...], what: str
) -> None:
    done = project.launch(*asked, *said)
    assert (done.code, f"error: {what}\n  give one of them\n" in done.stderr) == (64, True), done


def test_a_key_below_a_value_is_refused(project: Project, asked: tuple[str, ...]) -> None:
    where = "step_scheduler.global_batch_size"
    done = project.launch(*asked, f"{where}.x=3")
    what = f"{where}.x=3: cannot be set, since {where} is 16 and not a mapping (base)"
    assert (done.code, f"error: {what}\n" in done.stderr) == (64, True), done
    config = project.launch("config", *asked, f"{where}.x=3")
    assert (config.code, f"error: {what}\n" in config.stderr) == (64, True), config


@pytest.mark.parametrize("word", ["mixed_precision.fp8=hybrid", "train.global_batch_size.x=3"])
def test_what_the_container_would_refuse_is_refused_when_planning(spec_of: SpecOf, word: str) -> None:
    step = definitions.find_step(Root(REPO), "sft/megatron_bridge")
    entry = next(e for s, e in runnable() if s.id == step.id and e.flavour == "cuda")
    base = commands.base_config(step, entry)
    spec = spec_of(step=step, entry=entry, base=base, words=arguments.parse(step, (*INPUTS, word)))
    (finding,) = configuration.check(spec)
    with pytest.raises(slipway_step.ConfigError, match=r"cannot be set, since .* and not a mapping"):
        slipway_step.merge_config(without_resume(configuration.planned(spec, {})))
    assert (finding.code, finding.where) == (64, word) and "and not a mapping (base)" in finding.what
