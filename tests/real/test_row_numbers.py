"""What is said of rows when planning, against AutoModel's ChatDataset and transformers themselves: one container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.artifacts import datasets
from launcher.artifacts.datasets import Rows

from .conftest import Work
from .support import PROJECT, Tree

pytestmark = pytest.mark.real
USER, ANSWER = {"role": "user", "content": "Where to?"}, {"role": "assistant", "content": "Out to sea."}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def row(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": [*messages], **more})


def calling(**changes: Any) -> str:
    call = {k: v for k, v in {**CALL, **changes}.items() if v is not ...}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    return row(USER, asked, {"role": "tool", "tool_call_id": "c1", "content": "sea"}, ANSWER, tools=[TOOL])


# Name -> rows. What the library takes has to be taken when planning, and what it does not is refused, but for STRICTER.
CASES = {
    "usual": row(USER, ANSWER),
    "system": row({"role": "system", "content": "Be brief."}, USER, ANSWER),
    "several turns": row(USER, ANSWER, USER, ANSWER),
    "other keys": row({**USER, "name": "x"}, ANSWER, source="here", score=1.5),
    "other rows of another kind": row(USER, ANSWER, score=1) + "\n" + row(USER, ANSWER, score="high"),
    "unicode": row({"role": "user", "content": "Où \u2028 ? \U0001f30a"}, ANSWER),
    "parts": row({"role": "user", "content": [{"type": "text", "text": "Where to?"}]}, ANSWER),
    "tools": calling(),
    "tools as text": row(USER, ANSWER, tools=json.dumps([TOOL])),
    "tools as nothing": row(USER, ANSWER, tools=None),
    "tools as a number": row(USER, ANSWER, tools=3),
    "tools as text that is no JSON": row(USER, ANSWER, tools="look"),
    "a call without a function": calling(function=...),
    "a call without a name": calling(function={"arguments": "{}"}),
    "a call without arguments": calling(function={"name": "look"}),
    "an id that is no text": calling(id=3),
    "an answer to no call": row(USER, {"role": "tool", "content": "sea"}, ANSWER),
    "no role": row({"content": "Where to?"}, ANSWER),
    "unknown role": row({"role": "human", "content": "Where to?"}, ANSWER),
    "content is a number": row({"role": "user", "content": 3}, ANSWER),
    "messages is text": json.dumps({"messages": "Where to?"}),
    "messages is empty": row(),
    "a message is text": row("Where to?", ANSWER),
    "no messages": json.dumps({"prompts": []}) + "\n" + row(USER, ANSWER),
    "no JSON": row(USER, ANSWER) + "\n{" + row(USER, ANSWER),
    "a list": "[]\n" + row(USER, ANSWER),
    "no answer": row(USER),
    "an empty answer": row(USER, {"role": "assistant", "content": ""}),
    "reasoning that is no text": row(USER, {**ANSWER, "reasoning_content": 3}),
}
# Refused when planning though the library takes it: there is nothing to learn from, or what is learned is no text.
STRICTER = {"no answer", "an empty answer", "content is a number"}


def test_rows_are_judged_and_counted_as_by_the_library(work: Work, project: Tree, place: Path) -> None:
    folder, out = place / "rows", place / "told.json"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    place.chmod(0o777)
    names = {f"{n:02d}.jsonl": name for n, name in enumerate(CASES)}
    for file, name in names.items():
        (folder / file).write_text(CASES[name] + "\n")
    mounts = [part for path in (place, work.model, PROJECT / "tests") for part in ("--mount", str(path))]
    program = ["python", str(PROJECT / "tests" / "real" / "rows" / "library.py"), folder, work.model, out]
    done = project.images("run", "automodel", "--flavour", "cpu", *mounts, "--", *map(str, program))
    assert done.code == 0, done
    told = json.loads(out.read_text())
    wrong = {}
    for file, name in names.items():
        found = datasets.look([folder / file], Rows(grammar="roles"))
        ours = next((f.what for f in found.faults if f.severity == "error"), "" if found.type else found.note)
        theirs = told[file]["fault"]
        if bool(ours) != bool(theirs or name in STRICTER):
            wrong[name] = (ours, theirs)
        elif not ours:
            said = project.launch("check", "--json", str(folder / file), f"tokenizer={work.model}")
            numbers = json.loads(said.out)["checked"][0]["numbers"]
            counted = [tokens for tokens in told[file]["tokens"] if tokens is not None]
            total = (numbers["tokens"] or {"total": 0})["total"]
            if (total, numbers["untold"]) != (sum(counted), len(told[file]["tokens"]) - len(counted)):
                wrong[name] = (numbers, told[file]["tokens"])
    assert wrong == {}, "what is said when planning, and what the library does"
