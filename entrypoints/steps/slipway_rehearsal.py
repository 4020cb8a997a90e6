"""What rehearsals share: every row of the data through a library's own code, what is learned of it, what is told.

A library's program says how a row is read; nothing here knows a library.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import slipway_inputs
import slipway_step

WRONG = 65
MOST_FAULTS = 100  # that are told
SHOWN, SHOWN_TEXT = 3, 2000  # rows, and characters of each
PIECE = 64  # rows that a process takes at a time
EVERY = 2.0  # seconds between two lines of progress


class Row(NamedTuple):
    """One row as the library has it: its tokens, which of them are learned, and how many they were before a cut."""

    ids: list[int]
    learned: list[bool]
    whole: int


class Place(NamedTuple):
    """Where a row stands."""

    file: str
    line: int


Read = Callable[[int], Row]
_read: Read  # of the process that is forked: what it reads by needs no way through a pipe


def places(files: list[Path]) -> list[Place]:
    """Where each row stands; an empty line is none."""
    found = []
    for file in files:
        numbered = enumerate(slipway_inputs.lines([file]), 1)
        found += [Place(str(file), number) for number, line in numbered if line.strip()]
    return found


def said(wrong: BaseException) -> str:
    """An exception as its library words it."""
    return f"{type(wrong).__name__}: {wrong}"[:1000]


def unreadable(build: Callable[[list[bytes]], Any], lines: list[bytes]) -> dict[int, str]:
    """The rows for which a library cannot even load its file -> what it raises; `build` makes its dataset of some.

    By halves: a library reads a file as a whole, and says of no line.
    """
    found: dict[int, str] = {}
    todo = [(0, len(lines))]
    while todo and len(found) < MOST_FAULTS:
        start, end = todo.pop()
        try:
            build(lines[start:end])
        except Exception as e:  # noqa: BLE001 - whatever a library raises is what is wrong
            if end - start == 1:
                found[start] = said(e)
            else:
                middle = (start + end) // 2
                todo += [(middle, end), (start, middle)]
    return found


class Survey:
    """What became of the rows, by their number: `tokens` before a cut and `learned` after it, -1 where one is wrong."""

    def __init__(self, count: int) -> None:
        self.tokens, self.learned, self.kept = [-1] * count, [-1] * count, [0] * count
        self.faults: dict[int, str] = {}

    @property
    def good(self) -> list[int]:
        """Those without a fault."""
        return [row for row in range(len(self.tokens)) if row not in self.faults]


def survey(name: str, read: Read, count: int, vocabulary: int) -> Survey:
    """Every row, on all cores. `vocabulary`: of the model; a token beyond it is a fault of its row."""
    global _read
    _read = read
    found, told, begun = Survey(count), time.monotonic(), 0
    pieces = [(start, min(start + PIECE, count), vocabulary) for start in range(0, count, PIECE)]
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        for start, rows, faults in pool.imap_unordered(_piece, pieces):
            for row, (tokens, learned, kept) in enumerate(rows, start):
                found.tokens[row], found.learned[row], found.kept[row] = tokens, learned, kept
            found.faults.update(faults)
            begun += len(rows)
            if time.monotonic() - told > EVERY or begun == count:
                progress(name, begun, count)
                told = time.monotonic()
    return found


def progress(name: str, done: int, count: int) -> None:
    """A line that the launcher makes a bar of."""
    print(f"slipway: {name}: {done} of {count} rows", file=sys.stderr, flush=True)


def _piece(piece: tuple[int, int, int]) -> tuple[int, list[tuple[int, int, int]], dict[int, str]]:
    start, end, vocabulary = piece
    rows, faults = [], {}
    for number in range(start, end):
        try:
            row = _read(number)
        except Exception as e:  # noqa: BLE001 - whatever a library raises is what is wrong
            faults[number] = said(e)
            rows.append((-1, -1, 0))
            continue
        most = max(row.ids, default=0)
        if vocabulary and most >= vocabulary:
            faults[number] = f"has the token {most}; the model has {vocabulary} (vocab_size): another tokenizer's?"
        rows.append((row.whole, sum(row.learned), len(row.ids)))
    return start, rows, faults


class Data:
    """An input's rows. `limit`: tokens of one that the configuration allows; `beyond`: what becomes of longer ones.

    `learns`: whether anything is to be learned of them; `taken`: how many of them the run reads, if not all;
    `tokenizer`: one that decodes.
    """

    places: list[Place]
    tokenizer: Any
    limit: int | None = None
    beyond: str
    learns: bool = True
    taken: int | None = None

    def read(self, number: int) -> Row:
        """Raises what the library does."""
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids))


class Documents(Data):
    """Tokenized documents, a row each. `files`: of each pair of files the library's own reader."""

    beyond = "kept"  # rows are cut from all of them, one after the other

    def __init__(self, prefixes: list[str], files: list[Any], tokenizer: Any) -> None:
        self.files, self.tokenizer = files, tokenizer
        self.at = [(file, number) for file, there in enumerate(files) for number in range(len(there))]
        self.places = [Place(f"{prefixes[file]}.bin", number + 1) for file, number in self.at]

    def read(self, number: int) -> Row:
        file, document = self.at[number]
        ids = [int(token) for token in self.files[file][document]]
        return Row(ids, [True] * len(ids), len(ids))


def examine(name: str, data: Data, vocabulary: int) -> tuple[Survey, dict[str, Any]]:
    """Every row of an input, and what is told of it."""
    found = survey(name, data.read, len(data.places), vocabulary)
    shown = [sample(data.read(row), data.places[row], data.decode) for row in found.good[:SHOWN]]
    told = {"error": "", **summary(found, data.places, data.limit, data.beyond), "samples": shown, "taken": data.taken}
    return found, told if data.learns else {**told, "share": None}


def refused(wrong: BaseException, rows: int) -> dict[str, Any]:
    """What is told of an input that its library does not take at all."""
    traceback.print_exc()
    return {"error": said(wrong), "rows": rows, "faulty": 0}


def unloadable(faults: dict[int, str], where: list[Place]) -> dict[str, Any]:
    """What is told of an input that its library cannot load for some rows, whose faults are known (`unreadable`)."""
    told = [_fault(where[row], faults[row]) for row in sorted(faults)]
    return {"error": "", "rows": len(where), "faulty": len(faults), "faults": told}


class Steps:
    """The steps that a rehearsal takes: `models`, input -> the small model that stands for it; `losses` of each step.

    `did`: what else was done, a line each; `none`: why no steps were taken.
    """

    def __init__(self) -> None:
        self.models: dict[str, str] = {}
        self.losses: list[float] = []
        self.did: list[str] = []
        self.none = ""

    def take(self, make: Callable[[Steps], None], go: Callable[[Steps], None]) -> dict[str, Any]:
        """What is told of them. `make` makes the models: an architecture that cannot be made so small is no fault.

        Whatever `go` raises is one.
        """
        error = ""
        try:
            make(self)
        except Exception as e:  # noqa: BLE001 - whatever a library raises of an architecture
            traceback.print_exc()
            self.none = f"no small model of this architecture can be made: {said(e)}"
        else:
            try:
                go(self)
            except Exception as e:  # noqa: BLE001 - whatever the library raises is what is wrong
                traceback.print_exc()
                error = said(e)
        return {**vars(self), "error": error}


def no_steps(why: str) -> dict[str, Any]:
    """What is told where none were taken."""
    steps = Steps()
    return {**vars(steps), "none": why, "error": ""}


def leave(data: dict[str, dict[str, Any]], steps: dict[str, Any] | None) -> None:
    """Writes what was found; ends the program with 65 where the library has found faults."""
    slipway_step.write_result({"rehearsal": {"data": data, "steps": steps}})
    if any(told["faulty"] or told["error"] for told in data.values()) or (steps and steps["error"]):
        slipway_step.leave("reason", "the library found faults")
        sys.exit(WRONG)


def summary(found: Survey, where: list[Place], limit: int | None, beyond: str) -> dict[str, Any]:
    """What is told of an input's rows."""
    lengths = sorted(found.tokens[row] for row in found.good)
    silent = [row for row in found.good if found.learned[row] == 0]
    return {
        "rows": len(found.tokens),
        "faults": [_fault(where[row], what) for row, what in sorted(found.faults.items())[:MOST_FAULTS]],
        "faulty": len(found.faults),
        "tokens": {"p50": _percentile(lengths, 50), "p99": _percentile(lengths, 99), "most": lengths[-1]}
        if lengths
        else None,
        "share": sum(found.learned[row] for row in found.good) / max(1, sum(found.kept[row] for row in found.good)),
        "silent": len(silent),
        "silent_rows": [_place(where[row]) for row in silent[:SHOWN]],
        "limit": limit,
        "beyond": beyond,
        "longer": sum(tokens > limit for tokens in lengths) if limit else 0,
    }


def _percentile(ordered: list[int], part: int) -> int:
    return ordered[(len(ordered) - 1) * part // 100]


def _fault(where: Place, what: str) -> dict[str, Any]:
    return {**_place(where), "what": what}


def _place(where: Place) -> dict[str, Any]:
    return {"file": where.file, "line": where.line}


def sample(row: Row, where: Place, decode: Callable[[list[int]], str]) -> dict[str, Any]:
    """A row as text, in pieces that are learned or not."""
    pieces: list[dict[str, Any]] = []
    left, start = SHOWN_TEXT, 0
    while start < len(row.ids) and left > 0:
        end = next((n for n in range(start, len(row.ids)) if row.learned[n] != row.learned[start]), len(row.ids))
        text = decode(row.ids[start:end])
        pieces.append({"text": text[:left], "learned": row.learned[start]})
        left -= len(text)
        start = end
    return {**_place(where), "pieces": pieces, "whole": start >= len(row.ids) and left >= 0}


def some_rows(found: Survey, most: int, count: int) -> list[int]:
    """`count` rows to train on, of at most `most` tokens and with something to learn; again, where there are fewer."""
    useful = [row for row in found.good if found.learned[row] > 0]
    useful = [row for row in useful if found.kept[row] <= most] or sorted(useful, key=found.kept.__getitem__)[:count]
    return [useful[n % len(useful)] for n in range(count)] if useful else []


def write_rows(lines: list[bytes], rows: list[int], target: Path) -> Path:
    """Some rows as a file of their own, which is not there yet."""
    with target.open("xb") as file:
        file.writelines(lines[row].rstrip(b"\n") + b"\n" for row in rows)
    return target
