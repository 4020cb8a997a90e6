"""Numbers of an artifact's rows: how many, of which roles, how long, and which are there twice. Reads all of them."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from launcher.artifacts import compressed, jsonl, tokens
from launcher.artifacts.duplicates import Duplicates
from launcher.artifacts.faults import MAX_FAULTS, fault
from slipway.errors import visible
from slipway.findings import Finding
from slipway.yamldoc import Noun

BATCH = 1000  # rows whose tokens are counted at once
SHOWN = 5  # rows that are named


class Lengths(Noun, frozen=True, kw_only=True):
    """Tokens of a row: at most as many in half of the rows, in 99 of 100, and in all. `total` of all rows."""

    p50: int
    p99: int
    most: int
    total: int


class Numbers(Noun, frozen=True, kw_only=True):
    """Of the rows of one artifact. `roles`: messages of each role; `duplicates`: rows that came before, of which
    `repeated` names the first with the row that it repeats. `over`: rows of more than `length` tokens, the first of
    which are `long`. `untold`: rows that have no number of tokens; `faults` says why.
    """

    rows: int
    roles: dict[str, int] = {}
    duplicates: int = 0
    repeated: list[tuple[str, str]] = []
    tokens: Lengths | None = None
    length: int | None = None
    over: int | None = None
    long: list[str] = []
    untold: int = 0
    faults: list[Finding] = []


class _Row(NamedTuple):
    file: Path
    line: int
    raw: bytes
    value: dict[str, Any]


def of_files(files: Sequence[Path], type_: str, tokenizer: tokens.Tokenizer | None, length: int | None) -> Numbers:
    """Of JSON Lines, packed or not. Lines that are no JSON object, or too long, are no rows: `launch check` names them.

    Raises SlipwayError 65 where rows have to be rendered and the tokenizer has no chat template, and OSError.
    """
    roles: Counter[str] = Counter()
    places = _Places()
    measured = _Measured(type_, tokenizer, length)
    with Duplicates() as duplicates:
        for row in _rows(files):
            places.add(row.file, row.line)
            duplicates.add(row.raw)
            roles.update(_roles(row.value))
            measured.add(row)
        measured.finish()
        count, first = duplicates.found(SHOWN)
    repeated = [(places.of(number), places.of(before)) for number, before in first]
    return Numbers(
        rows=places.rows, roles=dict(sorted(roles.items())), duplicates=count, repeated=repeated,
        tokens=measured.lengths(), length=length, over=measured.over if tokenizer and length else None,
        long=measured.long, untold=measured.untold, faults=measured.faults,
    )  # fmt: skip


def _rows(files: Sequence[Path]) -> Iterator[_Row]:
    for file in files:
        with compressed.opened(file) as stream:
            number = 0
            while line := stream.readline(jsonl.MAX_LINE):
                number += 1
                if not line.endswith(b"\n") and len(line) == jsonl.MAX_LINE:
                    jsonl.skip_line(stream)
                    continue
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    raw = line.strip()
                    yield _Row(file, number, raw, msgspec.json.decode(raw, type=dict[str, Any]))


def _roles(row: dict[str, Any]) -> Iterator[str]:
    """Of every message, wherever a row has any."""
    for value in row.values():
        for message in value if isinstance(value, list) else ():
            if isinstance(message, dict) and isinstance(role := message.get("role"), str):
                yield role


class _Places:
    """Which row stands where, as far as lines follow each other: one number for each stretch of rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._starts: list[int] = []
        self._files: list[tuple[Path, int]] = []
        self._next: tuple[Path, int] | None = None

    def add(self, file: Path, line: int) -> None:
        if (file, line) != self._next:
            self._starts.append(self.rows)
            self._files.append((file, line))
        self.rows += 1
        self._next = (file, line + 1)

    def of(self, row: int) -> str:
        at = bisect_right(self._starts, row) - 1
        file, line = self._files[at]
        return f"{file}:{line + row - self._starts[at]}"


class _Measured:
    """The tokens of rows, a batch at a time; how many rows have which number is all that is kept."""

    def __init__(self, type_: str, tokenizer: tokens.Tokenizer | None, length: int | None) -> None:
        self.type, self.tokenizer, self.length = type_, tokenizer, length
        self.counts: Counter[int] = Counter()
        self.over = self.untold = 0
        self.long: list[str] = []
        self.faults: list[Finding] = []
        self.waiting: list[tuple[str, list[str]]] = []

    def add(self, row: _Row) -> None:
        if self.tokenizer is None:
            return
        place = f"{row.file}:{row.line}"
        try:
            self.waiting.append((place, list(tokens.texts_of(self.tokenizer, self.type, row.value))))
        except tokens.Refused as e:
            self._refused(place, f"the chat template refuses it: {e}")
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            self._refused(place, f"has no text to count: {type(e).__name__}: {e}")
        if len(self.waiting) >= BATCH:
            self.finish()

    def _refused(self, place: str, what: str) -> None:
        self.untold += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault(place, what))

    def finish(self) -> None:
        if not self.waiting or self.tokenizer is None:
            return
        lengths = iter(self.tokenizer.lengths([text for _, texts in self.waiting for text in texts]))
        for place, texts in self.waiting:
            most = max((next(lengths) for _ in texts), default=0)
            self.counts[most] += 1
            if self.length is not None and most > self.length:
                self.over += 1
                self.long += [f"{place} ({most:,})"] * (len(self.long) < SHOWN)
        self.waiting = []

    def lengths(self) -> Lengths | None:
        if not self.counts:
            return None
        found = sorted(self.counts.items())
        rows = sum(self.counts.values())

        def within(part: float) -> int:
            seen = 0
            return next(n for n, count in found if (seen := seen + count) >= part * rows)

        total = sum(n * count for n, count in found)
        return Lengths(p50=within(0.5), p99=within(0.99), most=found[-1][0], total=total)


def describe(numbers: Numbers) -> list[str]:
    """The lines that `launch check` prints of them."""
    lines = [f"  rows: {numbers.rows:,}"]
    if numbers.roles:
        lines.append(f"  messages: {', '.join(f'{role} {count:,}' for role, count in numbers.roles.items())}")
    if told := numbers.tokens:
        lines.append(
            f"  tokens a row: {told.p50:,} (p50), {told.p99:,} (p99), {told.most:,} at most; {told.total:,} in all"
        )
    if numbers.over is not None:
        some = f": {', '.join(numbers.long)}" if numbers.long else ""
        lines.append(f"  rows of more than {numbers.length:,} tokens: {numbers.over:,}{some}")
    lines.append(f"  rows that came before, byte for byte: {numbers.duplicates:,}")
    lines += [f"    {row} repeats {before}" for row, before in numbers.repeated]
    faults = [f"  {f.severity}: {f.where}: {f.what}" for f in numbers.faults]
    if rest := numbers.untold - len(faults):
        faults.append(f"  and {rest:,} more rows without a number of tokens")
    return [visible(line) for line in [*lines, *faults]]
