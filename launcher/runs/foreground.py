"""A launcher that stays with its run: the log to stdout, signals to the step, and the record at the end.

Two threads follow the log and await the end. The main one serves signals alone, so that a full disk, a reader that has
stopped or an engine that went away cannot make it deaf.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from launcher.engines import Connection
from launcher.planning.run_files import Prepared
from launcher.records import metrics
from launcher.records.run_directory import Record, Run
from launcher.runs import lifecycle
from slipway.console import say_now
from slipway.files import private

_SIGNAL_NAMES: dict[int, str] = {signal.SIGINT: "INT", signal.SIGTERM: "TERM"}


@dataclass(frozen=True)
class _Event:
    """What wakes the launcher of a run: a signal (its name), a line to say, the end of the log, or of the run.

    `error`: why that end cannot be awaited.
    """

    kind: Literal["signal", "line", "log over", "run over"]
    text: str = ""
    error: Exception | None = None


_Events = queue.SimpleQueue[_Event]


def run(prepared: Prepared, show: Callable[[bytes], None] | None = None) -> tuple[Run, Record]:
    """Submits and follows: the log goes to stdout as it comes, or to `show`; Ctrl-C and TERM go to the step.

    The first signal asks the step to stop (it may save a checkpoint), the third kills it. They are served until the
    engine says that the run has ended, whatever becomes of the log: following it is another thread's, and this one
    waits for nothing else.
    """
    events = _Events()
    # Before anything is submitted: a signal that comes while the container starts must reach it too.
    before = {s: signal.signal(s, lambda n, _: events.put(_Event("signal", _SIGNAL_NAMES[n]))) for s in _SIGNAL_NAMES}
    try:
        with lifecycle.submitted(prepared) as (run, engine):
            say_now(f"run {run.id}")
            copies = _copies(run, prepared) | {"stdout": show or _print}
            for follow in (partial(_stream, run, engine, events, copies), partial(_await_end, run, engine, events)):
                threading.Thread(target=follow, daemon=True).start()
            _serve(run, engine, events)
            return run, lifecycle.collect(run, engine)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(run: Run, engine: Connection, events: _Events) -> None:
    """Passes signals on until the run has ended and its log is told; a signal between these two ends the telling."""
    told, over = 0, set[str]()
    while over != {"log over", "run over"}:
        event = events.get()
        if event.error:
            raise event.error
        if event.kind == "line":
            say_now(event.text)
        elif event.kind != "signal":
            over.add(event.kind)
        elif "run over" in over:
            return
        else:
            told += 1
            _tell(run, engine, event.text, told)


def _tell(run: Run, engine: Connection, name: str, times: int) -> None:
    """Tells the step, before anything that could fail or wait."""
    engine.signal(run, name if times < 3 else "KILL")
    lifecycle.note(run, "signal", name=name if times < 3 else "KILL")
    advice = {1: "asked to stop; again to hurry", 2: "told again; once more to kill"}.get(times, "killed")
    say_now(f"{name}: {advice}")


def _await_end(run: Run, engine: Connection, events: _Events) -> None:
    try:
        while not engine.wait(run):
            time.sleep(lifecycle.START_POLL)
        events.put(_Event("run over"))
    except Exception as e:  # noqa: BLE001 - raised again where the run is looked after
        events.put(_Event("run over", error=e))


def _copies(run: Run, prepared: Prepared) -> dict[str, Callable[[bytes], None]]:
    """Where the log goes beside stdout, which may wait for its reader: logs/step.log where the engine keeps the log."""
    kept = {"the log's copy in the run directory": partial(_append, run.log)} if prepared.engine.KEEPS_LOG else {}
    return kept | {metrics.FILE: metrics.Follower(run, prepared.plan)}


def _stream(run: Run, engine: Connection, events: _Events, copies: dict[str, Callable[[bytes], None]]) -> None:
    """Copies the log until the container ends or the engine goes away. What fails is said once, and left out."""
    rest = f"the run goes on; `launch logs {run.id}` has all of its log"
    try:
        for piece in engine.logs(run, follow=True):
            for name, copy in list(copies.items()):
                try:
                    copy(piece)
                except OSError as e:
                    del copies[name]
                    why = "is closed" if isinstance(e, BrokenPipeError) else f"stopped: {e.strerror or e}"
                    events.put(_Event("line", f"{name} {why}; {rest}"))
    except Exception as e:  # noqa: BLE001 - whether the run goes on is not for the log to say
        events.put(_Event("line", f"the log is not followed any more: {e}; {rest}"))
    finally:
        events.put(_Event("log over"))


def _append(file: Path, piece: bytes) -> None:
    """Opened each time, so that a file or folder that somebody has removed is noticed."""
    with open(file, "ab", opener=private) as f:
        f.write(piece)


def _print(piece: bytes) -> None:
    """To stdout, past Python's buffer: at its end, the interpreter would wait for whoever holds that."""
    rest = memoryview(piece)
    while rest and sys.stdout is not None:  # None: it was closed before we began
        try:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
        except BlockingIOError:
            select.select([], [sys.stdout], [])
