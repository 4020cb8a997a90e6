"""How runs end: one noun for every engine, which says the state, the exit code and the cause line of each end.

Engines return an `Ended` where they know more than the entrypoint; `decide` makes one of all that is known; records,
`launch show`, `launch runs` and their JSON print its words. docs/ends.md is its table, and tested against it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from launcher.records.container_reports import Reports
from slipway.errors import Exit

Cause = Literal["step", "signal", "cancelled", "entrypoint", "engine", "node", "memory", "launcher", "gate"]
OWN = None  # the exit code is the step's, or that of the script that refused
INT, KILL, TERM = 130, 137, 143
IN_QUEUE, UNMADE = "while it waited in the queue", "before its container was made"


class End(Enum):
    """Each with its state (the value), whose the exit code is, the code, and what is said of it first."""

    cause: Cause
    code: int | None
    line: str

    def __new__(cls, state: str, cause: Cause, code: int | None, line: str) -> End:
        made = object.__new__(cls)
        made._value_ = state
        made.cause, made.code, made.line = cause, code, line
        return made

    DONE = "done", "step", int(Exit.OK), "done"
    FAILED = "failed", "step", OWN, "the step failed"
    REFUSED = "refused", "entrypoint", OWN, "refused"
    NOT_MET = "not met", "gate", int(Exit.NOT_MET), "it has not come to what was expected"
    NEVER_STARTED = "never started", "launcher", int(Exit.INTERNAL), "the launcher died before it was started"
    NOT_STARTED = "not started", "engine", int(Exit.UNAVAILABLE), "its container did not start"
    OUT_OF_MEMORY = "out of memory", "memory", KILL, "killed: out of memory"
    NODE_FAILED = "node failed", "node", int(Exit.TRY_AGAIN), "a node failed"
    STALLED = "stalled", "step", int(Exit.TRY_AGAIN), "it stood still"
    TIME_LIMIT = "time limit", "signal", TERM, "the time limit ended it"
    PREEMPTED = "preempted", "signal", TERM, "a job of higher priority took its place"
    CANCELLED = "cancelled", "cancelled", TERM, "cancelled"
    STOPPED = "stopped", "signal", OWN, "stopped"
    KILLED = "killed", "signal", KILL, "killed before it could save"
    LOST = "lost", "engine", int(Exit.INTERNAL), "nobody knows how it ended"


# What a step was told, and may have answered by ending well, or by failing for a reason of its own.
_TOLD = {End.STOPPED, End.TIME_LIMIT, End.PREEMPTED}
# By what an entrypoint calls the cause, in status.json.
_WORDS = {"signal": End.STOPPED, "entrypoint": End.REFUSED, "node": End.NODE_FAILED, "memory": End.OUT_OF_MEMORY,
          "stalled": End.STALLED, "gate": End.NOT_MET}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """An end, and what else is known of it, in words for people."""

    end: End
    detail: str = ""

    @property
    def reason(self) -> str:
        """The cause line."""
        return f"{self.end.line}: {self.detail}" if self.detail else self.end.line

    def exit_code(self, own: int) -> int:
        """The end's, else `own`: of the step, or the script."""
        if self.end is End.STOPPED:
            return INT if own == INT else TERM
        return own if self.end.code is OWN else self.end.code


def refused(code: int, said: str) -> Ended:
    """Of a script around the container that has ended with `code` and its own words: 69 and 75 are no refusals."""
    ends = {int(Exit.UNAVAILABLE): End.NOT_STARTED, int(Exit.TRY_AGAIN): End.NODE_FAILED}
    return Ended(ends.get(code, End.REFUSED), said)


def decide(engine: Ended | None, code: int, told: Reports, asked: str, log: str = "") -> Ended:
    """What became of a run that has ended with `code`.

    `engine`: what that knows of it; `asked`: `cancel` by `launch cancel`, `signal` by a signal to the launcher; `log`:
    what in its log says why the container did not start. The entrypoint's word counts, unless the engine knows more.
    """
    wrote = told.status
    if wrote is None or (engine and engine.end is End.NOT_STARTED):  # on other nodes one may have begun
        return _silent(engine, code, told, asked, log)
    word = _WORDS.get(wrote.cause, End.DONE if code == 0 else End.FAILED)
    if engine and engine.end in _TOLD and word is not End.STOPPED:
        engine = None
    end = engine.end if engine else word
    if end is End.STOPPED and asked == "cancel":
        end = End.CANCELLED
    return Ended(end) if end is End.DONE else Ended(end, _joined(engine, wrote.reason))


def _joined(engine: Ended | None, said: str) -> str:
    return "; ".join(filter(None, [engine.detail if engine else "", said]))


def _silent(engine: Ended | None, code: int, told: Reports, asked: str, log: str) -> Ended:
    """Of one whose entrypoint has said nothing."""
    unmade = "" if told.began else UNMADE
    if engine:
        end = End.CANCELLED if engine.end is End.STOPPED and asked == "cancel" else engine.end
        if end in {*_TOLD, End.CANCELLED}:
            return Ended(end, engine.detail or unmade)
        return Ended(end, _joined(engine, log if end is End.NOT_STARTED else ""))
    if code == 0:
        return Ended(End.DONE)
    if asked and unmade:
        return Ended(End.CANCELLED if asked == "cancel" else End.STOPPED, unmade)
    if code == KILL and (asked or told.began):
        return Ended(End.KILLED, "" if asked else "by whom is not known")
    unread = any("/status.json: " in what for what in told.damaged)
    if unmade and not unread:
        return Ended(End.NOT_STARTED, log or f"it ended with {code} before its entrypoint could say why")
    why = "what its entrypoint wrote cannot be read" if unread else "its entrypoint has not said why"
    return Ended(End.FAILED, f"exit code {code}, and {why}")


def former(cause: Cause, code: int) -> End:
    """Of a record that was written when there were only causes."""
    if code == 0:
        return End.DONE
    ends = {"step": End.FAILED, "engine": End.FAILED} | {end.cause: end for end in (
        End.STOPPED, End.CANCELLED, End.REFUSED, End.OUT_OF_MEMORY, End.NODE_FAILED, End.NEVER_STARTED,
        End.NOT_MET)}  # fmt: skip
    return ends[cause]
