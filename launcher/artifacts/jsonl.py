"""What one line of a JSON Lines file must hold, by type, and the way through a file's lines.

A line is decoded into a strict msgspec Struct: one that passes is good, and costs little. Any other is looked at
slowly and carefully, which finds the words for what is wrong, or that nothing is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from launcher.artifacts import forms
from launcher.artifacts.faults import MAX_FAULTS, fault
from launcher.artifacts.rows import BOM, TEXTS, Grammar, Problem, Shape, carefully, order, usual
from slipway.findings import Finding, Severity

MAX_LINE = 64 * 1024 * 1024  # bytes; a longer line is a fault, and is never held in memory
BUFFER = 256 * 1024  # bytes per read: more no longer fits the processor's cache and is slower
BLOCK = 64 * 1024  # bytes that are decoded at once, about, for the same reason
MAX_ORDERS = 1024
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")
_OPEN, _CLOSED = b"{}"

_COLUMNS = {
    "chat_jsonl": ("messages",), "preference_jsonl": ("prompt", "chosen", "rejected", "context", "completions"),
    "prompt_jsonl": ("input", "output"), "text_jsonl": ("text",),
}  # fmt: skip

EMPTY: Problem = ("error", "an empty line")
_UNDECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Scan(NamedTuple):
    """What was found in some lines: how many they were, the first problems (by line, from 1), and how many in all.

    `blank`: empty lines at the end, which are no problem where nothing follows.
    """

    lines: int
    problems: list[tuple[int, Severity, str]]
    counts: dict[Severity, int]
    blank: int = 0

    def faults(self, path: Path, before: int = 0) -> list[Finding]:
        """The problems as faults of `path`; `before`: lines of the file that stand before these."""
        return [fault(f"{path}:{before + n}", what, severity) for n, severity, what in self.problems]


def detect(lines: Iterable[bytes], name: str, named: Mapping[str, str] | None = None) -> tuple[Shape | None, str]:
    """The shape that the first lines show, else None and what they look like. A file's name decides only in doubt."""
    rows = [_parsed(line.removeprefix(BOM)) for line in lines]
    row = next((r for r in rows if isinstance(r, dict | list)), None)
    begins = next(iter(lines), b"").removeprefix(BOM).strip()
    if isinstance(row, list) or begins == b"[" or (row is None and begins.startswith(b"[")):
        return None, "a JSON array, not one object a line; this makes lines of it: jq -c '.[]'"
    text = (named or {}).get("text")  # the column of texts, where a word of the launch names it
    if row is not None and text and not any(isinstance(r, dict) and text in r for r in rows):
        return None, f"JSON lines without `{text}`; they have {', '.join(sorted(row))}"
    if row is not None and not row.keys() & {*(named or {}).values()} and (form := forms.other(row)):
        return None, f"JSON lines of {form}"
    if row is None and begins == b"{":
        return None, "JSON over several lines, not one object a line; this makes lines of it: jq -c ."
    if row is None:
        return (Shape("chat_jsonl"), "") if name.endswith(SUFFIXES) else (None, "no JSON on its first line")
    type_ = "text_jsonl" if text else _type_of(usual(row, named or {}), name)
    if not type_:
        return None, f"JSON lines with {', '.join(sorted(row))}"
    dicts = [r for r in rows if isinstance(r, dict)]
    messages = [m for r in dicts for v in r.values() if isinstance(v, list) for m in v if isinstance(m, dict)]
    other = {c: n for c, n in (named or {}).items() if (n in row or n == text) and c in _COLUMNS.get(type_, ())}
    return Shape(type_, _keys(dicts), _keys(messages), tuple(other.items())), ""


def _type_of(row: dict[str, Any], name: str) -> str:
    if "messages" in row:
        return "chat_jsonl"
    if row.keys() & {"chosen", "rejected", "completions"}:
        return "preference_jsonl"
    if row.keys() & {"input", "output"}:
        return "prompt_jsonl"
    if "text" in row:
        return "text_jsonl"
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
        return carefully(self._shape, line)

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
        good = order(roles, self.grammar) is None
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
    content = _Text if shape.grammar in TEXTS else _Text | Annotated[list[_Part], msgspec.Meta(min_length=1)]
    looked_at = _CALLS if shape.grammar == "roles" else ()  # with care, where the library does so
    message = _struct({"role": role, "content": content}, tuple(k for k in shape.inner if k not in looked_at))
    messages = Annotated[list[message], msgspec.Meta(min_length=1)]  # type: ignore[valid-type]
    fields: dict[str, dict[str, Any]] = {
        "chat_jsonl": {"messages": messages},
        "preference_jsonl": {"prompt": _Text | messages, "chosen": _Text, "rejected": _Text},
        "prompt_jsonl": {"input": _Text, "output": _Text},
        "text_jsonl": {"text": str},
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
