"""docs/ends.md says what the code says, and names tests that exist."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import HERE, REPO

from launcher.catalog import definitions
from launcher.records.outcome import End
from slipway.project import Root

PAGE = (REPO / "docs" / "ends.md").read_text()
GOES_ON = {"pending", "running"}  # no ends
CODES: dict[End, str] = {End.STOPPED: "130 or 143"}


def table(title: str) -> list[dict[str, str]]:
    """The rows of the only table below a heading."""
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    )
    assert rows and {len(row) for row in rows} == {len(head)}, title
    return [dict(zip(head, row, strict=True)) for row in rows]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def all_tests() -> Iterator[str]:
    for line in PAGE.splitlines():
        yield from re.findall(r"`(\S+\.py::\w+)`", line)


def test_every_test_that_the_page_names_exists() -> None:
    known: dict[str, set[str]] = {}
    for test in all_tests():
        name, _, function = test.partition("::")
        file = next(path for path in (HERE / "real" / name, HERE / name) if path.is_file())
        assert function in known.setdefault(name, functions(file)), test


@pytest.mark.parametrize("row", table("Words"), ids=lambda row: row["end"])
def test_an_end_has_the_words_of_the_code(row: dict[str, str]) -> None:
    (state,) = named(row["state"])
    if state in GOES_ON:
        assert (row["exit code"], row["cause"], row["cause line"]) == ("", "", "")
        return
    end = End(state)
    code = CODES.get(end) or ("own" if end.code is None else str(end.code))
    assert (row["exit code"], row["cause"], row["cause line"]) == (code, end.cause, end.line)
    assert row["what is left"]


def test_the_page_has_every_end_and_each_row_its_tests() -> None:
    words, tests = table("Words"), table("Tests")
    assert {named(row["state"])[0] for row in words} - GOES_ON == {str(end.value) for end in End}
    assert [row["end"] for row in words] == [row["end"] for row in tests]
    for row in tests:
        cells = [row[engine] for engine in ("Docker", "enroot", "Slurm")]
        assert any(map(named, cells)) and all(cell == "-" or named(cell) for cell in cells), row


@pytest.mark.parametrize("row", table("Signals"), ids=lambda row: row["who, and when"])
def test_a_signal_ends_in_a_state_and_has_a_test(row: dict[str, str]) -> None:
    (state,) = named(row["state"])
    assert state in GOES_ON | {str(end.value) for end in End}
    assert named(row["tests"]) and all(row.values())


def steps(word: str) -> list[dict[str, Any]]:
    """What the steps of a library, or of a kind, say of being told."""
    named = (step for step in definitions.all_steps(Root(REPO)) if word in step.id.split("/")[:2])
    return [msgspec.to_builtins(step.graceful) for step in named]


def test_what_a_step_is_told_is_what_it_says_itself() -> None:
    found = 0
    for row in table("What a step is told"):
        signal, to = row["signal, to whom"].split(", ")
        for word in row["steps of"].split(", "):
            said = steps(word)
            assert said and all(s == {"signal": signal, "to": to, "seconds": int(row["grace"][:-2])} for s in said), (
                word
            )
            found += len(said)
        assert named(row["tests"])
    assert found == len(list((REPO / "launcher" / "steps").rglob("step.yaml")))


def test_the_supervisor_ends_in_no_other_way() -> None:
    states = {str(end.value) for end in End}
    for row in table("The supervisor in the container"):
        assert set(re.findall(r"`([a-z ]+)`", row["it ends with"])) <= states
    ends = runpy.run_path(str(REPO / "entrypoints" / "supervisor" / "ends.py"))
    causes = {value for name, value in vars(ends["Cause"]).items() if name.isupper()}
    said = PAGE.split("`status.json`: ")[1].split(")")[0]
    expected = {"step", "signal", "entrypoint", "node", "memory", "stalled", "gate"}
    assert causes == expected == set(re.findall(r"`([a-z]+)`", said.split("(")[1]))
