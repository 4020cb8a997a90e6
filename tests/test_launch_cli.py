"""The `launch` command: how words are read, what a dry run prints, what `-o` writes. Bad input: test_bad_input.py."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import click
import pytest
from helpers import IMAGE, REPO, Engine, Inputs, Project, errors, record_image, tree

from images.locking import lock as locks
from images.locking.model import Entry
from launcher.catalog import commands
from launcher.catalog.definitions import Step
from launcher.cli import main, running
from slipway.errors import SlipwayError

STEP = "sft/automodel"


def request_of(project: Project, *words: str) -> Any:
    """The request that a dry run of `words` prints."""
    done = project.launch("--dry-run", "--json", *words)
    assert done.code == 0, done
    return json.loads(done.stdout)


def plan_of(project: Project, tmp_path: Path, *words: str) -> Any:
    """The plan that `-o` writes for `words`."""
    number = len(list(tmp_path.glob("planned-*")))
    done = project.launch("-o", str(tmp_path / f"planned-{number}"), *words)
    assert done.code == 0, done
    return json.loads((tmp_path / f"planned-{number}" / "plan.json").read_text())


def test_help_has_every_command_once_with_a_whole_sentence(project: Project) -> None:
    project.env["COLUMNS"] = "80"
    said = project.launch("--help").stdout
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "..." not in said.partition("Run:")[2]
    titles = ["Run:", "By hand:", "Watch:", "Past runs:", "Look:", "Prepare:", "Site:"]
    assert [line for line in said.splitlines() if line in titles] == titles
    commands = said.partition("Run:")[2].splitlines()
    names = [line.split()[0] for line in commands if line[:2] == "  " and line[2:3] not in ("", " ")]
    assert len(names) == len(set(names)) == 27


def test_a_dry_run_prints_the_request_asks_the_engine_and_makes_nothing(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    words = [STEP, *inputs.words, f"output={tmp_path}/out", "--dry-run"]
    text, again, as_json = project.launch(*words), project.launch(*words), project.launch(*words, "--json")
    assert (text.code, as_json.code) == (0, 0)
    assert text.stdout.startswith('docker run --name slipway-"${RUN_ID}" \\\n')
    assert json.loads(as_json.stdout)["Image"] == IMAGE
    assert again == text and "flavour cpu: the engine has no GPUs\n" in text.stderr
    assert tree(tmp_path) == before
    assert built.asked and all(line.startswith("GET ") for line in built.asked)


@pytest.mark.parametrize("as_json", [False, True])
def test_without_an_engine_the_request_is_printed_and_unresolved(
    project: Project, inputs: Inputs, tmp_path: Path, as_json: bool
) -> None:
    before = tree(tmp_path)
    done = project.launch("--dry-run", *(["--json"] if as_json else []), STEP, *inputs.words)
    assert done.code == 69
    assert f"error: unix://{tmp_path}/dead (from DOCKER_HOST): no Docker engine answers\n" in done.stderr
    assert json.loads(done.stdout)["Image"] == "UNRESOLVED" if as_json else "  UNRESOLVED /slipway/" in done.stdout
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("built")
def test_what_a_dry_run_prints_is_what_o_writes(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    words = [STEP, *inputs.words, f"output={tmp_path}/out", "max_steps=3"]
    printed = project.launch("--dry-run", "--json", *words).stdout
    written = project.launch("-o", str(tmp_path / "written"), *words)
    assert (written.code, written.stdout) == (0, "")
    assert (tmp_path / "written" / "request.json").read_text() == printed
    assert not (project.path / "runs").exists() and not (tmp_path / "out").exists()


def test_what_a_dry_run_prints_is_what_is_submitted(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    words = [STEP, *inputs.words, "max_steps=3"]
    printed = project.launch("--dry-run", "--json", *words).stdout
    assert project.launch("--runs-dir", str(tmp_path / "runs"), *words).code == 69, "a stand-in makes nothing"
    run_id = built.refused["Labels"]["slipway.run"]
    filled = printed.replace("${RUN_ID}", run_id).replace("${RUN_DIR}", f"{tmp_path}/runs/{run_id}")
    assert built.refused == json.loads(filled)
    assert f"POST /containers/create?name=slipway-{run_id}".partition("?")[0] in built.asked


@pytest.mark.usefixtures("built")
def test_o_writes_the_whole_run_directory_into_an_empty_folder(
    project: Project, inputs: Inputs, tmp_path: Path
) -> None:
    words = ["-o", str(tmp_path / "written"), STEP, *inputs.words]
    (tmp_path / "written").mkdir()
    done = project.launch(*words)
    assert f"wrote {tmp_path}/written; submit it with: launch submit {tmp_path}/written\n" in done.stderr
    found = {str(p.relative_to(tmp_path / "written")) for p in (tmp_path / "written").rglob("*") if p.is_file()}
    imported = ("slipway_inputs", "slipway_resolver", "slipway_step")  # by the program
    programs = {f"slipway/steps/{name}.py" for name in ("automodel_finetune", *imported)}
    modules = {path.name for path in (REPO / "entrypoints" / "supervisor").glob("*.py")}
    programs |= {f"slipway/supervisor/{name}" for name in modules if not name.startswith("ray_")}
    assert found == programs | {
        "asked.json", "plan.json", "request.json", "slipway/plan.json", "slipway/entrypoint.sh", "slipway/gpus.py",
        "slipway/verify.py",
    }  # fmt: skip
    written = tmp_path / "written"
    assert (written / "slipway" / "plan.json").read_text() == (written / "plan.json").read_text()

    before = tree(tmp_path)
    done = project.launch(*words)
    assert (done.code, errors(done.stderr)) == (73, f"error: -o {written}: is not an empty folder\n")
    assert tree(tmp_path) == before


def test_o_writes_nothing_where_something_is_wrong(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert project.launch("-o", str(tmp_path / "written"), STEP, *inputs.words).code == 69
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("built")
def test_words_and_options_may_stand_in_any_order(project: Project, inputs: Inputs) -> None:
    train, model = inputs.words
    orders = [
        ["--flavour", "cpu", "-c", "tiny", STEP, train, model, "max_steps=3"],
        [STEP, train, "--flavour", "cpu", model, "-c", "tiny", "max_steps=3"],
        ["run", STEP, train, model, "max_steps=3", "--flavour=cpu", "-ctiny"],
        ["run", "-c", "tiny", STEP, train, model, "max_steps=3", "--flavour", "cpu"],
    ]
    first, *others = (request_of(project, *words) for words in orders)
    assert all(other == first for other in others)


@pytest.mark.parametrize("option", [o for p in running.run.params for o in p.opts if o.startswith("-")])
def test_every_option_may_stand_before_the_step(option: str) -> None:
    """Its value is not taken for a verb or for the step; a flag has none."""
    flag = next(p for p in running.run.params if option in p.opts and isinstance(p, click.Option)).is_flag
    given = [option, *([] if flag else ["show"]), "a/b"]
    assert main.make_context("launch", list(given)).args == given


@pytest.mark.usefixtures("built")
def test_words_and_configurations_reach_the_plan(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    project.write("mine.yaml", "optimizer: {lr: 0.5}\n")
    words = ["max_steps=3", "optimizer.weight_decay=1e-2", "learning_rate=1e-5", "-c", "tiny", "-c", "mine.yaml"]
    config = plan_of(project, tmp_path, STEP, *inputs.words, *words)["config"]
    for setting in (["step_scheduler.max_steps", 3], ["optimizer.weight_decay", 0.01], ["optimizer.lr", 1e-5]):
        assert setting in config["set"]
    assert [layer["name"] for layer in config["layers"]] == ["default", "tiny", "mine.yaml"]
    assert config["layers"][2]["values"] == {"optimizer": {"lr": 0.5}}


@pytest.mark.usefixtures("built")
def test_options_reach_the_request(project: Project, inputs: Inputs) -> None:
    project.env["FROM_SHELL"] = "a b"
    words = ["--env", "GIVEN=c=d", "--env", "FROM_SHELL", "--env", "EMPTY=", "--procs", "2"]
    env = request_of(project, STEP, *inputs.words, *words)["Env"]
    assert {"GIVEN=c=d", "FROM_SHELL=a b", "EMPTY=", "SLIPWAY_PROCS=2", "SLIPWAY_LAUNCHER=torchrun"} <= set(env)


@pytest.mark.parametrize(
    ("words", "profile", "said"),
    [
        (["--flavour", "cpu"], "flavour: cuda", "flavour cpu: --flavour\n"),
        ([], "flavour: cpu", "flavour cpu: the profile says so\n"),
    ],
)
@pytest.mark.usefixtures("built")
def test_the_flavour_is_said_with_its_reason(
    project: Project, inputs: Inputs, words: list[str], profile: str, said: str
) -> None:
    project.write("slipway.d/profiles/mine.yaml", f"schema: 1\nkind: docker\n{profile}\n")
    assert said in project.launch("--dry-run", "--profile", "mine", STEP, *inputs.words, *words).stderr


@pytest.mark.usefixtures("built")
def test_a_profile_comes_from_the_option_or_the_variable(project: Project, inputs: Inputs) -> None:
    project.write("slipway.d/profiles/small.yaml", "schema: 1\nkind: docker\nshm_size: 1g\nulimits: {}\n")
    project.env["SLIPWAY_PROFILE"] = "small"
    assert request_of(project, STEP, *inputs.words)["HostConfig"]["ShmSize"] == 1024**3
    assert request_of(project, "--profile", "docker", STEP, *inputs.words)["HostConfig"]["ShmSize"] == 8 * 1024**3


@pytest.fixture
def official(project: Project, step: Step) -> Entry:
    """An entry that starts from an official image and has a command in the step."""
    for entry in locks.load_lock(project.root).entries.values():
        if entry.library == step.library and entry.flavour == "cuda":
            with contextlib.suppress(SlipwayError):
                commands.choose_command(step, entry)
                return entry
    pytest.fail("the lock has no such entry")


def test_a_substituted_image_is_refused_until_drift_is_allowed(
    project: Project, inputs: Inputs, engine: Engine, official: Entry
) -> None:
    record_image(project.root, official, substitutions={official.base.reference: f"sha256:{'7' * 64}"})
    engine.holds(images={IMAGE: IMAGE})
    words = [STEP, *inputs.words, "--flavour", "cuda", "--release", official.release, "--gpus", "0", "--dry-run"]
    refused = project.launch(*words)
    what = f"image of {official.name}: has sha256:{'7' * 64} in place of {official.base.reference}"
    assert refused.code == 65 and f"error: {what}\n" in refused.stderr
    allowed = project.launch(*words, "--allow-drift")
    assert allowed.code == 0 and f"warning: {what} (--allow-drift)\n" in allowed.stderr


def test_a_plan_depends_on_what_runs_and_not_on_the_folder_from_which_it_is_launched(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    labels = request_of(project, STEP, *inputs.words, f"output={tmp_path}/out")["Labels"]
    assert built.asked
    below = project.path / "deep" / "below"
    below.mkdir(parents=True)
    done = project.launch("--dry-run", "--json", STEP, *inputs.words, f"output={tmp_path}/out", cwd=below)
    assert json.loads(done.stdout)["Labels"] == labels


@pytest.mark.parametrize("what", ["link", "file"])
def test_conversions_are_taken_from_a_folder_of_ones_own_alone(
    project: Project, inputs: Inputs, tmp_path: Path, what: str
) -> None:
    """Whoever can make folders beside the runs could lay a model there that was never converted."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / ".converted").symlink_to(tmp_path) if what == "link" else (runs / ".converted").touch()
    words = (
        "sft/megatron_bridge",
        *inputs.words,
        f"tokenizer={inputs.model}",
        "--flavour",
        "cpu",
        "--runs-dir",
        str(runs),
    )
    done = project.launch("--convert", "--dry-run", *words)
    assert done.code == 77 and f"{runs}/.converted: is no folder; expected a folder of your own" in done.stderr, done
