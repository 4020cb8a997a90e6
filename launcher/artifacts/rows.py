"""What is wrong with one row of JSON Lines, in words; a careful look, for those that are not plainly good. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import msgspec

from launcher.artifacts import forms
from slipway.findings import Severity

BOM, _UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_FOUR = frozenset({"system", "user", "assistant", "tool"})
_ROLES = _FOUR | {"developer", "function"}
_NOT = {
    "chat_jsonl": "not a conversation", "preference_jsonl": "not a preference", "prompt_jsonl": "not a prompt",
    "text_jsonl": "not a text",
}  # fmt: skip
# What a conversation may be: `roles`, of system, user, assistant and tool alone; `texts`, of those, each with text as
# its content; `last`, of such, with a last word of the assistant's. Every one includes the one before.
Grammar = Literal["", "roles", "texts", "last"]
TEXTS = ("texts", "last")
Problem = tuple[Severity, str]


class Shape(NamedTuple):
    """What a file's lines should be. `keys`, `inner`: further keys of a row and of a message, as first seen.

    `named`: a column's usual name and its name here, where that is another.

    Keys are declared to the decoder because it does not look for invalid UTF-8 in what it was not told of.
    """

    type: str
    keys: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    named: tuple[tuple[str, str], ...] = ()
    grammar: Grammar = ""


def usual(row: dict[str, Any], named: Mapping[str, str]) -> dict[str, Any]:
    """The row with its columns under their usual names."""
    return row | {column: row[name] for column, name in named.items() if name in row}


def order(roles: tuple[str, ...], grammar: Grammar) -> Problem | None:
    if "assistant" not in roles:
        return "error", "no assistant message: nothing to learn from"
    if grammar == "last" and roles[-1] != "assistant":
        return "error", (
            "the last message is not the assistant's, which is what this release learns from unless the model's chat "
            "template marks what to learn ({% generation %})"
        )
    if any(a == b == "user" for a, b in pairwise(roles)):
        return "warning", "two user messages in a row"
    return None


def carefully(shape: Shape, line: bytes) -> Problem | None:
    type_, named = shape.type, dict(shape.named)
    if line.startswith(BOM):
        return "error", "starts with a byte order mark (BOM), which JSON does not have: remove its three bytes"
    if line.startswith(_UTF16):
        return "error", "is UTF-16; JSON lines are UTF-8"
    try:
        row = msgspec.json.decode(line)
    except UnicodeDecodeError as e:
        return "error", f"{_NOT[type_]}: invalid UTF-8 (byte 0x{e.object[e.start]:02x})"
    except (msgspec.DecodeError, RecursionError) as e:
        if name := forms.constant(line):
            return "error", f"{name}, which JSON does not have: write null, or leave its key out"
        return "error", f"{_NOT[type_]}: {e}"
    if not isinstance(row, dict):
        return "error", f"{_NOT[type_]}: {_kind(row)}, not an object"
    if type_ == "chat_jsonl":
        messages = named.get("messages", "messages")
        wrong = _turns(row, messages, shape.grammar) or (forms.tools(row) if shape.grammar == "roles" else "")
        return ("error", wrong) if wrong else order(tuple(m["role"] for m in row[messages]), shape.grammar)
    if type_ == "text_jsonl":
        return _text(row, named.get("text", "text"))
    wrong = _prompt(usual(row, named)) if type_ == "prompt_jsonl" else _preference(usual(row, named))
    for column, name in named.items():
        wrong = wrong.replace(f"`{column}`", f"`{name}`")
    return ("error", wrong) if wrong else None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "true or false"}
    return names.get(type(value), "a number")


def _turns(row: dict[str, Any], key: str, grammar: Grammar = "") -> str:
    """What is wrong with a list of messages."""
    if key not in row:
        return f"`{key}` is missing"
    if not isinstance(row[key], list):
        return f"`{key}` is {_kind(row[key])}, not a list"
    if not row[key]:
        return f"`{key}` is empty"
    return next(filter(None, (_turn(f"`{key}[{n}]`", m, grammar) for n, m in enumerate(row[key]))), "")


def _turn(name: str, message: Any, grammar: Grammar) -> str:
    if not isinstance(message, dict):
        return f"{name} is {_kind(message)}, not an object"
    role, content = message.get("role"), message.get("content")
    known = _FOUR if grammar else _ROLES
    if role not in known if isinstance(role, str) else True:
        what = f"unknown role {role!r}" if "role" in message else f"{name} has no role"
        return f"{what}; expected one of {', '.join(sorted(known))}"
    if grammar in TEXTS and not isinstance(content, str):
        also = ', and would read the word None: write ""' if content is None else ": join the texts of its parts"
        return f"{name} has {_kind(content)} as content; this release takes text alone{also}"
    if not isinstance(content, str | list | None):
        return f"{name} has {_kind(content)} as content"
    if part := forms.modality(content):
        return f"{name} has a part of type {part}; the steps for conversations read text alone"
    if grammar == "roles" and (wrong := forms.calls(name, message)):
        return wrong
    if role == "assistant" and not content and not (message.get("tool_calls") or message.get("function_call")):
        return "an empty assistant message"
    return ""


def _text(row: dict[str, Any], key: str) -> Problem | None:
    """A row without text is left out by what reads it, which counts such rows."""
    if isinstance(row.get(key), str):
        return None
    what = f"`{key}` is {_kind(row[key])}, not text" if key in row else f"`{key}` is missing"
    return "warning", f"{what}: the row is left out"


def _prompt(row: dict[str, Any]) -> str:
    for key in ("input", "output"):
        if key not in row:
            return f"`{key}` is missing"
        if row[key] in ("", None, [], {}):
            return f"`{key}` is empty"
    return "" if isinstance(row["input"], str) else _turns(row, "input")


def _preference(row: dict[str, Any]) -> str:
    if row.keys() & {"context", "completions"}:
        return _completions(row)
    for key in ("prompt", "chosen", "rejected"):
        if wrong := _reply(row, key):
            return wrong
    return "`chosen` and `rejected` are equal" if row["chosen"] == row["rejected"] else ""


def _reply(row: dict[str, Any], key: str) -> str:
    """What is wrong with a text or a list of messages; an answer has a word of the assistant."""
    if not isinstance(row.get(key), str):
        wrong = _turns(row, key)
        spoken = wrong or key == "prompt" or any(m["role"] == "assistant" for m in row[key])
        return wrong if spoken else f"`{key}` has no assistant message"
    return "" if row[key] else f"`{key}` is empty"


def _completions(row: dict[str, Any]) -> str:
    if wrong := _reply({"prompt": row.get("context")}, "prompt") if "context" in row else "`prompt` is missing":
        return wrong.replace("`prompt", "`context")
    found = row.get("completions")
    if not isinstance(found, list) or len(found) < 2:
        return "`completions` is no list of two or more"
    for one in found:
        if not isinstance(one, dict) or not isinstance(one.get("rank"), int):
            return "a completion has no `rank` (a whole number)"
        if wrong := _reply(one, "completion"):
            return wrong
    ranked = sorted(found, key=lambda c: int(c["rank"]))
    if ranked[0]["rank"] == ranked[-1]["rank"]:
        return "every completion has the same rank"
    return "the best and the worst completion are equal" if _same(ranked[0], ranked[-1]) else ""


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["completion"] == other["completion"])
