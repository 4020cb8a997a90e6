"""A launcher that stays with a shell: it starts the run, brings its user's terminal there, and sees it end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, NoReturn

import msgspec

from launcher.engines import Connection
from launcher.planning.run_files import Prepared
from launcher.records.run_directory import Record, Run
from launcher.runs import lifecycle
from slipway import inbox
from slipway.console import say
from slipway.errors import Exit, SlipwayError

PROGRAM = "/slipway/steps/run_shell.py"
WAITS = "container/shell.json"  # the step's process has begun to wait
HEARD = 10.0  # seconds in which a shell's end is told to the process that waits for it
_OVER = ("exited", "missing")


class _Waits(msgspec.Struct):
    """What run_shell.py says of itself. `pid`: as the container counts, which on Docker is not as the host does."""

    pid: Annotated[int, msgspec.Meta(gt=0, le=2**31 - 1)]


class _Told(Exception):
    """A signal that asks the run to end: its name."""


def run(prepared: Prepared, after: Sequence[str] = ()) -> tuple[Run, Record]:
    """Starts a run of `launch shell`, is its terminal, and collects it. Its exit code is the shell's.

    Ctrl-C before there is a shell, TERM and a terminal that is closed end the run. Raises SlipwayError 69 where the
    engine cannot enter the container.
    """
    with lifecycle.submitted(prepared, after) as (run, engine):
        say(f"run {run.id}")
        with _told():
            try:
                if waits := _await(run, engine):
                    _enter(run, engine, waits.pid, prepared)
            except _Told as told:
                lifecycle.note(run, "signal", name=str(told))
                say(f"{told}: the shell ends")
            finally:
                _end(run, engine, prepared.plan.graceful.seconds)
        return run, lifecycle.collect(run, engine)


@contextmanager
def _told() -> Iterator[None]:
    """INT, TERM and HUP raise _Told inside the block, the first of them alone."""
    names = {signal.SIGINT: "INT", signal.SIGTERM: "TERM", signal.SIGHUP: "HUP"}

    def tell(number: int, _: object) -> NoReturn:
        for each in names:
            signal.signal(each, signal.SIG_IGN)
        raise _Told(names[signal.Signals(number)])

    before = {number: signal.signal(number, tell) for number in names}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _await(run: Run, engine: Connection) -> _Waits | None:
    """Who waits for the shell, once it does; None where the run has ended before, which its log explains."""
    waited = ""
    while True:
        status = engine.status(run)  # before the file is looked for, which the run's last act may have been to write
        if found := inbox.read_json(run.path, WAITS, _Waits):
            return found
        if status.state in _OVER:
            sys.stderr.buffer.writelines(engine.logs(run, follow=False))
            return None
        if status.detail != waited:
            waited = status.detail
            say(f"{status.state} ({waited})")
        time.sleep(lifecycle.START_POLL)


def _enter(run: Run, engine: Connection, pid: int, prepared: Prepared) -> None:
    python = prepared.plan.environments["main"]["python"]
    words = engine.entering(run, pid, [python, "-B", PROGRAM, "enter"], os.isatty(0) and os.isatty(1))
    lifecycle.note(run, "entered")
    try:
        shell = subprocess.Popen(words)
    except FileNotFoundError as e:
        remedy = f"install it: {words[0]} brings a terminal into the container"
        raise SlipwayError(Exit.UNAVAILABLE, f"there is no {words[0]} here", remedy=remedy) from e
    try:
        shell.wait()
    except _Told:
        shell.terminate()
        raise


def _end(run: Run, engine: Connection, grace: float) -> None:
    """Returns when the run has ended: by itself, once the shell's end is told to its step; else it is told to."""
    told = run.had_event("signal")
    if not told and engine.wait(run, HEARD):
        return
    if not told:
        say("the shell has not told its end: the run is asked to stop")
    engine.signal(run, "TERM")
    if not engine.wait(run, HEARD + grace):
        engine.signal(run, "KILL")
    while not engine.wait(run):
        time.sleep(lifecycle.START_POLL)
