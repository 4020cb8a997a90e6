"""Logs as they lie in a run directory, read as what processes said: lines without prefixes, exceptions, ranks. Pure.

Ranks and actors of Ray write at the same time into one log, so a traceback's lines stand apart from each other: each is
known by its prefix, `[rank3]: ` (torch's own since 2.2) or `(Worker pid=7, ip=10.0.0.1) ` (Ray's).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from slipway.yamldoc import Noun

LONGEST, READ = 400, 2000  # characters of a line that are quoted, and that are read
_PREFIX = re.compile(
    r"\[(?P<rank>rank\d+)\]:\s?|\[default\d+\]:\s?|\((?P<actor>[^()]{0,80}pid=\d+(?:, ip=[\w.:]+)?)\) ?|node-\d+\| "
)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BEGINS = re.compile(r"[| +]*Traceback \(most recent call last\):$|Exception raised in creation task: ")
_CHAIN = frozenset({
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
})  # fmt: skip
_RAISED = re.compile(r"(?:[A-Za-z_]\w{0,80}\.){0,12}(?P<name>[A-Z]\w{0,80})(?:\(\w{1,80}\))?(?:: .*)?$")
_REPEATED = " [repeated "  # how often Ray has seen a line on other nodes
# Of torchrun: that a process has failed, which is no cause; of Ray: the same, of an actor.
_SUMMARIES = frozenset({"ChildFailedError", "SignalException", "ActorDiedError", "RayActorError", "RayTaskError"})
# A step that was trained: what stands before the last but one of these was outlived.
_PROGRESS = re.compile(r"\bstep \d+/\d+ \||\biteration +\d+/ *\d+|=+ Step \d+/\d+ =+")
_FIRST_RANK = re.compile(r"Root Cause \(first observed failure\):(?:\n.*){1,6}?\n\W*rank\s*: (\d+)")
_NCCL = re.compile(
    r"\[(?:PG (?P<group>[^\]\n]{0,80}?) )?Rank (?P<rank>\d+)\] (?:Watchdog caught.*?SeqNum=(?P<at>\d+)|"
    r"Exception.*?last enqueued NCCL work: (?P<given>\d+), last completed NCCL work: (?P<done>\d+))"
)


class Raised(Noun, frozen=True, kw_only=True):
    """What ended a process. `who`: its rank, or actor of Ray; `line`: 0 where the begin of the log was not read.

    `first`: the exception that it came of, or that was being handled.
    """

    text: str
    file: str
    line: int
    who: str = ""
    first: str = ""


class Log:
    """One file's end. `whole`: nothing stands before it, so that its lines have numbers; `plain`: without prefixes."""

    def __init__(self, file: str, lines: list[str], whole: bool = True) -> None:
        self.file, self.lines, self.whole = file, lines, whole
        self.owners, self.plain = list[str](), list[str]()
        for line in lines:
            said, who = plain(line[:READ])
            self.plain.append(said)
            self.owners.append(who)
        self.text = "\n".join(self.plain)
        steps = [at for at, line in enumerate(self.plain) if _PROGRESS.search(line)]
        self.outlived = steps[-2] if len(steps) > 1 else 0  # what stands before was followed by two steps of training

    def number(self, at: int) -> int:
        """Of the line at an index, from 1 on; 0 where what stands before was not read."""
        return at + 1 if self.whole else 0


@dataclass
class _Traceback:
    """One that is being read: the exceptions so far, the last one's place, and whether its frames are still told."""

    chain: list[str] = field(default_factory=list)
    at: int = 0
    frames: bool = True
    linked: bool = False

    def takes(self, line: str, at: int) -> bool:
        """Whether a line of the same process may belong to it."""
        if line in _CHAIN:
            self.linked = True
        elif line[:1].isspace():
            self.frames = self.frames or line.startswith("  File ")
        elif self.frames and _name(line):
            if self.chain and "ray::" in self.chain[-1] and not self.linked:
                self.chain.pop()  # Ray quotes the traceback of the process that it speaks of
            self.chain.append(line)
            self.at, self.frames, self.linked = at, False, False
        elif line:
            return self.frames
        return True


def plain(line: str) -> tuple[str, str]:
    """A line without colours and prefixes, and whose it is."""
    if "\x1b" in line:
        line = _COLOUR.sub("", line)
    who = ""
    while match := _PREFIX.match(line):
        who = match["rank"] or match["actor"] or who
        line = line[match.end() :]
    return line.partition(_REPEATED)[0], who


def exceptions(log: Log) -> list[Raised]:
    """What processes were ended by, in the order in which they told it; what training outlived is none."""
    found: list[tuple[int, Raised]] = []
    reading: dict[str, _Traceback] = {}
    for at, (line, who) in enumerate(zip(log.plain, log.owners, strict=True)):
        begun = reading.get(who)
        if _BEGINS.match(line):
            if at and "Exception ignored in" in log.plain[at - 1]:
                continue
            if begun and begun.chain and not begun.linked:
                found += _raised(begun, log, who)
                begun = None
            reading[who] = begun = begun or _Traceback()
            begun.frames = True
        elif begun and not begun.takes(line, at):
            found += _raised(reading.pop(who), log, who)
    found += [raised for who, begun in reading.items() for raised in _raised(begun, log, who)]
    return [raised for at, raised in sorted(found, key=lambda each: each[0]) if at >= log.outlived]


def _raised(read: _Traceback, log: Log, who: str) -> Iterator[tuple[int, Raised]]:
    told = [text for text in read.chain if _name(text) not in _SUMMARIES]
    if told:
        first = told[0][:LONGEST] if told[0] != told[-1] else ""
        who = who.replace("rank", "rank ") if who.startswith("rank") else who
        text = told[-1].strip()[:LONGEST]
        yield read.at, Raised(text=text, file=log.file, line=log.number(read.at), who=who, first=first)


def _name(line: str) -> str:
    """Of the exception that a traceback's last line tells; empty for a line of a log, `WARNING: …`."""
    match = _RAISED.match(line)
    return match["name"] if match and not match["name"].isupper() else ""


def first_rank(log: Log) -> int | None:
    """The rank that torchrun saw fail first."""
    match = _FIRST_RANK.search(log.text)
    return int(match[1]) if match else None


def last_rank(logs: list[Log], world: int) -> str:
    """Which rank kept the others waiting, by what NCCL's watchdogs say of their collectives; empty where none does.

    `world`: how many ranks there are, 0 where that is not known. The process group of which most was said counts.
    """
    at: dict[str, dict[int, int]] = {}
    waited: set[int] = set()
    for log in logs:
        for match in _NCCL.finditer(log.text):
            rank = int(match["rank"])
            waited.add(rank)
            if match["given"]:
                at.setdefault(match["group"] or "", {})[rank] = int(match["given"])
    silent = sorted(set(range(world)) - waited) if waited else []
    if silent and len(silent) <= len(waited):
        return f"{_ranks(silent)} did not wait there, {len(waited)} of {world} ranks did"
    group = max(at.values(), key=len, default={})
    least = min(group.values(), default=0)
    late = sorted(rank for rank, number in group.items() if number == least)
    if group and len(late) < len(group):
        return f"{_ranks(late)} came last: {least} collectives begun, others {max(group.values())}"
    return f"all of the {len(waited)} ranks that told it waited at the same one" if len(waited) > 1 else ""


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"
