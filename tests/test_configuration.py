"""planning/configuration.py and `launch config`: what a launch sets, foreseen as the step program merges it."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPO, Engine, Inputs, Project, SpecOf, record_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_code import repository

from images.building.identity import BaseFile
from images.locking import lock as locks
from images.locking.model import Entry
from launcher.catalog import commands, definitions, releases
from launcher.catalog.definitions import Step
from launcher.core import arguments as typed
from launcher.core.arguments import Arguments
from launcher.core.plan import LaunchSpec
from launcher.planning import configuration
from launcher.planning.checks import config_values
from slipway import resolver
from slipway.errors import SlipwayError
from slipway.project import Root
from slipway.resolver import ABSENT, UNKNOWN, Configuration

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
    if "path" in base and draw(st.booleans()):  # the record of the image has read it
        return {"spec": spec | {"in_image": BaseFile(values=true)}, "true": true}
    return {"spec": spec, "true": stated(step, true) if "path" in base else true}


def owned(step: Step, key: str) -> bool:
    return any(f"{key}.".startswith(f"{o}.") or o.startswith(f"{key}.") for o in step.owned())


def stated(step: Step, values: dict[str, Any]) -> dict[str, Any]:
    """The file in the image, which has what step.yaml states of it."""
    config = copy.deepcopy(values)
    for key, value in (step.unsaid | step.presets).items():
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
        assert spec.config.impossible or unread(spec)
        return
    assert not spec.config.impossible
    for key, leaf in resolver.leaves(spec.config.root):
        assert at(written, key) == leaf.value, key
    if not unread(spec):
        assert resolver.plain(spec.config.root) == written
    for key in spec.step.roles.values():
        assert spec.config.value(key) is not ABSENT or at(written, key) is ABSENT


def unread(spec: LaunchSpec) -> bool:
    return "path" in spec.base and spec.in_image is None


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
    spec = spec_of(step=step, entry=entry, base=base, words=typed.parse(step, (*INPUTS, word)))
    (finding,) = configuration.check(spec)
    with pytest.raises(slipway_step.ConfigError, match=r"cannot be set, since .* and not a mapping"):
        slipway_step.merge_config(without_resume(configuration.planned(spec, {})))
    assert (finding.code, finding.where) == (64, word) and "and not a mapping (base)" in finding.what


# Of a base in the image.

GRPO = "/opt/nemo-rl/examples/configs/grpo_math_1B.yaml"
SAYS: dict[str, Any] = {
    "policy": {
        "dtensor_cfg": {"enabled": True, "_v2": True, "tensor_parallel_size": 1, "context_parallel_size": 1},
        "megatron_cfg": {"enabled": False, "tensor_model_parallel_size": 1},
        "train_global_batch_size": 512, "train_micro_batch_size": 4, "precision": "bfloat16",
        "max_total_sequence_length": 512, "logprob_batch_size": "${policy.train_micro_batch_size}",
        "generation": {
            "backend": "vllm", "colocated": {"enabled": True}, "max_new_tokens": "${policy.max_total_sequence_length}",
            "vllm_cfg": {"gpu_memory_utilization": 0.6, "tensor_parallel_size": 1, "pipeline_parallel_size": 1,
                         "max_model_len": "${policy.max_total_sequence_length}", "precision": "${policy.precision}"},
        },
    },
    "grpo": {"num_prompts_per_step": 32, "num_generations_per_prompt": 16},
    "checkpointing": {"model_save_format": "safetensors"}, "nobody_stated": {"this": "at all"},
}  # fmt: skip


def record_base(project: Project, base: BaseFile | None) -> None:
    """The record of NeMo RL's image says this of the file that rl/grpo starts from, or nothing of any."""
    entry = locks.select(locks.load_lock(project.root), "nemo-rl", "cuda")
    record_image(project.root, entry, configurations={GRPO: base} if base else {})


def config(project: Project, words: tuple[str, ...], *more: str) -> dict[str, dict[str, Any]]:
    done = project.launch("config", "--profile", "slurm-pyxis", *words, *more, "--json")
    assert done.code == 0, done
    return {row["key"]: row for row in json.loads(done.stdout)}


def test_what_the_record_says_of_the_base_is_known(project: Project, words: tuple[str, ...]) -> None:
    record_base(project, BaseFile(values=SAYS))
    found = config(project, words)
    by = f"the image's {GRPO}"
    assert found["nobody_stated.this"] == {"key": "nobody_stated.this", "value": "at all", "by": by}
    assert "policy.sequence_packing.enabled" not in found  # which step.yaml states, and this image does not say
    text = project.launch("config", "--profile", "slurm-pyxis", *words).stdout
    assert "# and whatever else" not in text and "# where nothing says it" not in text


def test_what_nothing_says_is_what_the_library_takes(project: Project, words: tuple[str, ...]) -> None:
    """DTensor's first worker, which does not write safetensors."""
    dtensor = {"enabled": True, "tensor_parallel_size": 1}
    record_base(project, BaseFile(values=SAYS | {"policy": SAYS["policy"] | {"dtensor_cfg": dtensor}}))
    text = project.launch("config", "--profile", "slurm-pyxis", *words).stdout
    assert text.endswith("# where nothing says it, the library takes policy.dtensor_cfg._v2: false\n")
    done = project.launch("--profile", "slurm-pyxis", *words, "--dry-run")
    assert done.code == 78 and "DTensor's first worker writes no checkpoint in a format by name" in done.stderr, done
    assert "policy.dtensor_cfg._v2: true; in this image it is false\n" in done.stderr


@pytest.mark.parametrize("base", [None, BaseFile(why="it is not in the image")])
def test_without_it_counts_what_the_step_states(
    project: Project, words: tuple[str, ...], base: BaseFile | None
) -> None:
    record_base(project, base)
    found = config(project, words)
    assert found["policy.sequence_packing.enabled"]["value"] is True
    text = project.launch("config", "--profile", "slurm-pyxis", *words).stdout
    assert f"# and whatever else the image's {GRPO} says\n" in text


def test_an_image_that_is_other_than_stated_is_warned_of(project: Project, words: tuple[str, ...]) -> None:
    record_base(
        project, BaseFile(values=SAYS | {"grpo": {"num_prompts_per_step": 32, "num_generations_per_prompt": 8}})
    )
    said = project.launch("--profile", "slurm-pyxis", *words, "--dry-run").stderr
    where = f"warning: {project.path}/launcher/steps/rl/nemo_rl/grpo/step.yaml: presets: says that {GRPO} has "
    assert f"{where}grpo.num_generations_per_prompt: 16; in this image it is 8\n" in said
    assert f"{where}policy.sequence_packing.enabled: true; in this image it does not\n" in said
    assert f"{where}policy.train_global_batch_size" not in said, said


def test_rules_know_what_the_record_says(project: Project, words: tuple[str, ...]) -> None:
    """Of a batch that cannot be shared out, and of a value that is another key's."""
    policy = SAYS["policy"] | {"train_global_batch_size": 7}
    record_base(project, BaseFile(values=SAYS | {"policy": policy}))
    done = project.launch("--profile", "slurm-pyxis", *words, "--dry-run")
    assert done.code == 64 and "policy.train_global_batch_size" in done.stderr, done
    generation = SAYS["policy"]["generation"] | {"max_new_tokens": "${policy.train_global_batch_size}"}
    record_base(project, BaseFile(values=SAYS | {"policy": SAYS["policy"] | {"generation": generation}}))
    done = project.launch("--profile", "slurm-pyxis", *words, "policy.train_global_batch_size=1024", "--dry-run")
    assert "max_new_tokens=1024" in done.stderr and "more than a whole sequence may have" in done.stderr, done


def test_of_a_tree_of_the_users_own_nothing_is_known(project: Project, words: tuple[str, ...], tmp_path: Path) -> None:
    project.env["PATH"] = os.environ["PATH"]
    tree = repository(tmp_path / "tree", {"examples/configs/grpo_math_1B.yaml": "policy: {}"})
    record_base(project, BaseFile(values=SAYS))
    found = config(project, words, "--code", f"nemo-rl={tree}")
    assert not {"nobody_stated.this", "policy.sequence_packing.enabled"} & found.keys()
    done = project.launch("--profile", "slurm-pyxis", *words, "--code", f"nemo-rl={tree}", "--dry-run")
    assert f"note: not checked, only {GRPO} of --code nemo-rl may say it: policy.train_global_batch_size" in done.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [("a.b.c", 2), ("a.d", 2), ("y", 2), ("z.c", 2), ("f", UNKNOWN), ("g", UNKNOWN), ("h", ABSENT), ("z.none", ABSENT)],
)
def test_a_value_that_is_another_keys(key: str, value: Any) -> None:
    known = Configuration()
    known.merge(
        {"a": {"b": {"c": "${..e}"}, "d": "${.e}", "e": 2}, "y": "${a.b.c}", "z": "${a.b}", "f": "${mul:2,3}",
         "g": "${g}"}, "base"
    )  # fmt: skip
    assert resolver.plain(config_values.said_of(known, key)) == value
