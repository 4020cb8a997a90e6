"""Processes of this node: started, awaited, reaped and ended. Signals are taken here, one by one, and nowhere else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable

STOPS = {
    signal.SIGTERM: "TERM",
    signal.SIGURG: "TERM",
    signal.SIGINT: "INT",
}  # URG: what mounts images ends with a TERM
FATAL = {signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
AWAITED = {signal.SIGCHLD, *STOPS, *FATAL}
# What the interpreter ignores or handles, and a step does not.
RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
FileAction = tuple[object, ...]  # what posix_spawn does to a file
NO_INPUT: FileAction = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
GLANCE = 0.1  # seconds between two looks at what no signal tells


class Child:
    """A process that this program started. `code`: once it has ended, as a shell has it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def kill(self, number: int, group: bool = False) -> None:
        """Sends a signal, where it still runs; `group`: to all of its process group, which outlives it."""
        try:
            if group:
                os.killpg(self.pid, number)
            elif self.code is None:
                os.kill(self.pid, number)
        except OSError:
            pass


class Children:
    """All children. Whatever ends is reaped here, orphans included, as the first process of a container has to.

    All signals are blocked, and stay with the kernel until `wait` takes them: none is lost, and none comes between two
    lines. `on_stop`: called with TERM or INT; `on_fatal`: with a signal that ends a program at once.
    """

    def __init__(self, mask: Iterable[int], on_stop: Callable[[str], None], on_fatal: Callable[[int], None]) -> None:
        self._mask, self._on_stop, self._on_fatal = [*mask], on_stop, on_fatal
        self._running: dict[int, Child] = {}
        self.deaf = False  # signals are taken, and nothing is done about them
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody's exit code is kept

    def wait(self, seconds: float) -> bool:
        """Until a signal comes, at most that long. Whether a child of ours has ended."""
        told = signal.sigtimedwait(AWAITED, max(0.0, seconds))
        ended = self._reap()
        if told and not self.deaf:
            if told.si_signo in STOPS:
                self._on_stop(STOPS[signal.Signals(told.si_signo)])
            elif told.si_signo in FATAL:
                self._on_fatal(told.si_signo)
        return ended

    def _reap(self) -> bool:
        ours = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ours
            if pid == 0:
                return ours
            child = self._running.pop(pid, None)
            if child:
                child.code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                ours = True

    def start(
        self,
        words: list[str],
        env: dict[str, str],
        files: Iterable[FileAction] = (),
        umask: int | None = None,
        group: bool = True,
    ) -> Child:
        """Starts a program, found on PATH where it has no slash. `files`: what posix_spawn does to its files; `group`:
        it gets a process group of its own. Raises OSError where it cannot be started."""
        own = os.umask(umask) if umask is not None else None
        try:
            leader = 0 if group else os.getpgrp()
            pid = os.posix_spawnp(words[0], words, env, file_actions=[*files], setpgroup=leader,
                                  setsigmask=self._mask, setsigdef=RESET)  # fmt: skip
        finally:
            if own is not None:
                os.umask(own)
        child = self._running[pid] = Child(pid)
        return child

    def output_of(
        self, words: list[str], env: dict[str, str], stream: int = 1, given_up: Callable[[], bool] | None = None
    ) -> tuple[int, str]:
        """Runs a program to its end, which comes at once where it is given up: its exit code, and what it wrote to one
        of its streams. Raises OSError."""
        ours, its = os.pipe()
        os.set_blocking(ours, False)
        try:
            child = self.start(words, env, [(os.POSIX_SPAWN_DUP2, its, stream)], group=False)
        finally:
            os.close(its)
        said = b""
        while child.code is None:
            self.wait(GLANCE)
            said += _available(ours)
            if given_up and given_up():
                child.kill(signal.SIGKILL)
        os.close(ours)
        return child.code, said.decode(errors="replace").rstrip("\n")


def _available(stream: int) -> bytes:
    """All that stands in a pipe, whoever may still write there."""
    said = b""
    try:
        while piece := os.read(stream, 65536):
            said += piece
    except BlockingIOError:
        pass
    return said


class Members:
    """Every process of the step, also in other sessions (torchrun's workers) and orphans: they inherit the mark."""

    def __init__(self) -> None:
        self.mark = f"{os.getpid()}.{time.time_ns()}"

    def environment(self) -> dict[str, str]:
        return {"SLIPWAY_MARK": self.mark}

    def has(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                return f"SLIPWAY_MARK={self.mark}".encode() in f.read().split(b"\0")
        except OSError:  # it has ended, or is not ours to read
            return False

    def pids(self) -> list[int]:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and self.has(int(name))]

    def kill(self, number: int) -> None:
        send(self.pids(), number)


def send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:  # it has ended meanwhile
            pass
