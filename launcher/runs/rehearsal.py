"""What a rehearsal found, of its run's result.json: typed, judged, and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec

from launcher.core.plan import Mount
from launcher.planning.rehearsal import Difference
from launcher.records.container_reports import Report
from launcher.records.run_directory import Record
from slipway import inbox
from slipway.errors import Exit, visible
from slipway.findings import Finding, error, warning

LEARNED = ("[[", "]]")  # around what is learned of a row


BEYOND = {
    "cut": "are cut",
    "kept": "stay whole, and take more memory than is planned",
    "dropped": "are left out",
    "masked": "are masked: nothing of them is learned",
}


class Fault(Report, frozen=True, kw_only=True):
    """What a library raised of a row, word for word."""

    file: str
    line: int
    what: str


class Place(Report, frozen=True, kw_only=True):
    file: str
    line: int


class Piece(Report, frozen=True, kw_only=True):
    text: str
    learned: bool


class Sample(Report, frozen=True, kw_only=True):
    """A row as text. `whole`: nothing of it was left out."""

    file: str
    line: int
    pieces: list[Piece]
    whole: bool


class Tokens(Report, frozen=True, kw_only=True):
    """Of the rows, before any is cut."""

    p50: int
    p99: int
    most: int


class Data(Report, frozen=True, kw_only=True):
    """An input's rows. `error`: why the library takes none; `faulty`: how many have a fault, of which some are told.

    `taken`: how many of them, from the first, the run reads; None: all. `share`: part of all tokens that is learned,
    None where nothing is to be learned of them; `silent`: rows of which nothing is; `limit`: tokens of a row that the
    configuration allows, `longer`: rows with more, and `beyond` what becomes of them.
    """

    error: str = ""
    rows: int
    faulty: int
    faults: list[Fault] = []
    tokens: Tokens | None = None
    share: float | None = 0.0
    taken: int | None = None
    silent: int = 0
    silent_rows: list[Place] = []
    limit: int | None = None
    beyond: str = "kept"
    longer: int = 0
    samples: list[Sample] = []


class Steps(Report, frozen=True, kw_only=True):
    """The steps that were taken. `error`: what the library raised; `losses`: of each, null where it is not finite.

    `models`: input -> the small model in its place; `did`: what else was done; `none`: why no steps were taken.
    """

    error: str
    losses: list[float | None]
    models: dict[str, str]
    did: list[str]
    none: str


class Rehearsal(Report, frozen=True, kw_only=True):
    """`steps`: None of a step that trains nothing."""

    data: dict[str, Data]
    steps: Steps | None


def result(record: Record) -> Rehearsal | None:
    """What a rehearsal's run has found; None where it did not come to that. Raises Damaged."""
    told = record.outcome.result.get("rehearsal") if record.outcome else None
    return inbox.convert(told, Rehearsal, record.directory) if told is not None else None


def on_host(found: Rehearsal, mounts: Sequence[Mount]) -> Rehearsal:
    """The same with this machine's paths in place of the container's."""

    def changed(value: Any) -> Any:
        if isinstance(value, Fault | Place | Sample):
            return msgspec.structs.replace(value, file=_host_path(value.file, mounts))
        return value

    def data(of: Data) -> Data:
        named = {f: [changed(v) for v in getattr(of, f)] for f in ("faults", "silent_rows", "samples")}
        return msgspec.structs.replace(of, **named)

    return msgspec.structs.replace(found, data={name: data(of) for name, of in found.data.items()})


def _host_path(path: str, mounts: Sequence[Mount]) -> str:
    for mount in mounts:
        if PurePosixPath(path).is_relative_to(mount.target):
            return str(PurePosixPath(mount.source) / PurePosixPath(path).relative_to(mount.target))
    return path


def findings(found: Rehearsal, library: str) -> list[Finding]:
    """What is wrong, the rows' faults first. `library`: who says so."""
    wrong = [f for name, data in found.data.items() for f in _of_data(name, data, library)]
    return [*wrong, *(_of_steps(found.steps, library) if found.steps else ())]


def _of_data(name: str, data: Data, library: str) -> Iterator[Finding]:
    if data.error:
        yield error(Exit.DATA, f"{name}=", f"{library} does not take it: {data.error}")
        return
    for fault in data.faults:
        yield error(Exit.DATA, f"{fault.file}:{fault.line}", fault.what)
    if more := data.faulty - len(data.faults):
        yield error(Exit.DATA, f"{name}=", f"{more} more rows have faults")
    good = data.rows - data.faulty
    if data.silent and data.silent >= good:
        what = f"none of its {good} rows has a token that is learned"
        remedy = "look at its first rows: a chat template that marks no answer, or a length that cuts all of them off"
        yield error(Exit.DATA, f"{name}=", what, remedy)
    elif data.silent:
        first = ", ".join(f"{p.file}:{p.line}" for p in data.silent_rows)
        more_rows = ", …" if data.silent > len(data.silent_rows) else ""
        what = f"{data.silent} of {good} rows have no token that is learned: {first}{more_rows}"
        yield warning(f"{name}=", what)
    if data.longer and data.limit:
        becomes = BEYOND.get(data.beyond, data.beyond)
        what = (
            f"{data.longer} of {good} rows have more than {data.limit} tokens (the most: {_most(data)}), and {becomes}"
        )
        yield warning(f"{name}=", what)


def _most(data: Data) -> str:
    return f"{data.tokens.most:,}" if data.tokens else "?"


def _of_steps(steps: Steps, library: str) -> Iterator[Finding]:
    if steps.error:
        yield error(Exit.DATA, "steps", f"{library} raised {steps.error}")
    elif steps.none:
        yield warning("steps", f"none were taken: {steps.none}")
    elif None in steps.losses:
        yield error(Exit.DATA, "steps", f"the loss of step {steps.losses.index(None) + 1} is not finite")


def text(found: Rehearsal, differs: Sequence[Difference]) -> str:
    """The report for people: the data, rows with what is learned of them, the steps, and what differs from the run."""
    lines = [line for name, data in found.data.items() for line in _data_lines(name, data)]
    if found.steps and found.steps.losses:
        losses = " -> ".join("not finite" if loss is None else f"{loss:.3f}" for loss in found.steps.losses)
        lines += [f"steps       loss {losses}"]
    lines += [f"steps       {line}" for line in found.steps.did] if found.steps else []
    width = max((len(d.what) for d in differs), default=0)
    lines += ["what the run has another way, which this does not show:"] if differs else []
    lines += [f"  {d.what:<{width}}  {d.rehearsal} here, there {d.run}" for d in differs]
    return "".join(f"{visible(line)}\n" for line in lines)


def _data_lines(name: str, data: Data) -> Iterator[str]:
    rows = f"{data.rows:,} rows"
    if data.taken is not None and data.taken < data.rows:
        rows += f", of which the first {data.taken:,} are taken"
    if data.tokens:
        rows += f"; tokens a row: {data.tokens.p50:,} (p50), {data.tokens.p99:,} (p99), {data.tokens.most:,} at most"
        rows += f"; {100 * data.share:.1f} % of them learned" if data.share is not None else ""
    yield f"{name:<11} {rows}"
    learns = data.share is not None
    for sample in data.samples:
        legend = f", learned is what stands in {' '.join(LEARNED)}" if learns else ""
        yield f"  {sample.file}:{sample.line}{legend}:"
        marks = LEARNED if learns else ("", "")
        marked = "".join(f"{marks[0]}{p.text}{marks[1]}" if p.learned else p.text for p in sample.pieces)
        yield from (f"    {line}" for line in marked.splitlines())
        if not sample.whole:
            yield "    …"
