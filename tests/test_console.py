"""slipway/console.py: errors become one message and an exit code; results stay alone on stdout."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import Done, Inputs, Project, script

import slipway
from slipway.console import command_group
from slipway.errors import Exit, SlipwayError


def run(project: Project, *words: str) -> Done:
    """The console script itself."""
    done = subprocess.run(
        [script(words[0]), *words[1:]], cwd=project.path, env=project.env, capture_output=True, text=True, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("program", ["images", "launch"])
def test_the_version_and_both_spellings_of_help(project: Project, program: str) -> None:
    assert run(project, program, "--version") == Done(0, f"slipway {slipway.__version__}\n", "")
    help_text = run(project, program, "--help")
    assert (help_text.code, help_text.stderr) == (0, "") and help_text.stdout.startswith(f"Usage: {program} ")
    assert run(project, program, "-h") == help_text


@pytest.mark.parametrize("program", ["images", "launch"])
def test_a_word_that_click_does_not_know_is_2_and_goes_to_stderr(project: Project, program: str) -> None:
    done = run(project, program, "lunch")
    assert (done.code, done.stdout) == (2, "")
    assert "command 'lunch'" in done.stderr


def test_an_error_is_one_message_on_stderr_with_its_code(project: Project) -> None:
    done = run(project, "launch", "show")
    assert (done.code, done.stdout) == (66, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("error: ") == 1


@pytest.mark.parametrize("words", [["runs", "--help"], ["show", "--json", "./run"]])
def test_a_reader_that_leaves_is_no_error(project: Project, words: list[str]) -> None:
    """As in `launch show | true`."""
    project.write("run/plan.json", "{}\n" * 100_000)
    reader, writer = os.pipe()
    os.close(reader)
    command = [script("launch"), *words]
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
        words = [script("launch"), "--dry-run", "sft/automodel", *inputs.words]
        with subprocess.Popen(words, cwd=project.path, env=project.env, stderr=subprocess.PIPE) as process:
            with mute.accept()[0]:
                process.send_signal(signal.SIGINT)
                process.wait(60)
            assert process.stderr is not None
            assert (process.returncode, process.stderr.read()) == (130, b"")


def test_a_fault_of_our_own_is_shown_whole_and_has_its_own_code() -> None:
    @command_group()
    def program() -> None: ...

    @program.command()
    def broken() -> None:
        raise RuntimeError("the sea is dry")

    done = CliRunner().invoke(program, ["broken"])
    assert done.exit_code == 70
    assert "Traceback" in done.stderr and "a fault in slipway itself: RuntimeError: the sea is dry" in done.stderr


def test_what_is_said_steers_no_terminal() -> None:
    @command_group()
    def program() -> None: ...

    @program.command()
    def odd() -> None:
        raise SlipwayError(Exit.DATA, "found \x1b[2J\x9b\u202e\x00\udcff\tand é", where="file", remedy="mend it\r")

    done = CliRunner().invoke(program, ["odd"])
    assert done.stderr == "error: file: found \\x1b[2J\\x9b\\u202e\\x00\\udcff\\tand é\n  mend it\\r\n"
