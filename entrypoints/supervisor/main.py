"""The states of a run on one node, in order (docs/ends.md)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable

from supervisor import alive, checks, ends, environment, network, outcome
from supervisor.ends import BROKEN, REFUSED, STOPPED, Cause, Ended, refusal, say, text_of
from supervisor.launchers import Launcher, Python, Torchrun, step_program
from supervisor.meeting import Meeting, find_converted
from supervisor.node import Node
from supervisor.processes import Child

EVERY = 1.0  # seconds between two rounds of the observers
GLANCE = 0.1


class Supervisor:
    """`mask`: the signals that were blocked when this program was started, and are for what it starts."""

    def __init__(self, env: dict[str, str], mask: Iterable[int]) -> None:
        self.started = ends.now()
        self.node = Node(env, mask)
        self.places = environment.Places(self.node)
        self.meeting = Meeting(self.node)
        self.launcher: Launcher | None = None
        self.step: Child | None = None
        self.step_code: int | None = None
        self.step_started = ""

    def run(self, words: list[str]) -> int:
        """The whole of it: the exit code."""
        try:
            self.preparing()
            self.verifying()
            launcher = self.launcher = launcher_of(self.node)
            port = self.meeting_others(launcher)
            step = self.starting(launcher, words, port)
            end = self.running(launcher, step)
        except Ended as e:
            end = e
        except Exception as e:  # noqa: BLE001 - whatever is wrong here, what runs is ended, and the launcher hears why
            end = _broken(e)
        return self.leaving(end)

    def preparing(self) -> None:
        self.node.own_umask()
        self.node.begin()
        self.node.hear_early()
        if self.node.settings.faults:
            raise refusal(*self.node.settings.faults)

    def verifying(self) -> None:
        """Says what runs, and refuses an image, mounts, a driver or GPUs that are not what was planned."""
        driver_file = environment.find_driver(self.node)
        for check in checks.checks(self.node, driver_file):
            checks.run(self.node, check)
        environment.site_libraries(self.node.env)
        environment.older_driver(self.node.env, driver_file)
        self.places.make()
        environment.check_secrets(self.node)

    def meeting_others(self, launcher: Launcher) -> str:
        """The port by which ranks find each other."""
        launcher.prepare()
        port = self.meeting.meet(launcher.port)
        if self.meeting.spare and not self.node.stopped:
            checks.all_reduce(self.node, self.meeting.spare)
        find_converted(self.node)
        return port

    def starting(self, launcher: Launcher, words: list[str], port: str) -> Child:
        command = launcher.command(step_program(words), port)
        self.oom_kills = oom_kills()
        if self.node.stopped:
            raise Ended(0, Cause.SIGNAL, f"told to stop by {self.node.stop.by} before the step started")
        self.step = step = launcher.start(command)
        self.step_started = ends.now()
        self.node.stop.begin(lambda: launcher.tell(step))
        return step

    def running(self, launcher: Launcher, step: Child) -> Ended:
        """Until the step is over: signals are served as they come, the stop goes on when it is due, observers look."""
        node, due = self.node, 0.0
        observers = [*launcher.observers(), *network.observers(node), *alive.observers(node)]
        while (code := launcher.over(step)) is None:
            node.children.wait(min(node.stop.remaining(), max(0.0, due - time.monotonic())))
            node.stop.advance()
            if time.monotonic() < due:
                continue
            due = time.monotonic() + EVERY
            for observe in observers:
                if end := observe():
                    raise end
        self.step_code = code
        launcher.settle(code)
        return self.describe(code)

    def describe(self, code: int) -> Ended:
        """How the step has ended, by its exit code and what it has left."""
        end = Ended(code, Cause.STEP, f"exit code {code}")
        if name := name_of_signal(code - 128):
            end.reason = f"ended by signal {name}"
            if name == "KILL" and oom_kills() > self.oom_kills:
                end.cause = Cause.MEMORY
        refused, reason = (text_of(f"{self.node.folder}/{name}") for name in ("refused", "reason"))
        if refused:  # a step program says no before it starts the library; torchrun makes 1 of it
            end = Ended(REFUSED, Cause.ENTRYPOINT, refused)
        elif reason:
            end.reason += f": {reason}"
        if self.node.stopped:
            return Ended(code, Cause.SIGNAL, f"told to stop by {self.node.stop.by}; {end.reason}")
        if code == 0 and self.node.settings.rank == 0:
            return outcome.looked_at(self.node.settings) or end
        return end

    def leaving(self, end: Ended) -> int:
        """Ends what is left, and writes how this ended; nothing is heard any more. The exit code."""
        node = self.node
        node.children.deaf = True
        if self.launcher:
            try:
                self.launcher.close(self.step)
            except OSError as e:
                say(f"what was beside the step: {e}")
        if self.step:
            self.end_leftovers()
        end.code = STOPPED.get(node.stop.by, end.code)
        self.places.remove()
        if node.folder:
            try:
                ends.write_status(node.folder, end, node.stop.by, self.step_code, self.started, self.step_started)
            except OSError as e:
                say(f"{node.folder}/status.json: cannot be written: {e.strerror}")
            if end.code and not node.stopped:
                ends.write_failed(node.settings.state, end.code, node.settings.rank, node.settings.name)
            self.meeting.leave()
        return end.code

    def end_leftovers(self) -> None:
        """What outlives the step's own process is ended too."""
        for name in ("TERM", "KILL"):
            left = self.node.members.pids()
            if not left:
                return
            say(f"{len(left)} process(es) outlived the step: {name}")
            self.node.members.kill(signal.Signals[f"SIG{name}"])
            deadline = time.monotonic() + self.node.settings.kill_seconds
            while time.monotonic() < deadline and self.node.members.pids():
                self.node.pause(GLANCE)


def launcher_of(node: Node) -> Launcher:
    """The one that the step names; a step of one process needs none. Raises Ended."""
    settings = node.settings
    if settings.launcher == "ray":
        from supervisor.ray_cluster import RayHead, RayWorker

        return RayWorker(node) if settings.rank else RayHead(node)
    world = settings.nodes * settings.procs
    if world == 1:
        return Python(node)
    if settings.launcher == "torchrun":
        return Torchrun(node)
    raise refusal(f"SLIPWAY_LAUNCHER={settings.launcher} with {world} processes: expected torchrun")


def oom_kills() -> int:
    """How often the kernel has killed for want of memory since this machine started, at any limit."""
    lines = (line.split() for line in text_of("/proc/vmstat").splitlines())
    return next((int(line[1]) for line in lines if line[0] == "oom_kill"), 0)


def name_of_signal(number: int) -> str:
    """Empty where there is no such signal."""
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return ""


def _broken(error: Exception) -> Ended:
    import traceback

    say("".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip("\n"))
    return Ended(BROKEN, Cause.ENTRYPOINT, f"the supervisor failed: {type(error).__name__}: {error}")
