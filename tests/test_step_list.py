"""launcher/lists/step_list.py: `launch steps` and `launch schema`.

A change of a schema that is wanted is accepted with: SLIPWAY_ACCEPT=1 pytest tests/test_step_list.py
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

import msgspec
import pytest
from helpers import REPO, STEP_FILE, Inputs, Project, Refused

from images.locking import lock as locks
from launcher.catalog import commands, definitions
from launcher.core import arguments
from launcher.lists import step_list
from slipway.errors import SlipwayError
from slipway.project import Root

ROOT = Root(REPO)
STEPS = sorted(definitions.step_folders(ROOT))


def test_the_table_has_every_step_with_its_image(project: Project) -> None:
    done = project.launch("steps")
    assert (done.code, done.stderr) == (0, "")
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["STEP", "LIBRARY", "IMAGE", "TESTED", "INPUTS", "->", "OUTPUT", "TITLE"]
    assert [line.split()[0] for line in lines] == STEPS
    line = next(line for line in lines if line.startswith("sft/automodel "))
    entry = locks.select(locks.load_lock(project.root), "automodel", "cuda")
    assert f"  {entry.release}@{str(entry.base.digest)[:19]}  " in line
    told = " ".join(line.split())
    assert told.endswith(" train, validation?, model -> checkpoint_hf Supervised fine-tuning with NeMo AutoModel")


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (["--library", "automodel", "--produces", "checkpoint_lora"], ["peft/automodel"]),
        (["--consumes", "binidx"], ["pretrain/automodel", "pretrain/megatron_bridge"]),
        (["--consumes", "packed_parquet", "--produces", "checkpoint_megatron"], ["sft/megatron_bridge"]),
        (["--produces", "packed_parquet"], ["data_prep/sft_packing"]),
        (["--consumes", "checkpoint_nemo_rl", "--library", "automodel"], []),
    ],
)
def test_the_options_choose_together(project: Project, options: list[str], chosen: list[str]) -> None:
    found = json.loads(project.launch("steps", "--json", *options).stdout)
    assert [s["id"] for s in found] == chosen
    assert [line.split()[0] for line in project.launch("steps", *options).stdout.splitlines()[1:]] == chosen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--library", "automodle"], "error: --library: 'automodle' is not known\n  did you mean 'automodel'?\n"),
        (["--consumes", "binidxx"], "error: --consumes: 'binidxx' is not known\n  did you mean 'binidx'?\n"),
        (["--produces", "lora"], "error: --produces: 'lora' is not known\n"),
        (["sft/automodle"], "error: unknown step 'sft/automodle'\n  did you mean 'sft/automodel'?\n"),
    ],
)
def test_what_is_not_known_is_answered_with_the_nearest(refused: Refused, words: list[str], said: str) -> None:
    assert refused(64, "steps", *words).startswith(said)


def test_an_image_without_a_digest_is_unresolved_and_one_of_debian_has_none(project: Project) -> None:
    lock = locks.load_lock(project.root)
    step = definitions.find_step(project.root, "sft/automodel")
    entry = step_list.default_entry(lock, step)
    assert entry is not None and entry.flavour == "cuda"
    bare = msgspec.structs.replace(entry, base=msgspec.structs.replace(entry.base, digest=None))
    assert step_list._image(bare) == f"{entry.release} unresolved"
    cpu = step_list.default_entry(
        lock, msgspec.structs.replace(step, base=[b for b in step.base if b.flavour == "cpu"])
    )
    assert cpu is not None and step_list._image(cpu) == f"{cpu.release} (cpu)"
    assert step_list.default_entry(lock, msgspec.structs.replace(step, library="mine")) is None
    assert step_list._image(None) == "none"


@pytest.mark.parametrize("name", STEPS)
def test_everything_of_a_step_is_said_and_its_example_can_be_parsed(name: str) -> None:
    step = definitions.find_step(ROOT, name)
    said = step_list.details(ROOT, name)
    for thing in [
        *step.inputs,
        *step.parameters,
        *step.owned(),
        step.output.help,
        step.title,
        step.commands[0].program,
    ]:
        assert thing in said, thing
    for entry in locks.load_lock(ROOT).entries.values():
        assert (f"\n  {entry.name}: " in said) == (entry.library == step.library)
    command, id_, *rest = step_list.example(step).split()
    assert (command, id_) == ("launch", name)
    assert arguments.parse(step, tuple(rest)).output == "out/"


def test_an_entry_that_the_step_does_not_run_in_says_why() -> None:
    said = step_list.details(ROOT, "sft/megatron_bridge")
    assert "megatron-bridge/25.11-cuda: no: sft/megatron_bridge has no command for megatron-bridge/25.11-cuda (" in said
    assert "megatron-bridge/0.6.2-cpu: megatron_train.py; tested: " in said
    said = step_list.details(ROOT, "optimize/modelopt/prune")
    assert "modelopt/26.06.01-cuda: modelopt_minitron.py (/opt/Model-Optimizer/" in said
    assert "0.47.0-cpu: modelopt_prune.py; tested: " in said


def test_a_step_is_found_by_its_alias(project: Project) -> None:
    project.edit(STEP_FILE, "schema: 1", "schema: 1\naliases: [tune, sft/auto]")
    assert definitions.find_step(project.root, "sft/auto").id == "sft/automodel"
    assert project.launch("steps", "tune").stdout.startswith("sft/automodel (tune, sft/auto): Supervised")
    assert "\nsft/automodel (tune, sft/auto)  " in project.launch("steps").stdout
    assert json.loads(project.launch("steps", "tune", "--json").stdout)[0]["id"] == "sft/automodel"
    with pytest.raises(SlipwayError, match="unknown step 'tuen'") as e:
        definitions.find_step(project.root, "tuen")
    assert e.value.remedy == "did you mean 'tune'?"


@pytest.mark.parametrize("alias", ["tune", "sft/automodel"])
def test_one_name_for_two_steps_is_an_error_that_names_both_files(project: Project, alias: str) -> None:
    project.edit(STEP_FILE, "schema: 1", "schema: 1\naliases: [tune]")
    extends = "extends: [common/megatron_bridge]"
    other = project.edit("launcher/steps/sft/megatron_bridge/step.yaml", extends, f"{extends}\naliases: [{alias}]")
    with pytest.raises(SlipwayError, match=f"the alias '{alias}' is taken by ") as e:
        definitions.find_step(project.root, "tune") if alias == "tune" else definitions.all_steps(project.root)
    assert (e.value.code, e.value.where) == (78, f"{other}:2:1")
    assert e.value.what.endswith("/launcher/steps/sft/automodel/step.yaml")
    assert definitions.find_step(project.root, "sft/automodel").id == "sft/automodel", "an id needs no other file"


@pytest.mark.parametrize("kind", sorted(step_list.KINDS))
def test_the_shipped_schemas_are_those_of_the_nouns(project: Project, kind: str) -> None:
    text, path = project.launch("schema", kind).stdout, Path(REPO, "docs", "schemas", f"{kind}.json")
    if os.environ.get("SLIPWAY_ACCEPT"):
        path.write_text(text)
    accept = "SLIPWAY_ACCEPT=1 pytest tests/test_step_list.py"
    assert path.is_file() and path.read_text() == text, f"{path} is stale; accept with: {accept}"


def test_a_schema_refuses_what_the_reader_refuses() -> None:
    made = json.loads(step_list.schema("step"))
    step = made["$defs"]["Step"]
    assert made["$ref"] == "#/$defs/Step" and step["additionalProperties"] is False
    assert {"aliases", "roles", "inputs"} <= set(step["properties"]) and not {"id", "folder"} & set(step["properties"])
    assert {"python", "torchrun"} <= set(step["properties"]["launcher"]["enum"])
    profile = json.loads(step_list.schema("profile"))["$defs"]["DockerProfile"]["properties"]
    assert "gpu" in profile and not {"name", "file"} & set(profile)
    assert "libraries" in json.loads(step_list.schema("matrix"))["$defs"]["Matrix"]["properties"]


ALL = {"25.11", "26.02", "26.04", "26.04.01", "26.06", "26.06.01", "26.08.01"}
AUTOMODEL = ("sft", "peft", "pretrain")


def test_a_folder_of_the_catalogue_lists_its_steps(project: Project) -> None:
    rows = project.launch("steps", "sft").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["STEP", "sft/automodel", "sft/megatron_bridge"]
    found = json.loads(project.launch("steps", "rl/", "--json").stdout)
    assert "rl/nemo_rl/grpo" in {step["id"] for step in found} and all(s["id"].startswith("rl/") for s in found)
    assert project.launch("steps", "sfd").code == 64


def test_help_of_a_step_is_what_is_to_know_of_it(project: Project) -> None:
    """With the configurations of what it extends."""
    for words in (("peft/megatron_bridge", "--help"), ("-h", "peft/megatron_bridge", "train=x")):
        done = project.launch(*words)
        assert (done.code, done.stdout) == (0, project.launch("steps", "peft/megatron_bridge").stdout)
    assert "lora_rank: int: rank of the adapter (peft.dim)" in done.stdout
    assert "  1b\n  3b\n  8b\n" in done.stdout


FROM_0_4 = ("data_prep/sft_packing", "sft/megatron_bridge", "peft/megatron_bridge", "pretrain/megatron_bridge")


@pytest.mark.parametrize(
    ("name", "releases"),
    [
        ("convert/hf_to_megatron", ALL),
        ("convert/megatron_to_hf", ALL),
        ("convert/merge_lora", ALL - {"25.11"}),
        *((name, ALL - {"25.11", "26.02"}) for name in FROM_0_4),
        ("optimize/modelopt/quantize", ALL),
        ("optimize/modelopt/distill", ALL - {"25.11", "26.02"}),
        *((f"{name}/automodel", {"25.11.00", "26.02", "26.04", "26.06", "26.08.00"}) for name in AUTOMODEL),
        ("data_prep/rl_prep", {"v0.4.0", "v0.5.0", "v0.6.0", "v0.7.0", "v0.8.0"}),
    ],
)
def test_which_containers_a_step_runs_in(name: str, releases: set[str]) -> None:
    step, found = definitions.find_step(ROOT, name), set()
    for entry in locks.load_lock(ROOT).entries.values():
        if (entry.library, entry.flavour) == (step.library, "cuda"):
            with contextlib.suppress(SlipwayError):
                commands.choose_command(step, entry)
                found.add(entry.release)
    assert found == releases


def test_every_variable_is_told_with_who_sets_it_and_what_the_image_says(project: Project, inputs: Inputs) -> None:
    project.write(
        "slipway.d/profiles/docker.yaml",
        "schema: 1\nkind: docker\nextends: docker\nenv: {A: profile, B: profile}\nsecrets: {HF_TOKEN: env}\n",
    )
    project.env["HF_TOKEN"] = "hf_never_shown"
    entry = locks.select(locks.load_lock(project.root), "automodel", "cpu")
    words = ("env", "sft/automodel", *inputs.words, "--flavour", "cpu", "--env", "B=x y", "--env", "PATH=/mine")
    done = project.launch(*words, "--json")
    assert done.code == 0, done
    found = {r["name"]: (r["value"], r["by"], r["image"]) for r in json.loads(done.stdout)}
    assert found["A"] == ("profile", "profile", None)
    assert found["B"] == ("x y", "command line", None)
    assert found["PATH"] == ("/mine", "command line", entry.env.get("PATH"))
    assert found["HF_HOME"] == ("/cache/hf", "launcher", None)
    assert found["HF_TOKEN"] == (None, "secret", None)
    assert {n for n, v in entry.env.items() if found[n] == (v, "image", v)} == set(entry.env) - {"PATH"}
    shown = project.launch(*words).stdout
    assert "hf_never_shown" not in shown + done.stdout
    assert ["HF_TOKEN", "-", "secret", "-"] in [re.split(r" {2,}", x) for x in shown.splitlines()]
