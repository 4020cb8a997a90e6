"""launcher/artifacts/jsonl.py: what a line must hold, and the way through a file's lines, packed or not."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import pytest

from launcher.artifacts import jsonl
from launcher.artifacts.jsonl import MAX_LINE
from launcher.artifacts.rows import Shape, carefully

CHAT, PREFERENCE, PROMPT = Shape("chat_jsonl"), Shape("preference_jsonl"), Shape("prompt_jsonl")
USER, ASSISTANT = {"role": "user", "content": "Where to?"}, {"role": "assistant", "content": "Out to sea."}


def found(shape: Shape, row: Any) -> tuple[str, str] | None:
    return jsonl.checker(shape)(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n")


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": r, "content": "x"} for r in roles]}


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        (CHAT, turns("system", "user", "assistant")),
        (CHAT, turns("user", "assistant", "tool", "assistant")),
        (CHAT, turns("developer", "assistant") | {"id": 3}),
        (CHAT, {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]}),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]}),
        (CHAT, {"messages": [{"role": "system", "content": ""}, USER, ASSISTANT]}),
        (CHAT, json.dumps(turns("user", "assistant")).encode() + b"\r\n"),
        (CHAT, json.dumps(turns("user", "assistant")).encode()),
        (PREFERENCE, {"prompt": "p", "chosen": "a", "rejected": "b", "score": 3}),
        (PREFERENCE, {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [ASSISTANT, ASSISTANT]}),
        (PREFERENCE, {"context": [USER], "completions": [{"rank": 1, "completion": [ASSISTANT, ASSISTANT]},
                                                         {"rank": 0, "completion": [ASSISTANT]}]}),
        (PROMPT, {"input": "1 + 1?", "output": "2"}),
        (PROMPT, {"input": [USER], "output": 2}),
    ],
)  # fmt: skip
def test_a_good_line(shape: Shape, row: Any) -> None:
    assert found(shape, row) is None


@pytest.mark.parametrize(
    ("shape", "row", "what"),
    [
        (CHAT, b'{"messages": [\n', "not a conversation: Input data was truncated"),
        (CHAT, b"\xef\xbb\xbf" + json.dumps(turns("user", "assistant")).encode(),
         "starts with a byte order mark (BOM), which JSON does not have: remove its three bytes"),
        (CHAT, '{"messages": []}'.encode("utf-16"), "is UTF-16; JSON lines are UTF-8"),
        (CHAT, b'{"messages": [{"role": "assistant", "content": "\xff"}]}',
         "not a conversation: invalid UTF-8 (byte 0xff)"),
        (CHAT, b'{"messages": [{"role": "assistant", "content": "x"}], "id": "\xe2"}',
         "not a conversation: invalid UTF-8 (byte 0xe2)"),
        (CHAT, b"[" * 5000, "not a conversation: maximum recursion depth exceeded while deserializing an object"),
        (CHAT, [1], "not a conversation: a list, not an object"),
        (CHAT, {}, "`messages` is missing"),
        (CHAT, {"messages": 3}, "`messages` is a number, not a list"),
        (CHAT, {"messages": []}, "`messages` is empty"),
        (CHAT, {"messages": [USER, "x"]}, "`messages[1]` is text, not an object"),
        (CHAT, turns("user", "asistant"),
         "unknown role 'asistant'; expected one of assistant, developer, function, system, tool, user"),
        (CHAT, {"messages": [{"content": "x"}]},
         "`messages[0]` has no role; expected one of assistant, developer, function, system, tool, user"),
        (CHAT, {"messages": [{"role": "user", "content": 3}]}, "`messages[0]` has a number as content"),
        (CHAT, turns("system", "user"), "no assistant message: nothing to learn from"),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": ""}]}, "an empty assistant message"),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": None}]}, "an empty assistant message"),
        (PREFERENCE, {"prompt": "p", "chosen": "a", "rejected": "a"}, "`chosen` and `rejected` are equal"),
        (PREFERENCE, {"prompt": "p", "chosen": [ASSISTANT], "rejected": [ASSISTANT]},
         "`chosen` and `rejected` are equal"),
        (PREFERENCE, {"prompt": "p", "chosen": "a"}, "`rejected` is missing"),
        (PREFERENCE, {"prompt": "", "chosen": "a", "rejected": "b"}, "`prompt` is empty"),
        (PREFERENCE, {"prompt": "p", "chosen": [USER], "rejected": "b"}, "`chosen` has no assistant message"),
        (PREFERENCE, {"context": [USER], "completions": []}, "`completions` is no list of two or more"),
        (PREFERENCE, {"context": [], "completions": []}, "`context` is empty"),
        (PREFERENCE, {"context": [USER], "completions": [{"completion": [ASSISTANT]}] * 2},
         "a completion has no `rank` (a whole number)"),
        (PREFERENCE, {"context": [USER], "completions": [{"rank": 0, "completion": [ASSISTANT]}] * 2},
         "every completion has the same rank"),
        (PREFERENCE, {"context": [USER], "completions": [{"rank": n, "completion": [ASSISTANT]} for n in (0, 1)]},
         "the best and the worst completion are equal"),
        (PROMPT, {"input": "x"}, "`output` is missing"),
        (PROMPT, {"input": "", "output": "x"}, "`input` is empty"),
        (PROMPT, b"{]", "not a prompt: JSON is malformed: object keys must be strings (byte 1)"),
    ],
)  # fmt: skip
def test_a_bad_line_is_told_in_one_sentence(shape: Shape, row: Any, what: str) -> None:
    assert found(shape, row) == ("error", what)


def test_two_user_turns_in_a_row_are_a_warning() -> None:
    assert found(CHAT, turns("user", "user", "assistant")) == ("warning", "two user messages in a row")
    assert found(CHAT, turns("user", "assistant", "user", "assistant")) is None


def test_the_fast_look_lets_nothing_pass_that_the_careful_one_refuses() -> None:
    """Good lines with a byte changed here and there, against the careful look alone."""
    chance, differ = random.Random(1), 0
    good = [
        (CHAT._replace(keys=("id",), inner=("name",)), {"messages": [USER | {"name": "é"}, ASSISTANT], "id": "é"}),
        (PREFERENCE, {"prompt": "é", "chosen": "a", "rejected": "b"}),
        (PROMPT, {"input": "é", "output": "b"}),
    ]
    for _ in range(5000):
        shape, row = chance.choice(good)
        line = bytearray(json.dumps(row, ensure_ascii=False).encode())
        for _ in range(chance.choice([0, 1, 2])):
            line[chance.randrange(len(line))] = chance.choice([*b'\xff\xe2"{}[]: \n', chance.getrandbits(8)])
        told = carefully(shape, bytes(line))
        assert jsonl.checker(shape)(bytes(line)) == told
        differ += told is not None
    assert 1000 < differ < 4000


@pytest.mark.parametrize(
    ("lines", "name", "type_", "note"),
    [
        ([json.dumps(turns("user"))], "chats", "chat_jsonl", ""),
        (['{"prompt": "x", "chosen": "y"}'], "a.jsonl", "preference_jsonl", ""),
        (['{"context": [], "completions": []}'], "a.json", "preference_jsonl", ""),
        (['{"input": "x"}'], "a", "prompt_jsonl", ""),
        (["{broken", json.dumps(turns("user"))], "a.txt", "chat_jsonl", ""),
        (["{broken"], "a.jsonl.gz", "chat_jsonl", ""),
        (['{"a": 1}'], "a.jsonl", "chat_jsonl", ""),
        (['{"a": 1}'], "a.json", "", "JSON lines with a"),
        (['{"prompt": "x", "b": 1}'], "a.jsonl", "", "JSON lines with b, prompt"),
        (["text"], "a.txt", "", "no JSON on its first line"),
        ([], "a.txt", "", "no JSON on its first line"),
        (["[1]"], "a.jsonl", "", "a JSON array, not one object a line; this makes lines of it: jq -c '.[]'"),
        (["[", '{"messages": []},'], "a.json", "", "a JSON array, not one object a line; this makes lines of it: "
         "jq -c '.[]'"),
    ],
)  # fmt: skip
def test_the_first_lines_tell_the_type(lines: list[str], name: str, type_: str, note: str) -> None:
    shape, told = jsonl.detect([line.encode() for line in lines], name)
    assert (shape.type if shape else "", told) == (type_, note)


def test_the_keys_of_the_first_lines_are_declared_to_the_decoder() -> None:
    rows = [turns("user") | {"id": 1}, {"messages": [USER | {"name": "x", 'a"b': 1}], "source": "y"}]
    shape, _ = jsonl.detect([json.dumps(r).encode() for r in rows], "a.jsonl")
    assert shape == Shape("chat_jsonl", ("id", "messages", "source"), ("content", "name", "role"))


LINES = b'{"input": "x", "output": "y"}\n' * 3 + b"{}\n" + b'{"input": "x", "output": "y"}\n'


# Good by themselves, each on a line of its own; what JSON allows between objects is no end of a line here.
@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (LINES[:30] * 40, []),
        (LINES[:30] * 40 + LINES[:29], []),
        (LINES[:29] * 2 + b"\n" + LINES[:30] + b"\n" + LINES[:30], [1, 3]),
        (b"\n" + LINES[:29] * 2 + b"\n", [1, 2]),
        (LINES[:29] * 2 + b"\n\n", [1]),
        (LINES[:30] + LINES[:29] * 2 + b"\n" + LINES[:30].replace(b", ", b",\n"), [2, 3, 4]),
        (LINES[:30].replace(b"\n", b"\r\n") * 3, []),
        (LINES[:30].replace(b"{", b" {") * 3, []),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 3000])
def test_each_line_is_one_object(lines: bytes, wrong: list[int], before: int) -> None:
    scan = jsonl.scan(io.BytesIO(LINES[:30] * before + lines), jsonl.checker(PROMPT))
    assert [n - before for n, _, _ in scan.problems] == wrong
    assert scan.lines == before + len(lines.splitlines())


@pytest.mark.parametrize("size", [jsonl.BLOCK, jsonl.BUFFER, 3 * jsonl.BUFFER])
@pytest.mark.parametrize("more", [-2, -1, 0, 1, 2])
def test_lines_as_long_as_what_is_read_at_once(size: int, more: int) -> None:
    row = b'{"input": "x", "output": "%s"}\n'
    long = row % (b"y" * (size + more - len(row % b"")))
    stream = LINES[:30] + long + b"{}\n" + long + long[:-1]
    scan = jsonl.scan(io.BytesIO(stream), jsonl.checker(PROMPT))
    assert (scan.lines, [n for n, _, _ in scan.problems]) == (5, [3])
    begins = jsonl.scan(io.BytesIO(stream), jsonl.checker(PROMPT), 30 + len(long) + 1)
    assert (begins.lines, begins.counts["error"]) == (3, 1), "the third begins within, and is read to its end"


def test_a_line_that_is_too_long_is_one_fault_and_the_next_is_read() -> None:
    long = b'{"input": "' + b"x" * MAX_LINE + b'", "output": "y"}\n'
    scan = jsonl.scan(io.BytesIO(long + b"{}\n"), jsonl.checker(PROMPT))
    assert scan.problems == [(1, "error", "a line of more than 64 MiB"), (2, "error", "`input` is missing")]


def test_of_many_problems_the_first_are_kept_and_all_are_counted() -> None:
    warning = json.dumps(turns("user", "user", "assistant")).encode() + b"\n"
    scan = jsonl.scan(io.BytesIO(warning * 100 + b"{}\n" * 50), jsonl.checker(CHAT))
    assert scan.counts == {"error": 50, "warning": 100} and scan.lines == 150
    assert [n for n, _, _ in scan.problems] == [*range(1, 21), *range(101, 121)]


@pytest.mark.parametrize(
    ("named", "row", "type_", "told"),
    [
        ({"input": "Q", "output": "A"}, {"Q": "2+2", "A": "4"}, "prompt_jsonl", None),
        ({"input": "Q", "output": "A"}, {"Q": "2+2", "A": ""}, "prompt_jsonl", ("error", "`A` is empty")),
        ({"input": "Q"}, {"Q": "2+2"}, "prompt_jsonl", ("error", "`output` is missing")),
        ({"chosen": "good"}, {"prompt": "q", "good": "a", "rejected": "b"}, "preference_jsonl", None),
        ({"messages": "talk"}, {"talk": [{"role": "assistant", "content": "a"}]}, "chat_jsonl", None),
    ],
)
def test_columns_may_have_other_names(named: dict[str, str], row: Any, type_: str, told: Any) -> None:
    line = json.dumps(row).encode()
    shape, _ = jsonl.detect([line], "a.jsonl", named)
    assert shape is not None and shape.type == type_
    assert jsonl.checker(shape)(line) == told
