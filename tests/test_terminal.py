"""What came from files is printed so that it can only be read: no escapes, no second line, no change of direction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import CHAT, Inputs, Project, write_chats

from slipway.errors import Exit, SlipwayError, message, visible

STEP = "sft/automodel"
ODD = "a\x1b[31m\u202egnp\u2066\x9b2J\u2028\x07\rb"
SHOWN = "a\\x1b[31m\\u202egnp\\u2066\\x9b2J\\u2028\\x07\\rb"
FAKE = "x\nerror: everything is fine\nnothing stops it"


def is_plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_what_steers_a_terminal_is_shown_as_text() -> None:
    assert visible(ODD) == SHOWN and visible("é 漢字 \\n") == "é 漢字 \\n"


def test_a_message_is_one_whatever_is_in_it() -> None:
    assert message(f"{FAKE}: is wrong", ODD) == f"x\\nerror: everything is fine\\nnothing stops it: is wrong\n  {SHOWN}"
    assert message("two faults:\n  one\n  two") == "two faults:\n  one\n  two", "our own lines are indented"
    error = SlipwayError(Exit.DATA, FAKE, where=FAKE, remedy=FAKE)
    assert [line[:2] == "  " for line in str(error).split("\n")] == [False, True]


@pytest.mark.parametrize("odd", [ODD, FAKE], ids=["escapes", "lines"])
@pytest.mark.usefixtures("built")
def test_check_prints_names_and_data_of_files_as_text(
    project: Project, inputs: Inputs, tmp_path: Path, odd: str
) -> None:
    """Names of files, values in a configuration, keys of rows: by `check` of files and of a launch."""
    (inputs.model / "config.json").write_text(json.dumps({"architectures": [odd], "dtype": odd}))
    row = json.dumps({"messages": [{"role": odd, "content": odd}], odd: 1})
    train = write_chats(tmp_path / f"{odd.replace('/', '')}.jsonl", row, json.dumps(CHAT | {"messages": odd}))
    (inputs.model / odd).write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / odd).touch()
    words = (f"train={train}", f"model={inputs.model}")
    for command in (
        ("check", str(train), str(inputs.model), str(tmp_path / "empty"), str(tmp_path / odd)),
        ("check", "--full", str(train), str(inputs.model)),
        ("check", STEP, *words),
        ("check", STEP, f"train={tmp_path}/empty", f"model={tmp_path}/{odd}"),
        ("config", STEP, *words, f"optimizer.name={json.dumps(odd)}"),
        ("env", STEP, *inputs.words, "--env", f"ODD={odd}"),
    ):
        done = project.launch(*command)
        assert is_plain(done.stdout) and is_plain(done.stderr), (command, done)
        lines = (done.stdout + done.stderr).split("\n")
        assert not [line for line in lines if line.startswith("error: everything")], (command, done)
        if command[0] != "check" or command[1] != STEP:
            assert "nothing stops it" not in lines
