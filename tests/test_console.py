"""slipway/console.py: errors become one message and an exit code; results stay alone on stdout."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sysconfig
from pathlib import Path

import pytest
from helpers import Inputs, Project

import slipway


@pytest.mark.parametrize("program", ["images", "launch"])
def test_the_version_and_both_spellings_of_help(project: Project, program: str) -> None:
    run = project.images if program == "images" else project.launch
    assert run("--version").stdout == f"slipway {slipway.__version__}\n"
    assert run("-h").stdout == run("--help").stdout != ""


@pytest.mark.parametrize("program", ["images", "launch"])
def test_a_word_that_click_does_not_know_is_2_and_goes_to_stderr(project: Project, program: str) -> None:
    done = (project.images if program == "images" else project.launch)("lunch")
    assert (done.code, done.stdout) == (2, "")
    assert "No such command 'lunch'" in done.stderr


def test_an_error_is_one_message_on_stderr_with_its_code(project: Project) -> None:
    done = project.launch("show")
    assert (done.code, done.stdout) == (66, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("error: ") == 1


@pytest.mark.parametrize("words", [["runs", "--help"], ["show", "--json", "./run"]])
def test_a_reader_that_leaves_is_no_error(project: Project, words: list[str]) -> None:
    """As in `launch show | true`."""
    project.write("run/plan.json", "{}\n" * 100_000)
    reader, writer = os.pipe()
    os.close(reader)
    command = [Path(sysconfig.get_path("scripts"), "launch"), *words]
    done = subprocess.run(
        command, cwd=project.path, env=project.env, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_ends_a_command_with_130(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    """While it waits for an engine that took the call and says nothing."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        project.env["DOCKER_HOST"] = f"unix://{tmp_path}/mute"
        launch = Path(sysconfig.get_path("scripts"), "launch")
        words = [launch, "--dry-run", "sft/automodel", *inputs.words]
        with subprocess.Popen(words, cwd=project.path, env=project.env, stderr=subprocess.PIPE) as process:
            with mute.accept()[0]:
                process.send_signal(signal.SIGINT)
                process.wait(60)
            assert process.stderr is not None
            assert (process.returncode, process.stderr.read()) == (130, b"")
