"""records/outcome.py: what is made of what engine, entrypoint and user say of an end. Whole runs are in tests/real."""

from __future__ import annotations

import msgspec
import pytest

from launcher.records.container_reports import NodeStatus, Reports
from launcher.records.outcome import IN_QUEUE, UNMADE, Cause, End, Ended, decide, former, refused
from launcher.records.run_directory import Outcome
from slipway.inbox import decode

STARTED = Ended(End.STOPPED)


def told(cause: str = "", reason: str = "", began: bool = True, damaged: str = "") -> Reports:
    status = NodeStatus(exit_code=0, cause=cause, reason=reason) if cause else None
    return Reports(status, {}, {}, "", [damaged] if damaged else [], began)


SAVED = "told to stop by TERM; exit code 0"
ENDS: list[tuple[Ended | None, int, Reports, str, Ended]] = [
    (None, 0, told("step", "exit code 0"), "", Ended(End.DONE)),
    (None, 0, told("step", "exit code 0"), "cancel", Ended(End.DONE)),
    (Ended(End.TIME_LIMIT), 0, told("step", "exit code 0"), "", Ended(End.DONE)),
    (None, 3, told("step", "exit code 3"), "", Ended(End.FAILED, "exit code 3")),
    (None, 3, told("step", "exit code 3"), "cancel", Ended(End.FAILED, "exit code 3")),
    (Ended(End.TIME_LIMIT), 3, told("step", "exit code 3"), "", Ended(End.FAILED, "exit code 3")),
    (None, 78, told("entrypoint", "no such mount"), "", Ended(End.REFUSED, "no such mount")),
    (None, 75, told("node", "Ray has lost n3"), "", Ended(End.NODE_FAILED, "Ray has lost n3")),
    (None, 137, told("memory", "the kernel"), "", Ended(End.OUT_OF_MEMORY, "the kernel")),
    (Ended(End.OUT_OF_MEMORY, "at the limit"), 1, told("step", "exit code 1"), "",
     Ended(End.OUT_OF_MEMORY, "at the limit; exit code 1")),
    (None, 130, told("signal", SAVED), "signal", Ended(End.STOPPED, SAVED)),
    (None, 143, told("signal", SAVED), "cancel", Ended(End.CANCELLED, SAVED)),
    (STARTED, 143, told("signal", SAVED), "cancel", Ended(End.CANCELLED, SAVED)),
    (Ended(End.TIME_LIMIT), 143, told("signal", SAVED), "", Ended(End.TIME_LIMIT, SAVED)),
    (Ended(End.PREEMPTED), 143, told("signal", SAVED), "", Ended(End.PREEMPTED, SAVED)),
    (Ended(End.NODE_FAILED), 0, told("signal", SAVED), "", Ended(End.NODE_FAILED, SAVED)),
    (Ended(End.NOT_STARTED, "on n3"), 143, told("signal", SAVED), "", Ended(End.NOT_STARTED, "on n3; the log's line")),
    # The entrypoint has said nothing.
    (None, 0, told(), "", Ended(End.DONE)),
    (None, 1, told(began=False), "", Ended(End.NOT_STARTED, "the log's line")),
    (None, 1, told(began=False), "cancel", Ended(End.CANCELLED, UNMADE)),
    (None, 143, told(began=False), "signal", Ended(End.STOPPED, UNMADE)),
    (Ended(End.CANCELLED, IN_QUEUE), 1, told(began=False), "", Ended(End.CANCELLED, IN_QUEUE)),
    (Ended(End.CANCELLED), 1, told(began=False), "cancel", Ended(End.CANCELLED, UNMADE)),
    (Ended(End.STOPPED, UNMADE), 143, told(began=False), "cancel", Ended(End.CANCELLED, UNMADE)),
    (Ended(End.TIME_LIMIT), 143, told(began=False), "", Ended(End.TIME_LIMIT, UNMADE)),
    (Ended(End.TIME_LIMIT), 143, told(), "", Ended(End.TIME_LIMIT)),
    (None, 137, told(), "signal", Ended(End.KILLED)),
    (None, 137, told(), "", Ended(End.KILLED, "by whom is not known")),
    (None, 3, told(), "", Ended(End.FAILED, "exit code 3, and its entrypoint has not said why")),
    (None, 3, told(began=False, damaged="container/0/status.json: is no JSON"), "",
     Ended(End.FAILED, "exit code 3, and what its entrypoint wrote cannot be read")),
    (Ended(End.REFUSED, "no secret"), 77, told(began=False), "", Ended(End.REFUSED, "no secret")),
    (Ended(End.LOST, "its script was killed"), 0, told(), "", Ended(End.LOST, "its script was killed")),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "code", "reports", "asked", "ended"), ENDS)
def test_every_end_is_decided_in_one_place(
    engine: Ended | None, code: int, reports: Reports, asked: str, ended: Ended
) -> None:
    assert decide(engine, code, reports, asked, "the log's line") == ended


def test_without_a_line_in_the_log_the_code_is_told() -> None:
    said = "its container did not start: it ended with 126 before its entrypoint could say why"
    assert decide(None, 126, told(began=False), "").reason == said


@pytest.mark.parametrize(("own", "code"), [(130, 130), (143, 143), (0, 143), (1, 143)])
def test_who_was_stopped_by_ctrl_c_ends_with_its_code(own: int, code: int) -> None:
    assert Ended(End.STOPPED).exit_code(own) == code


@pytest.mark.parametrize(
    ("code", "end"),
    [(78, End.REFUSED), (77, End.REFUSED), (73, End.REFUSED), (69, End.NOT_STARTED), (75, End.NODE_FAILED)],
)  # fmt: skip
def test_the_words_of_a_script_that_has_ended_by_itself(code: int, end: End) -> None:
    assert refused(code, "why") == Ended(end, "why")


@pytest.mark.parametrize(
    ("cause", "code", "word"),
    [
        ("step", 0, "done"), ("cancelled", 0, "done"), ("step", 3, "failed"), ("engine", 70, "failed"),
        ("signal", 130, "stopped"), ("signal", 137, "stopped"), ("cancelled", 143, "cancelled"),
        ("entrypoint", 78, "refused"), ("memory", 137, "out of memory"), ("launcher", 70, "never started"),
    ],
)  # fmt: skip
def test_an_outcome_that_was_recorded_before_there_were_ends(cause: Cause, code: int, word: str, tmp_path: str) -> None:
    text = msgspec.json.encode({"exit_code": code, "cause": cause, "reason": "as it was"})
    old = decode(text, Outcome, tmp_path)  # type: ignore[arg-type]
    assert (old.word, old.cause, old.reason) == (word, cause, "as it was")
    again = msgspec.json.decode(msgspec.json.encode(old), type=Outcome)
    assert again == old and again.word == word


def test_every_cause_has_an_end() -> None:
    assert {end.cause for end in End} == set(Cause.__args__)
    assert all(former(cause, 1) for cause in Cause.__args__)
