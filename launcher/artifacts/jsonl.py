"""What one line of a JSON Lines file must hold, by type, and the way through a file's lines.

A line is decoded into a strict msgspec Struct: one that passes is good, and costs little. Any other is looked at
slowly and carefully, which finds the words for what is wrong, or that nothing is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from io import BufferedIOBase, BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from launcher.artifacts import forms
from launcher.artifacts.faults import MAX_FAULTS, Fault, Severity, fault

MAX_LINE = 64 * 1024 * 1024  # bytes; a longer line is a fault, and is never held in memory
BUFFER = 256 * 1024  # bytes per read: more no longer fits the processor's cache and is slower
BLOCK = 64 * 1024  # bytes that are decoded at once, about, for the same reason
MAX_ORDERS = 1024
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")
_OPEN, _CLOSED = b"{}"
_BOM, _UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_FOUR = frozenset({"system", "user", "assistant", "tool"})
_ROLES = _FOUR | {"developer", "function"}
_NOT = {
    "chat_jsonl": "not a conversation", "preference_jsonl": "not a preference", "prompt_jsonl": "not a prompt",
}  # fmt: skip

_COLUMNS = {
    "chat_jsonl": ("messages",), "preference_jsonl": ("prompt", "chosen", "rejected", "context", "completions"),
    "prompt_jsonl": ("input", "output"),
}  # fmt: skip

# What a conversation may be: `roles`, of system, user, assistant and tool alone; `texts`, of those, each with text as
# its content; `last`, of such, with a last word of the assistant's. Every one includes the one before.
Grammar = Literal["", "roles", "texts", "last"]
_TEXTS = ("texts", "last")
Problem = tuple[Severity, str]
EMPTY: Problem = ("error", "an empty line")
_UNDECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


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


class Scan(NamedTuple):
    """What was found in some lines: how many they were, the first problems (by line, from 1), and how many in all.

    `blank`: empty lines at the end, which are no problem where nothing follows.
    """

    lines: int
    problems: list[tuple[int, Severity, str]]
    counts: dict[Severity, int]
    blank: int = 0

    def faults(self, path: Path, before: int = 0) -> list[Fault]:
        """The problems as faults of `path`; `before`: lines of the file that stand before these."""
        return [fault(f"{path}:{before + n}", what, severity) for n, severity, what in self.problems]


def detect(lines: Iterable[bytes], name: str, named: Mapping[str, str] | None = None) -> tuple[Shape | None, str]:
    """The shape that the first lines show, else None and what they look like. A file's name decides only in doubt."""
    rows = [_parsed(line.removeprefix(_BOM)) for line in lines]
    row = next((r for r in rows if isinstance(r, dict | list)), None)
    begins = next(iter(lines), b"").removeprefix(_BOM).strip()
    if isinstance(row, list) or begins == b"[" or (row is None and begins.startswith(b"[")):
        return None, "a JSON array, not one object a line; this makes lines of it: jq -c '.[]'"
    if row is not None and not row.keys() & {*(named or {}).values()} and (form := forms.other(row)):
        return None, f"JSON lines of {form}"
    if row is None and begins == b"{":
        return None, "JSON over several lines, not one object a line; this makes lines of it: jq -c ."
    if row is None:
        return (Shape("chat_jsonl"), "") if name.endswith(SUFFIXES) else (None, "no JSON on its first line")
    type_ = _type_of(_usual(row, named or {}), name)
    if not type_:
        return None, f"JSON lines with {', '.join(sorted(row))}"
    dicts = [r for r in rows if isinstance(r, dict)]
    messages = [m for r in dicts for v in r.values() if isinstance(v, list) for m in v if isinstance(m, dict)]
    other = {c: n for c, n in (named or {}).items() if n in row and c in _COLUMNS.get(type_, ())}
    return Shape(type_, _keys(dicts), _keys(messages), tuple(other.items())), ""


def _usual(row: dict[str, Any], named: Mapping[str, str]) -> dict[str, Any]:
    """The row with its columns under their usual names."""
    return row | {column: row[name] for column, name in named.items() if name in row}


def _type_of(row: dict[str, Any], name: str) -> str:
    if "messages" in row:
        return "chat_jsonl"
    if row.keys() & {"chosen", "rejected", "completions"}:
        return "preference_jsonl"
    if row.keys() & {"input", "output"}:
        return "prompt_jsonl"
    return "chat_jsonl" if name.endswith(SUFFIXES) and "prompt" not in row else ""


def _keys(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(sorted({k for r in rows for k in r if k.isidentifier()})[:64])


def _parsed(line: bytes) -> Any:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(line)


def scan(stream: BufferedIOBase, check: Checker, size: float = float("inf")) -> Scan:
    """Checks the lines that begin within the next `size` bytes of `stream`, in memory of one line.

    Whole lines are decoded a block at a time, and line by line only where something in the block is not as usual.
    """
    found = _Found(check)
    buffer, begun = bytearray(BUFFER), 0  # begun: bytes of a line whose end is not read yet
    space = memoryview(buffer)
    while size > 0 and (got := stream.readinto(space[begun : begun + int(min(BUFFER - begun, size))])):
        at, end = 0, begun + got
        while cut := buffer.rfind(b"\n", at, min(at + BLOCK, end)) + 1 or buffer.find(b"\n", at, end) + 1:
            found.block(buffer, at, cut)
            at = cut
        begun = end - at
        size -= got
        if begun == BUFFER:
            size -= found.rest(stream, bytes(buffer))
            begun = 0
        space[:begun] = space[at : at + begun]
    if begun:
        found.rest(stream, bytes(space[:begun]))
    return Scan(found.lines, found.problems, found.counts, found.blank)


class _Found:
    """What a scan has found until now."""

    def __init__(self, check: Checker) -> None:
        self.check, self.lines, self.blank = check, 0, 0
        self.problems: list[tuple[int, Severity, str]] = []
        self.counts: dict[Severity, int] = {"error": 0, "warning": 0}

    def block(self, buffer: bytearray, start: int, end: int) -> None:
        """Checks whole lines."""
        if usual := self.check.usual(buffer, start, end):
            self.follow()
            self.lines += usual
        else:
            for line in BytesIO(memoryview(buffer)[start:end]):
                self.line(line)

    def rest(self, stream: BufferedIOBase, begun: bytes) -> int:
        """Checks a line that has begun; how many bytes of the stream that took."""
        line = begun + stream.readline(MAX_LINE - len(begun))
        self.line(line)
        return len(line) - len(begun) + (skip_line(stream) if _cut(line) else 0)

    def line(self, line: bytes) -> None:
        """Checks a line."""
        if not line.strip():
            self.lines, self.blank = self.lines + 1, self.blank + 1
            return
        self.follow()
        cut: Problem = ("error", f"a line of more than {MAX_LINE >> 20} MiB")
        problem = cut if _cut(line) else self.check(line)
        self.lines += 1
        self.note(self.lines, problem)

    def follow(self) -> None:
        """What follows empty lines makes each of them a problem."""
        for number in range(self.lines - self.blank, self.lines):
            self.note(number + 1, EMPTY)
        self.blank = 0

    def note(self, number: int, problem: Problem | None) -> None:
        """Keeps a problem of a line, if there is one."""
        if problem:
            self.counts[problem[0]] += 1
            if self.counts[problem[0]] <= MAX_FAULTS:
                self.problems.append((number, *problem))


def _cut(line: bytes) -> bool:
    return len(line) == MAX_LINE and not line.endswith(b"\n")


def skip_line(stream: BufferedIOBase) -> int:
    """Reads to the end of the line; how many bytes that was."""
    skipped = 0
    for piece in iter(partial(stream.readline, BUFFER), b""):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


class Checker:
    """Says what is wrong with the lines of a shape."""

    def __init__(self, shape: Shape) -> None:
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_strict(shape))
        self._decode, self._decode_lines = decoder.decode, decoder.decode_lines
        self._good, self._shape = (
            {"chat_jsonl": _Orders(shape.grammar).good, "preference_jsonl": _differ}.get(shape.type, all),
            shape,
        )

    def __call__(self, line: bytes) -> Problem | None:
        try:
            if self._good([self._decode(line)]):
                return None
        except _UNDECODED:
            pass
        return _carefully(self._shape, line)

    def usual(self, buffer: bytearray, start: int, end: int) -> int:
        """How many lines the range of the buffer has, which ends with one; 0 where one may not be the usual good line.

        The decoder takes any space between objects for the end of a line. A newline between `}` and `{` is one.
        """
        try:
            rows = self._decode_lines(memoryview(buffer)[start:end])
        except _UNDECODED:
            return 0
        lines, at, find, begins = 1, start, buffer.find, buffer[start] == _OPEN
        while begins and (at := find(b"\n", at + 1, end - 1)) >= 0:
            begins = buffer[at - 1] == _CLOSED and buffer[at + 1] == _OPEN
            lines += 1
        return lines if begins and lines == len(rows) and self._good(rows) else 0


checker = lru_cache(16)(Checker)


class _Orders(dict[tuple[str, ...], bool]):
    """Whether the roles of a conversation are right, in their order; remembers as many as a data set has."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar

    def __missing__(self, roles: tuple[str, ...]) -> bool:
        good = _roles(roles, self.grammar) is None
        if len(self) < MAX_ORDERS:
            self[roles] = good
        return good

    def good(self, rows: list[Any]) -> bool:
        """Whether those of all conversations are."""
        return all(self[order] for order in {tuple([m.role for m in row.messages]) for row in rows})


_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Three = Literal["system", "user", "assistant"]
_Four = _Three | Literal["tool"]
_CALLS = ("tools", "tool_calls", "tool_call_id", "reasoning_content")


class _Part(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: Literal["text"]
    text: str


_Role = _Four | Literal["developer", "function"]


def _strict(shape: Shape) -> type[msgspec.Struct]:
    """What the usual good line is. Rarer good ones (tool calls without text) are for the careful look."""
    role = _Three if shape.grammar == "roles" else _Four if shape.grammar else _Role
    content = _Text if shape.grammar in _TEXTS else _Text | Annotated[list[_Part], msgspec.Meta(min_length=1)]
    looked_at = _CALLS if shape.grammar == "roles" else ()  # with care, where the library does so
    message = _struct({"role": role, "content": content}, tuple(k for k in shape.inner if k not in looked_at))
    messages = Annotated[list[message], msgspec.Meta(min_length=1)]  # type: ignore[valid-type]
    fields: dict[str, dict[str, Any]] = {
        "chat_jsonl": {"messages": messages},
        "preference_jsonl": {"prompt": _Text | messages, "chosen": _Text, "rejected": _Text},
        "prompt_jsonl": {"input": _Text, "output": _Text},
    }
    return _struct(fields[shape.type], tuple(k for k in shape.keys if k not in looked_at), shape.named)


def _struct(
    fields: dict[str, Any], more: tuple[str, ...], named: tuple[tuple[str, str], ...] = ()
) -> type[msgspec.Struct]:
    called = {column: dict(named).get(column, column) for column in fields}
    names = {f"more{i}": key for i, key in enumerate(more) if key not in called.values()}
    members: list[Any] = [*fields.items(), *((name, Any, None) for name in names)]
    return msgspec.defstruct("Row", members, rename=called | names, forbid_unknown_fields=True, gc=False)


def _differ(rows: list[Any]) -> bool:
    return all(row.chosen != row.rejected for row in rows)


def _roles(roles: tuple[str, ...], grammar: Grammar) -> Problem | None:
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


def _carefully(shape: Shape, line: bytes) -> Problem | None:
    type_, named = shape.type, dict(shape.named)
    if line.startswith(_BOM):
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
        return ("error", wrong) if wrong else _roles(tuple(m["role"] for m in row[messages]), shape.grammar)
    wrong = _prompt(_usual(row, named)) if type_ == "prompt_jsonl" else _preference(_usual(row, named))
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
    if grammar in _TEXTS and not isinstance(content, str):
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
