"""launcher/engines/early.py: a signal for a container that may not be listening yet is heard, and heard once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from helpers import until

from launcher.engines import early
from slipway.errors import Exit, SlipwayError


class Sent:
    """Counts what was sent, and lets a test wait for it."""

    def __init__(self, error: SlipwayError | None = None) -> None:
        self.times, self.error, self.came = 0, error, threading.Event()

    def __call__(self) -> None:
        self.times += 1
        self.came.set()
        if self.error:
            raise self.error


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "container").mkdir()
    return tmp_path


def begin(run: Path) -> None:
    (run / "container" / "0" / "ranks").mkdir(parents=True)


def over() -> bool:
    """Nobody waits any more."""
    return not any(thread.name == early.THREAD for thread in threading.enumerate())


def test_an_entrypoint_that_has_begun_is_told_at_once(run: Path) -> None:
    begin(run)
    early.send(run, "TERM", sent := Sent())
    assert sent.times == 1 and not (run / "container" / "told").exists()


def test_what_the_entrypoint_takes_is_not_sent(run: Path) -> None:
    early.send(run, "INT", sent := Sent())
    told = run / "container" / "told"
    assert told.read_text() == "INT" and told.stat().st_mode & 0o777 == 0o600
    told.rename(run / "taken")
    begin(run)
    until(over)
    assert sent.times == 0


def test_what_it_has_not_taken_when_it_has_begun_is_sent(run: Path) -> None:
    early.send(run, "INT", sent := Sent())
    begin(run)
    until(over)
    assert sent.times == 1 and not (run / "container" / "told").exists()


def test_where_no_begin_is_ever_seen_it_is_sent_after_a_while(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "PATIENCE", 0)
    early.send(run, "TERM", sent := Sent())
    assert sent.came.wait(20)
    until(over)


def test_where_it_cannot_be_written_it_is_sent(run: Path) -> None:
    (run / "container").rmdir()
    (run / "container").touch()
    early.send(run, "TERM", sent := Sent())
    assert sent.times == 1


def test_why_it_could_not_be_sent_is_said(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    early.send(run, "INT", Sent(SlipwayError(Exit.UNAVAILABLE, "the engine went away")))
    begin(run)
    until(over)
    assert "error: the engine went away" in capfd.readouterr().err
