"""Rows in another form than the usual one, named as what they are; and what a message may hold beside its text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

SHARE = """jq -c '{messages: [.conversations[] | {role: ({human: "user", gpt: "assistant"}[.from] // .from), \
content: .value}]}'"""
ALPACA = """jq -c '{messages: [{role: "user", content: ([.instruction, .input // empty] | join("\\n"))}, \
{role: "assistant", content: (.output // .response)}]}'"""
PAIR = """jq -c '{messages: [{role: "user", content: .prompt}, {role: "assistant", content: .completion}]}'"""

# What is said of how loss is taken -> what it has to be for nothing to be dropped.
WEIGHTS = {"weight": (1, None, True), "train": (True, None, 1), "loss": (True, None, 1), "masked": (False, None, 0)}


def other(row: dict[str, Any]) -> str:
    """The form of a row that has no `messages`, and what makes the usual one of it; empty where it is no known one."""
    if "messages" in row:
        return ""
    turns = row.get("conversations", row.get("conversation"))
    if isinstance(turns, list):
        if all(isinstance(t, dict) and "role" in t for t in turns):
            return "conversations under `conversations`, not `messages`: jq -c '{messages: .conversations}'"
        return f"ShareGPT (`conversations` with `from` and `value`), not `messages`; this makes them: {SHARE}"
    if "instruction" in row and row.keys() & {"output", "response"}:
        return f"Alpaca (`instruction`, `input`, `output`), not `messages`; this makes them: {ALPACA}"
    if row.keys() >= {"prompt", "completion"}:
        return f"pairs of `prompt` and `completion`, not `messages`; this makes them: {PAIR}"
    return ""


def constant(line: bytes) -> str:
    """NaN or an infinity, where those alone keep a line from being JSON; empty else."""
    found: list[str] = []
    try:
        json.loads(line, parse_constant=lambda name: found.append(name))
    except (ValueError, RecursionError):
        return ""
    return found[0] if found else ""


def modality(content: Any) -> str:
    """Which part of a message's content is no text; empty where all are."""
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            return ""
        kind = part.get("type", "text" if "text" in part else "")
        if kind not in ("text", "input_text", "output_text") and "text" not in part:
            return str(kind or ", ".join(part))
    return ""


def dropped(row: dict[str, Any]) -> Iterator[str]:
    """What a row says that no step here reads, though it means something."""
    if isinstance(row.get("system"), str) and row["system"].strip():
        yield "`system` beside `messages` is not read: make it the first message, of the role system"
    messages = row.get("messages")
    for key, usual in WEIGHTS.items():
        said = [m[key] for m in messages if isinstance(m, dict) and key in m] if isinstance(messages, list) else []
        if any(value not in usual for value in said):
            yield f"`{key}` of a message is not read: every answer is learned, or the last one, whatever it says"


def tools(row: dict[str, Any]) -> str:
    """What AutoModel (chat_dataset.py, 0.4 to 0.7) does not take as a row's tools; empty for none."""
    said = row.get("tools")
    if isinstance(said, str):
        try:
            said = json.loads(said) if said.strip() else None
        except ValueError:
            return "`tools` is text that is no JSON"
    return "" if isinstance(said, list | None) else "`tools` is no list of tools"


def calls(name: str, message: dict[str, Any]) -> str:
    """What AutoModel (chat_dataset.py, 0.4 to 0.7) does not take of a message's tool calls, or their answers."""
    if message["role"] == "tool":
        answered = message.get("tool_call_id")
        wrong = not isinstance(answered, str) or not answered
        return f"{name} is a tool's answer without `tool_call_id`: say which call it answers" if wrong else ""
    if message["role"] != "assistant":
        return ""
    if not isinstance(message.get("reasoning_content"), str | None):
        return f"{name} has `reasoning_content` that is no text"
    if "tool_calls" not in message:
        return ""
    if not isinstance(message["tool_calls"], list):
        return f"{name} has `tool_calls` that are no list: leave them out where there are none"
    found = (_call(f"`tool_calls[{n}]` of {name}", call) for n, call in enumerate(message["tool_calls"]))
    return next(filter(None, found), "")


def _call(name: str, call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return f"{name} has no `function`"
    if not isinstance(function.get("name"), str) or not function["name"]:
        return f"{name} has no `function.name`"
    if function.get("arguments") is None:
        return f'{name} has no `function.arguments`: "{{}}" for none'
    wrong = [key for key in ("id", "type") if not isinstance(call.get(key), str | None)]
    return f"`{wrong[0]}` of {name} is no text" if wrong else ""
