"""launcher/planning/by_hand.py and cli/by_hand.py: what `launch exec` and `launch shell` would submit, and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import Engine, Inputs, Project, errors

EXEC = ("exec", "automodel", "--flavour", "cpu")


def request(project: Project, *words: str) -> dict[str, Any]:
    done = project.launch(*words)
    assert done.code == 0, done
    return dict(json.loads(done.stdout))


@pytest.mark.usefixtures("built")
def test_a_command_is_the_container_of_a_step_with_another_program(project: Project, tmp_path: Path) -> None:
    """Mounts, variables and user are a launch's; it starts in the first folder that is mounted, else in the output."""
    (tmp_path / "data").mkdir()
    (tmp_path / "one").write_text("x")
    mounts = ("--mount", f"{tmp_path}/one:/one:ro", "--mount", f"{tmp_path}/data")
    made = request(project, *EXEC, *mounts, "--env", "A=b", "--dry-run", "--json", "--", "python", "-c", "1 > 0")
    assert made["Entrypoint"] == ["bash", "/slipway/entrypoint.sh"]
    command = ["/slipway/steps/run_command.py", f"{tmp_path}/data", "python", "-c", "1 > 0"]
    assert made["Cmd"] == ["python", *command]
    found = {m["Target"]: (m["Source"], m["ReadOnly"]) for m in made["HostConfig"]["Mounts"]}
    assert found["/one"] == (f"{tmp_path}/one", True) and found[f"{tmp_path}/data"] == (f"{tmp_path}/data", False)
    assert {"/output", "/slipway", "/run/slipway", "/cache/hf"} <= set(found)
    assert {"A=b", "SLIPWAY_STEP=exec/automodel", "SLIPWAY_LAUNCHER=python", "HF_HUB_OFFLINE=1"} <= set(made["Env"])
    assert request(project, *EXEC, "--dry-run", "--json", "--", "ls")["Cmd"][2:] == ["/output", "ls"]


@pytest.mark.usefixtures("built")
def test_nothing_ends_it_because_it_is_silent(project: Project) -> None:
    profile = project.write("launcher/profiles/watched.yaml", "schema: 1\nkind: docker\nextends: docker\nstall: 30\n")
    made = request(project, *EXEC, "--profile", profile.stem, "--dry-run", "--json", "--", "ls")
    assert not any(word.startswith("SLIPWAY_STALL_SECONDS") for word in made["Env"])
    shown = project.launch("shell", "automodel", "--flavour", "cpu", "--profile", profile.stem, "--dry-run")
    assert shown.code == 0 and "SLIPWAY_STALL_SECONDS" not in shown.stdout


def test_a_shell_is_the_same_container_that_waits(project: Project, built: Engine, inputs: Inputs) -> None:
    """But for its command and what the entrypoint is told; torchrun's processes are for its user to start."""
    del built
    words = ("sft/automodel", "--flavour", "cpu", *inputs.words, "--procs", "2")
    step, shell = project.launch(*words, "--dry-run"), project.launch("shell", *words, "--dry-run")
    assert (step.code, shell.code) == (0, 0)
    before, after = set(step.stdout.splitlines()), set(shell.stdout.splitlines())
    gone, new = ({line.strip(" \\") for line in lines} for lines in (before - after, after - before))
    assert {word for word in gone if "plan" not in word and "slipway.plan" not in word} == {
        "--env SLIPWAY_LAUNCHER=torchrun", "--env SLIPWAY_PROCS=2", "--env SLIPWAY_STEP=sft/automodel",
        "--env SLIPWAY_STOP_SECONDS=120", "--env SLIPWAY_STOP_TO=ranks",
        *(word for word in gone if word.startswith("sha256:")),
    }  # fmt: skip
    assert "--env SLIPWAY_SHELL_PROCS=2" in new and "--env SLIPWAY_STEP=shell/sft/automodel" in new
    assert any(word.endswith("python /slipway/steps/run_shell.py /slipway/steps/automodel_finetune.py") for word in new)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--mount", "/nowhere"), 66, "--mount /nowhere: there is nothing at /nowhere"),
        (("--mount", "/tmp:/a:/b"), 64, "--mount /tmp:/a:/b: expected DIR, DIR:TARGET or DIR:TARGET:ro"),
        (("--mount", "/tmp:/output"), 64, "--mount /tmp:/output: target '/output': /output is the launcher's own"),
        (("--mount", "/tmp:a"), 64, "--mount /tmp:a: target 'a' is no absolute path"),
        (("--env", "HF_TOKEN=x"), 77, "--env"),
    ],
)
@pytest.mark.usefixtures("built")
def test_what_is_refused_of_a_command(project: Project, words: tuple[str, ...], code: int, said: str) -> None:
    done = project.launch(*EXEC, *words, "--", "ls")
    assert (done.code, done.stdout) == (code, "") and said in errors(done.stderr), done
    assert not (project.path / "runs").exists()


@pytest.mark.usefixtures("built")
def test_what_is_refused_of_both(project: Project, inputs: Inputs) -> None:
    unknown = project.launch("exec", "automodle", "--", "ls")
    assert unknown.code == 64 and "unknown library 'automodle'" in unknown.stderr and "'automodel'" in unknown.stderr
    assert project.launch("exec", "automodel").code == 2
    nodes = project.launch("shell", "sft/automodel", *inputs.words, "--nodes", "2")
    assert (nodes.code, nodes.stderr) == (64, "error: --nodes: a shell is on one node\n  leave it out\n")
    nothing = project.launch("shell", "nothing")
    assert nothing.code == 66 and "there is no run 'nothing'" in nothing.stderr
