"""`launch exec` and `launch shell`: what people run themselves, in real containers of Docker, on a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import toy
from .support import PATIENCE, Done, Run, Tree

pytestmark = pytest.mark.real
LAUNCH = str(Path(sys.executable).parent / "launch")
CPU = ("automodel", "--flavour", "cpu")


class Terminal:
    """A person before a terminal of 33 lines and 111 columns, in which a launch runs."""

    def __init__(self, tree: Tree, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(tree.path)
            os.execve(LAUNCH, [LAUNCH, *words], tree.env | {"TERM": "xterm-256color"})
        self.size(33, 111)
        self.shown = ""

    def size(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, pattern: str) -> re.Match[str]:
        """What is shown next that matches; what comes behind it is looked at the next time."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.shown)):
            assert select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0], self.shown
            self.shown += os.read(self.fd, 65536).decode(errors="replace")
        self.shown = self.shown[found.end() :]
        return found

    def asked(self, command: str, answer: str) -> re.Match[str]:
        """Types a command at the prompt; the answer, which stands on a line that is not the command's echo."""
        self.until(r"[#$] $")
        self.type(f"{command}\n")
        return self.until(rf"\n[^\n]*?{answer}")

    def end(self) -> int:
        """Reads the rest; the launch's exit code."""
        try:
            while piece := os.read(self.fd, 65536):
                self.shown += piece.decode(errors="replace")
        except OSError:  # the last process that had it is gone
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def terminal(tree: Tree, *words: str) -> Iterator[Terminal]:
    opened = Terminal(tree, *words)
    try:
        yield opened
    finally:
        os.close(opened.fd)


def piped(tree: Tree, text: str, *words: str) -> Done:
    """A launch whose stdin is a script."""
    done = subprocess.run([LAUNCH, *words], input=text, cwd=tree.path, env=tree.env, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_command_in_a_pinned_image(tree: Tree, place: Path) -> None:
    """It has mounts, a secret and variables, starts in the first mount, and is a run with log, record and exit code."""
    for name in ("data", "fixed"):
        (place / name).mkdir()
        (place / name / "in").write_text(f"of {name}\n")
    (place / "token").write_text("s3cr3t")
    program = "import os, sys; print(os.getcwd(), open('/fixed/in').read().strip(), os.environ['COLOUR'], "
    program += (
        "len(os.environ['MY_TOKEN'])); open('out', 'w').write('made'); print(os.access('/fixed/in', 2)); sys.exit(5)"
    )
    mounts = ("--mount", f"{place}/data", "--mount", f"{place}/fixed:/fixed:ro", "--env", "COLOUR=blue")
    words = ("exec", *CPU, *mounts, "--secret", f"MY_TOKEN=file:{place}/token", "--", "python", "-c", program)
    done = tree.launch(*words)
    run = tree.run_of(done)
    assert (done.code, run.ended) == (5, (5, "step"))
    assert f"{place}/data of fixed blue 6\n" in done.out and done.out == run.log == tree.launch("logs", run.id).out
    assert (place / "data" / "out").read_text() == "made"
    assert run.record["plan"]["step"] == "exec/automodel" and "s3cr3t" not in json.dumps(run.record)
    assert tree.container(run) is None
    refused = tree.launch("resume", run.id)
    assert (refused.code, refused.out) == (64, "") and f"run {run.id} was a command, and no step" in refused.err


def test_a_command_that_is_cancelled(tree: Tree) -> None:
    detached = tree.launch("exec", *CPU, "--detach", "--", "bash", "-c", "echo here; sleep 1000")
    run = Run(tree.runs / detached.out.strip())
    tree.start("launch", "logs", "-f", run.id).await_line("here")
    assert tree.launch("cancel", run.id).code == 0
    assert run.ended == (143, "cancelled") and tree.container(run) is None


def test_a_shell_where_a_step_would_run(tree: Tree, place: Path) -> None:
    """On a terminal: its size, also when that changes, Ctrl-C, the step by hand, and the shell's own exit code."""
    before = tree.all_runs()
    with terminal(tree, "shell", *toy(place / "output", "lines=2")) as person:
        step = person.until(r"its step is started by hand with: ([^\r\n]+)")[1]
        assert person.asked("stty size", r"(\d+ \d+)\r")[1] == "33 111"
        person.size(44, 99)
        person.until(r"[#$] $")
        person.type("trap 'stty size' WINCH; sleep 1000\n")
        person.until("sleep 1000\r\n")
        (run,) = tree.since(before)
        assert "state      running\n" in tree.show(run).out
        person.type("\x03")
        assert person.asked("echo $SLIPWAY_STEP $? $(stty size)", r"shell/test/toy 130 (44 99)\r")
        assert person.asked(step, r"line 2\r")
        person.until(r"[#$] $")
        person.type("exit 3\n")
        assert person.end() == 3
        assert f"run        {run.id}: failed\r\n" in person.shown
    assert (place / "output" / "written").exists()
    assert run.ended == (3, "step") and tree.container(run) is None
    assert "entered" in run.events and run.record["plan"]["step"] == "shell/test/toy"


def test_a_terminal_that_is_closed_ends_the_run(tree: Tree, place: Path) -> None:
    before = tree.all_runs()
    with terminal(tree, "shell", *toy(place / "output")) as person:
        person.asked("echo he''re", "here")
    os.waitpid(person.pid, 0)
    (run,) = tree.since(before)
    assert run.ended == (143, "signal") and tree.container(run) is None


def test_a_shell_of_a_run(tree: Tree, place: Path) -> None:
    """It has that run's image and mounts, and what that has made, which it cannot change; and says what is drift."""
    (place / "model").mkdir()
    first = tree.run_of(tree.launch(*toy(place / "output")))
    script = "cat /output/written; touch /output/new || echo kept; echo $SLIPWAY_STEP; exit 4"
    done = piped(tree, script, "shell", first.id)
    run = tree.run_of(done)
    assert (done.code, done.out) == (4, "by the toy\nkept\nshell/test/toy\n")
    assert run.record["plan"]["image"] == first.record["plan"]["image"] and run.ended == (4, "step")
    assert sorted(p.name for p in (place / "output").iterdir()) == [".slipway-run", "written"]
    refused = tree.launch("shell", first.id, "--gpus", "1")
    assert (refused.code, refused.out) == (64, "") and "--gpus: the shell of a run is as that run was" in refused.err


def test_a_launcher_that_is_killed_leaves_a_run_that_is_cancelled(tree: Tree, place: Path) -> None:
    before = tree.all_runs()
    with terminal(tree, "shell", *toy(place / "output")) as person:
        person.asked("echo he''re", "here")
        os.kill(person.pid, signal.SIGKILL)
        os.waitpid(person.pid, 0)
    (run,) = tree.since(before)
    assert "state      running\n" in tree.show(run).out
    assert tree.launch("cancel", run.id).code == 0
    assert run.ended == (143, "cancelled") and tree.container(run) is None
